"""Every path through the tools under the address and undefined-behaviour sanitizers, leaks included."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Literal

import pytest

from zdlab.traffic.command import TrafficSpec

if TYPE_CHECKING:
    from tests.namespace.traffic.conftest import TrafficRun

V4, V6 = "10.77.0.2", "fd77::2"


@pytest.mark.parametrize(
    "spec",
    [
        TrafficSpec("tcp_stream", V4, flows=200, threads=3, seconds=0.5, samples=True, interval=0.1),
        TrafficSpec("tcp_stream", V6, flows=20, threads=30, seconds=0.3, extra=("--no-cork", "--skip-rx-copy")),
        TrafficSpec("tcp_stream", V4, flows=20, seconds=0.3, extra=("-r", "-w", "-D", "1ms", "-U")),
        TrafficSpec("tcp_stream", V4, flows=20, seconds=0.3, extra=("-M", "--time-wait", "--start-jitter=0.1")),
        TrafficSpec("tcp_stream", V4, flows=20, seconds=0.3, local_hosts=("10.77.0.1",), num_ports=4),
        TrafficSpec("tcp_stream", V6, flows=20, seconds=0.3, local_hosts=("fd77::1",), extra=("-m", "1mbit")),
        TrafficSpec("tcp_stream", V4, flows=300, seconds=0.3, extra=("--async-connect", "--source-port=20000")),
        TrafficSpec("tcp_rr", V4, flows=200, threads=3, seconds=0.5, samples=True, interval=0.1),
        TrafficSpec("tcp_rr", V6, flows=9, threads=2, seconds=0.5, request=300_000, response=1, buffer=7_000),
        TrafficSpec("tcp_rr", V4, flows=9, seconds=0.3, extra=("-D", "5ms", "--start-jitter=0.2")),
        TrafficSpec("tcp_rr", V4, flows=9, seconds=0.3, extra=("--time-wait", "--maxevents=1", "--mark=7")),
    ],
)
def test_clean_runs(sanitized_traffic: TrafficRun, spec: TrafficSpec) -> None:
    finished = sanitized_traffic.finish(spec, sanitized_traffic.start(spec))

    for end in finished.values():
        assert end.stderr == ""
        assert end.returncode == 0
        assert f"flows_connected={spec.flows}\n" in end.stdout
        assert "flows_reset=0\n" in end.stdout


@pytest.mark.parametrize("tool", ["tcp_stream", "tcp_rr"])
def test_broken_runs(sanitized_traffic: TrafficRun, tool: Literal["tcp_stream", "tcp_rr"]) -> None:
    spec = TrafficSpec(tool, V4, flows=100, threads=2, seconds=20, samples=True)
    processes = sanitized_traffic.start(spec)
    sanitized_traffic.await_flows(100)
    processes["client"].send_signal(signal.SIGINT)

    for end in sanitized_traffic.finish(spec, processes).values():
        assert end.returncode == 1
        assert len(end.stderr.splitlines()) == 1  # the reason, and nothing from a sanitizer


@pytest.mark.parametrize("arguments", [["--help"], ["--dry-run", "-A", "-m", "1gbit"], ["-F", "x"]])
def test_command_lines(sanitized_traffic: TrafficRun, arguments: list[str]) -> None:
    for name in ("tcp_stream", "tcp_rr"):
        argv = [str(sanitized_traffic.tools.program(name)), *arguments]
        tool = sanitized_traffic.pair.start("client", argv)
        _, stderr = tool.communicate(timeout=30)
        assert "Sanitizer" not in stderr
        assert "runtime error" not in stderr
        assert tool.returncode == (2 if "-F" in arguments else 0)
