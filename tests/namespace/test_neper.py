"""A user's own neper in place of zdlab's tool; ours stands in for it: it speaks the same command line."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from zdlab.traffic import traffic_tools

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Sandbox

TOPOLOGY = """
nodes: {a: {kind: host}, b: {kind: host}}
links: {wire: {subnet: 10.1.0.0/24, ends: {a: {}, b: {}}}}
workloads: {bulk: {tool: tcp_stream, from: a, to: b, flows: 4, duration: 1s}}
arms: {stock: }
"""


def test_programs_of_the_users_run_and_are_recorded(sandbox: Sandbox, tmp_path: Path) -> None:
    theirs = tmp_path / "neper"
    theirs.mkdir()
    for name in ("tcp_stream", "tcp_rr"):
        shutil.copy(traffic_tools().program(name), theirs / name)

    done = sandbox.zdlab(
        "run", sandbox.file(TOPOLOGY), "--blocks", "1", "--neper-dir", theirs, "-o", "json", timeout=120
    )

    assert done.json()["arms"]["stock"]["trials"] == 1, done.err
    (run,) = (sandbox.data / "zdlab" / "runs").iterdir()
    assert json.loads((run / "run.json").read_text())["provenance"]["traffic"]["origin"] == "neper"


def test_flags_of_our_own_are_for_our_own_tools(sandbox: Sandbox, tmp_path: Path) -> None:
    theirs = tmp_path / "neper"
    theirs.mkdir()
    for name in ("tcp_stream", "tcp_rr"):
        shutil.copy(traffic_tools().program(name), theirs / name)
    topology = sandbox.file(TOPOLOGY.replace("flows: 4", 'flows: 4, args: ["--start-jitter=0.1"]'))

    refused = sandbox.zdlab("run", topology, "--blocks", "1", "--neper-dir", theirs)
    sandbox.environment["PATH"] = f"{theirs}:{sandbox.environment['PATH']}"
    done = sandbox.zdlab("run", topology, "--blocks", "1", "-o", "json", timeout=120)

    assert refused.status == 2
    assert "neper has no --start-jitter" in refused.err
    assert done.json()["arms"]["stock"]["trials"] == 1, done.err
    (run,) = (sandbox.data / "zdlab" / "runs").iterdir()
    assert json.loads((run / "run.json").read_text())["provenance"]["traffic"]["origin"] == "zdlab"


def test_a_directory_without_neper_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    done = sandbox.zdlab("run", sandbox.file(TOPOLOGY), "--blocks", "1", "--neper-dir", tmp_path)

    assert done.status == 2
    assert str(tmp_path) in done.err
    assert "hint: " in done.err
