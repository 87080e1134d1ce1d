"""Labs that end in the middle: whatever is killed, nothing stays."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import TOPOLOGIES, await_that
from zdlab.lab.client import Lab
from zdlab.plan.build import build_plan
from zdlab.topology import load_topology

if TYPE_CHECKING:
    from tests.conftest import Sandbox


def test_killing_the_supervisor_leaves_nothing(sandbox: Sandbox) -> None:
    sandbox.up(TOPOLOGIES / "dumbbell.yaml")
    assert len(sandbox.processes()) > 12

    os.kill(sandbox.supervisor(), signal.SIGKILL)

    sandbox.await_nothing_left()
    gone = sandbox.zdlab("status", "dumbbell")
    assert gone.status == 2
    assert "zdlab up" in gone.err


def test_killing_the_shepherd_leaves_nothing(sandbox: Sandbox) -> None:
    sandbox.up(TOPOLOGIES / "ns-tbf.yaml")
    parent = int(Path(f"/proc/{sandbox.supervisor()}/stat").read_text().rpartition(")")[2].split()[1])

    os.kill(parent, signal.SIGKILL)

    sandbox.await_nothing_left()


@pytest.mark.parametrize("delay", [0.05, 0.15, 0.3, 0.45, 0.6])
def test_a_lab_killed_while_it_is_built_leaves_nothing(sandbox: Sandbox, delay: float) -> None:
    building = sandbox.start("up", TOPOLOGIES / "dumbbell.yaml")
    time.sleep(delay)
    for pid, line in sandbox.processes().items():
        if "zdlab.lab.shepherd" in line:
            os.kill(pid, signal.SIGKILL)
    building.kill()
    building.communicate()
    sandbox.zdlab("down", "--all")

    sandbox.await_nothing_left()


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["INT", "TERM", "HUP"],
)
def test_a_signal_takes_the_trial_down_and_keeps_what_is_finished(
    sandbox: Sandbox, number: signal.Signals, status: int
) -> None:
    text = (TOPOLOGIES / "ns-tbf.yaml").read_text().replace("duration: 6s", "duration: 5s")
    running = sandbox.start("run", sandbox.file(text), "--blocks", "3", "--seed", "1")
    assert running.stderr is not None
    seen = b""
    while b"[1/6]" not in seen:
        chunk = os.read(running.stderr.fileno(), 65536)
        assert chunk, seen
        seen += chunk
    await_that(lambda: any("tcp_stream" in line for line in sandbox.processes().values()), lambda: "no traffic")

    os.killpg(running.pid, number)
    _, err = running.communicate(timeout=30)

    assert running.returncode == status
    assert b"1 finished trials are kept" in err
    assert b"--resume" in err
    sandbox.await_nothing_left()
    kept = sandbox.zdlab("results", "-o", "json").json()
    assert sum(arm["trials"] for arm in kept["arms"].values()) == 1


@pytest.mark.parametrize("options", [(), ("--keep-on-failure",)])
def test_a_killed_command_takes_its_lab_with_it(sandbox: Sandbox, options: tuple[str, ...]) -> None:
    running = sandbox.start("run", TOPOLOGIES / "ns-tbf.yaml", "--blocks", "1", *options)
    await_that(lambda: any("tcp_stream" in line for line in sandbox.processes().values()), lambda: "no traffic")

    running.kill()
    running.communicate()

    sandbox.await_nothing_left()


def test_a_lab_that_was_left_running_outlives_the_command(sandbox: Sandbox) -> None:
    sandbox.up(TOPOLOGIES / "ns-tbf.yaml")

    assert sandbox.zdlab("exec", "a", "--", "true").status == 0


def test_a_killed_exec_ends_its_program(sandbox: Sandbox) -> None:
    sandbox.up(TOPOLOGIES / "ns-tbf.yaml")
    running = sandbox.start("exec", "a", "--", "sleep", "4242")
    await_that(lambda: any(line.startswith("sleep 4242") for line in sandbox.processes().values()), lambda: "no sleep")

    running.kill()
    running.communicate()

    await_that(
        lambda: not any("sleep 4242" in line for line in sandbox.processes().values()), lambda: "sleep still runs"
    )


def test_a_lab_follows_another_of_its_name_at_once(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    # The one that goes must not take the directory of the one that comes.
    plan = build_plan(load_topology(TOPOLOGIES / "ns-tbf.yaml").base, "again")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(sandbox.runtime))
    for _ in range(8):
        with Lab.start(plan.outline(), {}) as lab:
            assert lab.run("a", ["true"]).returncode == 0
