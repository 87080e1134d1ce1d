"""As many flows in one process as the traffic tool is made for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

from tests.conftest import Sandbox
from tests.emulator import start_lab
from zdlab.lab.client import Lab
from zdlab.lab.resources import boot_files
from zdlab.plan.build import build_plan
from zdlab.topology import parse_topology
from zdlab.traffic import GUEST_TOOLS, TrafficSpec, guest_programs, traffic_commands, traffic_tools
from zdlab.traffic.result import Finished, traffic_result

FLOWS = 50_000
#: In a guest, whose init lifts the limit on open files, and across namespaces, which have ports of their own.
TOPOLOGY = """
nodes:
  m: {kind: machine, memory: 2gb, cpus: 2}
  a: {kind: host, in: m}
  b: {kind: host, in: m}
links: {wire: {subnet: 10.1.0.0/24, ends: {a: {}, b: {}}}}
"""


@pytest.fixture
def lab(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(sandbox.runtime))
    source = parse_topology(TOPOLOGY)
    plan = build_plan(source.base, "many")
    boot, _, _ = boot_files(plan, source, guest_programs(traffic_tools()))
    with start_lab(plan, boot) as started:
        yield started


def test_fifty_thousand_flows_connect_in_one_process_and_end_well(lab: Lab) -> None:
    spec = TrafficSpec(
        "tcp_rr", "10.1.0.2", flows=FLOWS, threads=2, seconds=1, connect_timeout=120, control_timeout=120
    )
    commands = traffic_commands(
        spec,
        programs={"client": GUEST_TOOLS, "server": GUEST_TOOLS},
        directory=PurePosixPath("/run"),
        name="many",
    )
    server = lab.spawn("b", commands.server.argv)
    while b"listening=" not in server.output()[0]:
        with pytest.raises(TimeoutError):
            server.wait(0.05)
    client = lab.spawn("a", commands.client.argv)

    done = {}
    for side, node, process, command in (
        ("client", "a", client, commands.client),
        ("server", "b", server, commands.server),
    ):
        ended = process.wait(commands.deadline)
        assert ended.returncode == 0, ended.stderr.decode()
        files = {file: lab.get_file(node, file.path).decode() for file in command.files}
        done[side] = Finished(ended.returncode, ended.stdout.decode(), ended.stderr.decode(), files)

    result = traffic_result(spec, client=done["client"], server=done["server"])
    assert result.flows_connected == FLOWS
    assert len(result.flow_rates) == FLOWS
