"""Trials in namespaces: over which addresses they go, and what is kept of those that break."""

from __future__ import annotations

import gzip
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import await_that

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Sandbox

WIRE = """
nodes: {a: {kind: host}, b: {kind: host}}
links:
  wire:
    subnet: 10.1.0.0/24
    ends: {a: {qdisc: {kind: tbf, rate: 30mbit, burst: 16kb, limit: 40kb}}, b: {}}
workloads:
  bulk: {tool: tcp_stream, from: a, to: b, flows: 10, duration: 300s}
arms: {stock: null}
"""
ROUTER = """
nodes:
  a: {kind: host, routes: [{to: 10.2.0.0/24, via: 10.1.0.2}]}
  r: {kind: host}
  b: {kind: host, routes: [{to: 10.1.0.0/24, via: 10.2.0.1}]}
links:
  near: {subnet: 10.1.0.0/24, ends: {a: {address: 10.1.0.1/24}, r: {address: 10.1.0.2/24}}}
  far: {subnet: 10.2.0.0/24, ends: {r: {address: 10.2.0.1/24}, b: {address: 10.2.0.2/24}}}
workloads:
  bulk: {tool: tcp_stream, from: a, to: b, flows: 10, duration: 5s}
arms: {stock: null}
"""


def _kept(sandbox: Sandbox) -> tuple[dict[str, Any], Path]:
    """Return the record of the only trial, and its directory."""
    (run,) = (sandbox.data / "zdlab" / "runs").iterdir()
    record = json.loads(gzip.decompress((run / "trials.jsonl.gz").read_bytes()))
    return record, run / "0000-stock"


def _series(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress((directory / "samples.jsonl.gz").read_bytes()).splitlines()]


@pytest.mark.parametrize(("flag", "host"), [("-6", "fd00::2"), ("--ipv4", "10.1.0.2")])
def test_flows_go_by_the_version_of_ip_that_is_asked_for(sandbox: Sandbox, flag: str, host: str) -> None:
    subnets = '["fd00::/64", 10.1.0.0/24]' if flag == "--ipv4" else '[10.1.0.0/24, "fd00::/64"]'
    text = WIRE.replace("subnet: 10.1.0.0/24", f"subnet: {subnets}").replace("300s", f"1s, args: [{flag}]")

    found = sandbox.zdlab("run", sandbox.file(text), "--blocks", "1", "-o", "json").json()

    assert found["arms"]["stock"]["errors"] == []
    record, _ = _kept(sandbox)
    assert record["traffic"]["bulk"]["spec"]["host"] == host


def test_of_a_trial_that_hung_all_that_was_seen_is_kept(sandbox: Sandbox) -> None:
    running = sandbox.start("run", sandbox.file(WIRE), "--blocks", "1", "-o", "json")
    tools: dict[int, str] = {}

    def flowing() -> bool:
        tools.update({pid: line for pid, line in sandbox.processes().items() if "/tcp_stream " in line})
        return len(tools) == 2

    await_that(flowing, lambda: "no traffic")
    for pid in tools:
        os.kill(pid, signal.SIGSTOP)
    out, err = running.communicate(timeout=120)

    assert running.returncode == 4, err
    (said,) = json.loads(out)["arms"]["stock"]["errors"]
    assert said.startswith("no packet moved at a for ")
    record, directory = _kept(sandbox)
    assert record["state"] == "hung"
    assert record["before"].keys() == record["after"].keys() == {"a", "b"}
    assert record["status"]["state"] == "up"
    assert b"listening=" in record["traffic"]["bulk"]["stdout"]["server"].encode()
    assert record["traffic"]["bulk"]["returncode"] == {"client": None, "server": None}
    assert record["sampling"]["a"]["samples"] == sum(
        1 for row in _series(directory) if row["node"] == "a" and "segments" in row
    )


def test_a_server_that_is_not_reached_is_told_in_the_clients_words(sandbox: Sandbox) -> None:
    done = sandbox.zdlab("run", sandbox.file(ROUTER), "--blocks", "1", "-o", "json")

    (said,) = done.json()["arms"]["stock"]["errors"]
    why = "tcp_stream: no server at 10.2.0.2, control port 12866: Connection timed out"
    assert said == f"the client of bulk ended with status 1: {why}"
    record, directory = _kept(sandbox)
    assert record["state"] == "failed"
    assert record["traffic"]["bulk"]["returncode"] == {"client": 1, "server": None}
    assert {row["node"] for row in _series(directory)} == {"a", "r", "b"}
