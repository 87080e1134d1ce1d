"""The virtual clock: trials that come out the same to the bit, whatever else the computer does."""

from __future__ import annotations

import contextlib
import gzip
import json
import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.conftest import Sandbox, await_that
from zdlab.capsule import machine
from zdlab.capsule.repeat import replay_trial
from zdlab.capsule.trial import usual_parallel
from zdlab.capsule.wire import packed, unpacked
from zdlab.experiment.model import IDENTICAL
from zdlab.experiment.setup import guest_programs
from zdlab.guest.image import cpio
from zdlab.guest.image.contents import contents
from zdlab.results.store import RunStore
from zdlab.traffic import traffic_tools

_TOPOLOGY = """
clock: virtual
nodes:
  a: {kind: machine, memory: 256mb}
  b: {kind: host}
links:
  uplink:
    subnet: 10.0.0.0/24
    ends:
      a: {offloads: {tso: off, gso: off}, qdisc: {kind: tbf, rate: 60mbit, burst: 8kb, limit: 12kb}}
      b: {}
workloads:
  bulk: {tool: tcp_stream, from: a, to: b, flows: 8, duration: 500ms, args: ["--start-jitter", "0.05", "-m", "9mbit"]}
arms:
  stock:
  zd: {nodes.a.kernel: zd, nodes.a.sysctls.net.core.zd: 1}
expectations:
  - stock.qdisc_drops > 0
  - zd.qdisc_drops == 0
"""


def _run(sandbox: Sandbox, *arguments: str) -> tuple[Any, RunStore]:
    done = sandbox.zdlab("run", sandbox.file(_TOPOLOGY), "--blocks", "1", "-o", "json", *arguments)
    found = done.json()
    (newest, *_) = sorted((sandbox.data / "zdlab" / "runs").iterdir(), reverse=True)
    return found, RunStore(newest)


def _burn() -> None:
    while True:
        pass


@contextlib.contextmanager
def _every_cpu_busy() -> Iterator[None]:
    burners = [
        multiprocessing.get_context("fork").Process(target=_burn, daemon=True) for _ in range(os.cpu_count() or 1)
    ]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.join()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[tuple[Sandbox, Any, RunStore]]:
    """One run of both arms, side by side while every CPU is busy with something else; each was repeated by itself.

    All workers of the test session share it: whoever comes first makes it.
    """
    sandbox = Sandbox(tmp_path_factory.mktemp("virtual"))
    base = tmp_path_factory.getbasetemp()
    note = (base if worker_id == "master" else base.parent) / "virtual-run.json"
    try:
        with FileLock(f"{note}.lock"):
            if not note.exists():
                with _every_cpu_busy():
                    found, store = _run(sandbox, "--seed", "1")
                note.write_text(json.dumps([found, str(store.directory)]))
        found, directory = json.loads(note.read_text())
        yield sandbox, found, RunStore(Path(directory))
        sandbox.await_nothing_left()
    finally:
        sandbox.end()


def test_a_run_gives_a_verdict_and_says_how_it_came_about(shared: tuple[Sandbox, Any, RunStore]) -> None:
    _, found, store = shared

    assert found["clock"] == "virtual"
    assert found["verdict"] == "pass", found
    assert set(found["machines"].values()) == {"the machine is the capsule"}
    assert found["repeats"] == {"stock": IDENTICAL, "zd": IDENTICAL}
    assert found["repeatable"] is True
    stock, zd = found["arms"]["stock"], found["arms"]["zd"]
    assert stock["qdisc_drops"][0] > 0
    assert zd["qdisc_drops"] == [0]
    assert stock["backlog_max_bytes"][0] > 9_000
    # A CPU that executes 10^9 instructions a second was not busy all of the time.
    assert 0 < zd["instructions"][0] < 1e9
    records = {record["trial"]["arm"]: record for record in store.raw()}
    assert records["zd"]["case"]["kernel"] != records["stock"]["case"]["kernel"]
    assert records["zd"]["case"]["image"] == records["stock"]["case"]["image"]


def test_another_seed_is_another_trial_with_the_same_verdict(shared: tuple[Sandbox, Any, RunStore]) -> None:
    sandbox, first, _ = shared

    other, _ = _run(sandbox, "--seed", "2", "--arms", "zd", "--no-repeat")

    assert other["verdict"] == first["verdict"] == "pass"
    assert other["repeatable"] is None
    assert other["arms"]["zd"]["instructions"] != first["arms"]["zd"]["instructions"]
    assert other["arms"]["zd"]["segments_sent"] != first["arms"]["zd"]["segments_sent"]


