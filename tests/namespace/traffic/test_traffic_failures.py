"""What a run that goes wrong says, and that it ends."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from zdlab.errors import TrafficError
from zdlab.traffic.command import TrafficSpec
from zdlab.traffic.result import traffic_result

if TYPE_CHECKING:
    from tests.namespace.traffic.conftest import TrafficRun

SERVER = "10.77.0.2"


def test_a_server_that_is_killed_ends_the_client_at_once(traffic: TrafficRun) -> None:
    spec = TrafficSpec("tcp_stream", SERVER, flows=200, threads=2, seconds=60)
    processes = traffic.start(spec)
    traffic.await_flows(200)
    processes["server"].kill()

    stdout, stderr = processes["client"].communicate(timeout=30)  # of the test's 60 seconds

    assert processes["client"].returncode == 1
    assert "lost the server" in stderr
    assert "error=lost the server" in stdout
    assert "flows_connected=200\n" in stdout


def test_a_client_that_is_killed_ends_the_server_at_once(traffic: TrafficRun) -> None:
    spec = TrafficSpec("tcp_stream", SERVER, flows=200, threads=2, seconds=60)
    processes = traffic.start(spec)
    traffic.await_flows(200)
    processes["client"].kill()

    stdout, stderr = processes["server"].communicate(timeout=30)

    assert processes["server"].returncode == 1
    assert "lost the client" in stderr
    assert "local_throughput=" in stdout


def test_a_link_that_goes_silent_ends_both_within_their_deadlines(traffic: TrafficRun) -> None:
    spec = TrafficSpec("tcp_stream", SERVER, flows=50, seconds=2, control_timeout=1)
    processes = traffic.start(spec)
    traffic.await_flows(50)
    traffic.pair.ip("server", "link", "set", "veth0", "down")

    finished = traffic.finish(spec, processes)

    assert "did not tell its result within 1 seconds" in finished["client"].stderr
    assert "the client never said stop" in finished["server"].stderr
    for end in finished.values():
        assert end.returncode == 1
        assert "local_throughput=" in end.stdout
    with pytest.raises(TrafficError, match=r"the client of tcp_stream ended with status 1: .* did not tell"):
        traffic_result(spec, client=finished["client"], server=finished["server"])


def test_no_server_is_an_error_after_the_timeout(traffic: TrafficRun) -> None:
    spec = TrafficSpec("tcp_stream", SERVER, control_timeout=0.5)
    client = traffic.pair.start("client", traffic.commands(spec).client.argv)

    _, stderr = client.communicate(timeout=30)

    assert client.returncode == 1
    assert "no server at 10.77.0.2, control port 12866: Connection refused" in stderr


def test_flows_that_all_fail_to_connect_are_an_error(traffic: TrafficRun) -> None:
    # The control port lets everything through, the data port nothing.
    traffic.pair.ip("client", "address", "add", "10.77.0.9/24", "dev", "veth0")
    traffic.pair.ip("server", "route", "add", "blackhole", "10.77.0.9/32")
    spec = TrafficSpec("tcp_rr", SERVER, flows=4, local_hosts=("10.77.0.9",), connect_timeout=0.5)

    finished = traffic.finish(spec, traffic.start(spec))

    assert finished["client"].returncode == 1
    assert "none of 4 flows connected within 0.5 seconds" in finished["client"].stderr
    assert finished["server"].returncode == 1


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_signal_ends_a_run_with_its_results(traffic: TrafficRun, side: str) -> None:
    spec = TrafficSpec("tcp_rr", SERVER, flows=5, seconds=60)
    processes = traffic.start(spec)
    traffic.await_flows(5)
    time.sleep(0.2)
    (ended,) = (process for name, process in processes.items() if name == side)
    ended.send_signal(signal.SIGTERM)

    for process in processes.values():
        stdout, stderr = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "local_throughput=" in stdout
        assert ("interrupted by signal 15" if process is ended else "lost the ") in stderr


def test_suicide_length_ends_whatever_still_runs(traffic: TrafficRun) -> None:
    spec = TrafficSpec("tcp_rr", SERVER, seconds=60, extra=("-s", "1"))

    finished = traffic.finish(spec, traffic.start(spec))

    assert "--suicide-length" in finished["client"].stderr + finished["server"].stderr
    assert all(end.returncode == 1 for end in finished.values())


@pytest.mark.parametrize(
    ("client", "server", "why"),
    [
        (TrafficSpec("tcp_rr", SERVER), TrafficSpec("tcp_stream", SERVER), "another tool"),
        (TrafficSpec("tcp_rr", SERVER, request=7), TrafficSpec("tcp_rr", SERVER), "other sizes of request"),
        (TrafficSpec("tcp_stream", SERVER, num_ports=2), TrafficSpec("tcp_stream", SERVER), "other data ports"),
        (TrafficSpec("tcp_stream", SERVER, extra=("-r",)), TrafficSpec("tcp_stream", SERVER), "-r, -w, -M"),
    ],
)
def test_ends_that_disagree_say_so_and_stop(
    traffic: TrafficRun, client: TrafficSpec, server: TrafficSpec, why: str
) -> None:
    ends = [
        traffic.pair.start("server", traffic.commands(server).server.argv),
        traffic.pair.start("client", traffic.commands(client).client.argv),
    ]

    for end in ends:
        _, stderr = end.communicate(timeout=30)
        assert end.returncode == 1
        assert why in stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--no-such-flag"], "unrecognized option '--no-such-flag'"),
        (["-y"], "invalid option -- 'y'"),
        (["-F", "0"], "--num-flows: '0' is not a usable value"),
        (["-F", "-5"], "--num-flows: '-5' is not a usable value"),
        (["-F", "1000001"], "--num-flows"),
        (["-l", "0"], "--test-length must be above 0"),
        (["-l", "ten"], "--test-length: 'ten'"),
        (["-p", "50,200"], "unrecognized|invalid option"),
        (["-c"], "-H ADDRESS"),
        (["-c", "-H", ""], "--host: ''"),
        (["-H", "10.0.0.1"], "-H is for a client"),
        (["-4", "-6"], "exclude each other"),
        (["-m", "5furlongs"], "--max-pacing-rate: '5furlongs'"),
        (["-P", "12866"], "control port 12866 is one of the data ports"),
        (["-P", "65000", "--num-ports=600"], "goes beyond port 65535"),
        (["extra"], "'extra' is not a flag"),
        (["-c", "-6", "-H", "10.77.0.2"], "no IPv6 address of '10.77.0.2'"),
        (["-c", "-H", "10.77.0.2", "-L", "fd77::1"], "mix IPv4 and IPv6"),
        (["-c", "-H", "10.77.0.2", "--source-port=65000", "-F", "1000"], "goes beyond port 65535"),
    ],
)
def test_what_is_not_understood_is_refused(traffic: TrafficRun, arguments: list[str], complaint: str) -> None:
    tool = traffic.pair.start("client", [str(traffic.tools.program("tcp_stream")), *arguments])

    _, stderr = tool.communicate(timeout=30)

    assert tool.returncode == 2
    assert any(part in stderr for part in complaint.split("|"))


def test_too_many_flows_for_the_source_ports_are_refused_before_they_start(traffic: TrafficRun) -> None:
    range_file = "/proc/sys/net/ipv4/ip_local_port_range"
    traffic.pair.run("client", ["python3", "-c", f"open('{range_file}', 'w').write('40000 40099')"])
    argv = [str(traffic.tools.program("tcp_stream")), "-c", "-H", SERVER, "-F", "301", "--num-ports=3"]
    tool = traffic.pair.start("client", argv)

    _, stderr = tool.communicate(timeout=30)

    assert tool.returncode == 2
    assert "301 flows need more source ports than 100 (ip_local_port_range) for each of 3" in stderr
    assert "use --num-ports" in stderr


def test_too_many_flows_for_the_open_files_are_refused(traffic: TrafficRun) -> None:
    # A privileged process may raise its own limit; this one may not.
    bounded = ["setpriv", "--inh-caps=-sys_resource", "--bounding-set=-sys_resource"]
    argv = ["prlimit", "--nofile=500:500", *bounded, str(traffic.tools.program("tcp_rr"))]
    tool = traffic.pair.start("server", [*argv, "-F", "1000"])

    _, stderr = tool.communicate(timeout=30)

    assert tool.returncode == 2
    assert "1000 flows need more open files than the 500 this process may have" in stderr


def test_a_server_that_cannot_hold_the_flows_tells_the_client(traffic: TrafficRun) -> None:
    bounded = ["setpriv", "--inh-caps=-sys_resource", "--bounding-set=-sys_resource"]
    spec = TrafficSpec("tcp_rr", SERVER, flows=1000)
    argv = ["prlimit", "--nofile=500:500", *bounded, str(traffic.tools.program("tcp_rr"))]
    traffic.pair.start("server", argv)
    client = traffic.pair.start("client", traffic.commands(spec).client.argv)

    _, stderr = client.communicate(timeout=30)

    assert client.returncode == 1
    assert "1000 flows need more open files than the 500" in stderr


def test_a_file_that_cannot_be_written_is_an_error(traffic: TrafficRun) -> None:
    spec = TrafficSpec("tcp_rr", SERVER, seconds=0.2, extra=("--flow-summary=/nonexistent/flows.csv",))

    finished = traffic.finish(spec, traffic.start(spec))

    assert finished["client"].returncode == 1
    assert "cannot write /nonexistent/flows.csv: No such file or directory" in finished["client"].stderr


def test_a_port_in_use_is_an_error(traffic: TrafficRun) -> None:
    argv = [str(traffic.tools.program("tcp_rr"))]
    first = traffic.pair.start("server", argv)
    assert first.stdout is not None
    while not first.stdout.readline().startswith("listening="):
        pass
    second = subprocess.run(
        traffic.pair.command("server", argv), capture_output=True, text=True, check=False, timeout=30
    )

    assert second.returncode == 1
    assert "cannot listen on port 12866: Address already in use" in second.stderr