def _tampered(store: RunStore, target: Path) -> Path:
    """Return a copy of a run whose first trial came out otherwise, as far as its record says."""
    shutil.copytree(store.directory, target)
    (path,) = target.glob("0000-*/result.gz")
    header, pieces = unpacked(gzip.decompress(path.read_bytes()))
    header["observation"]["after"]["a"]["snmp"]["Tcp"]["OutSegs"] += 1
    path.write_bytes(gzip.compress(packed(header, pieces)))
    return target


def test_a_trial_is_repeated_beside_itself_from_a_bundle_and_from_its_run(
    shared: tuple[Sandbox, Any, RunStore], tmp_path: Path
) -> None:
    sandbox, _, store = shared
    path = tmp_path / "trial.zdlab"
    written = sandbox.zdlab("bundle", str(store.directory), "0", "--file", path)
    assert written.status == 0, written.err

    beside = sandbox.start("replay", str(_tampered(store, tmp_path / "copy")), "0")
    done = sandbox.zdlab("replay", path, "-o", "json")
    out, err = beside.communicate(timeout=240)

    assert done.status == 0, done.out + done.err
    assert [row["result"] for row in json.loads(done.out)] == [IDENTICAL]
    assert beside.returncode == 1, err
    assert b"observation.after.a.snmp.Tcp.OutSegs is " in out


def test_a_tampered_bundle_is_refused(shared: tuple[Sandbox, Any, RunStore], tmp_path: Path) -> None:
    sandbox, _, store = shared
    path = tmp_path / "trial.zdlab"
    assert sandbox.zdlab("bundle", str(store.directory), "0", "--file", path).status == 0

    again = sandbox.zdlab("bundle", str(store.directory), "0", "--file", path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused = sandbox.zdlab("replay", path)

    assert again.status == 2
    assert "is there already" in again.err
    assert refused.status == 2
    assert "no bundle, or a broken one" in refused.err


def test_a_capsule_that_something_reaches_from_outside_is_found_out(
    shared: tuple[Sandbox, Any, RunStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The computer's clock in place of the instruction counter: nothing else keeps the trials equal."""
    _, _, store = shared
    whole = machine.capsule_command

    def on_the_real_clock(spec: machine.CapsuleSpec, directory: Path, program: str) -> list[str]:
        command = whole(spec, directory, program)
        place = command.index("-icount")
        return command[:place] + command[place + 2 :]

    monkeypatch.setattr(machine, "capsule_command", on_the_real_clock)

    found = replay_trial(store, 0, lambda _seconds, _phase: None)

    assert found != IDENTICAL
    assert " now, " in found


def test_the_image_of_a_capsule_is_the_same_however_often_it_is_made() -> None:
    programs = guest_programs(traffic_tools())

    first, second = (cpio.archive(contents(programs, capsule=True).entries) for _ in range(2))

    assert first == second


def _started(sandbox: Sandbox) -> subprocess.Popen[bytes]:
    """Start a run and wait until its capsules run."""
    process = sandbox.start("run", sandbox.file(_TOPOLOGY), "--blocks", "4", "--seed", "1")
    await_that(
        lambda: sum("guest=capsule" in line for line in sandbox.processes().values()) == min(8, usual_parallel()),
        lambda: f"no capsules: {sandbox.processes()}",
        seconds=120,
    )
    return process


def test_a_run_that_is_killed_leaves_no_process_and_nothing_that_gc_does_not_find(sandbox: Sandbox) -> None:
    process = _started(sandbox)

    process.kill()
    process.communicate(timeout=30)

    await_that(lambda: not sandbox.processes(), lambda: f"left behind: {sandbox.processes()}")
    assert sandbox.zdlab("gc").status == 0
    assert not sandbox.left()


def test_ctrl_c_ends_all_capsules(sandbox: Sandbox) -> None:
    process = _started(sandbox)

    process.send_signal(2)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 130, err
    sandbox.await_nothing_left()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--clock", "virtual", "--accel", "kvm"), "counts instructions"),
        (("--clock", "virtual", "--keep-on-failure"), "ends with its capsule"),
        (("--clock", "real", "--parallel", "2"), "would disturb each other"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    sandbox: Sandbox, arguments: tuple[str, ...], problem: str
) -> None:
    done = sandbox.zdlab("run", sandbox.file(_TOPOLOGY), *arguments)

    assert done.status == 2
    assert problem in done.err


def test_machines_of_several_kernels_cannot_be_inline(sandbox: Sandbox) -> None:
    text = _TOPOLOGY.replace("b: {kind: host}", "b: {kind: machine, kernel: zd}").replace(
        "clock:", "machines: inline\nclock:"
    )

    done = sandbox.zdlab("run", sandbox.file(text), "--arms", "stock")

    assert done.status == 2
    assert "topology.yaml:6: machines inline share one kernel" in done.err
