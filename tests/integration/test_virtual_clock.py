"""The virtual clock: trials that come out the same to the bit, whatever else the computer does."""

from __future__ import annotations

import contextlib
import gzip
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.conftest import ROOT, Sandbox, await_that
from zdlab.capsule import machine
from zdlab.capsule.repeat import kept_trials
from zdlab.capsule.trial import usual_parallel
from zdlab.capsule.wire import packed, unpacked
from zdlab.experiment.model import IDENTICAL
from zdlab.guest.image.contents import package_directories
from zdlab.results.store import TRIALS, RunStore

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
    assert stock["backlog_max_bytes"][0] > 3_000
    # A CPU that executes 10^9 instructions a second was not busy all of the time.
    assert 0 < zd["instructions"][0] < 1e9
    records = {record["trial"]["arm"]: record for record in store.raw()}
    assert records["zd"]["case"]["kernel"] != records["stock"]["case"]["kernel"]
    assert records["zd"]["case"]["image"] == records["stock"]["case"]["image"]


def test_another_seed_is_another_trial_with_the_same_verdict(shared: tuple[Sandbox, Any, RunStore]) -> None:
    sandbox, first, _ = shared

    other, _ = _run(sandbox, "--seed", "2", "--no-repeat")

    assert other["verdict"] == first["verdict"] == "pass"
    assert [entry["verdict"] for entry in other["expectations"]] == ["pass", "pass"]
    assert other["repeatable"] is None
    for arm in ("stock", "zd"):
        assert other["arms"][arm]["instructions"] != first["arms"][arm]["instructions"]
        assert other["arms"][arm]["segments_sent"] != first["arms"][arm]["segments_sent"]


def test_trials_one_after_the_other_are_those_side_by_side(shared: tuple[Sandbox, Any, RunStore]) -> None:
    """The first run had two at once, on busy CPUs."""
    sandbox, _, first = shared

    _, store = _run(sandbox, "--seed", "1", "--parallel", "1", "--no-repeat")

    assert _results(store) == _results(first)


def _results(store: RunStore) -> dict[str, str]:
    return {record["trial"]["arm"]: record["capsule"]["result"] for record in store.raw()}


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

    (kept,) = kept_trials(store, 0)
    found = kept.repeat(lambda _seconds, _phase: None)

    assert found != IDENTICAL
    assert " now, " in found


_IMAGE = """
import hashlib
from zdlab.guest.image import cpio
from zdlab.guest.image.contents import contents
from zdlab.traffic import guest_programs, traffic_tools
archive = cpio.archive(contents(guest_programs(traffic_tools(search_path="")), capsule=True).entries)
print(hashlib.sha256(archive).hexdigest())
"""


def test_the_image_of_a_capsule_is_the_same_wherever_it_is_made(tmp_path: Path) -> None:
    """From another checkout, with packages elsewhere and an empty cache."""
    elsewhere = tmp_path / "elsewhere"
    for name in ("zdlab", "images"):
        shutil.copytree(ROOT / name, elsewhere / name, ignore=shutil.ignore_patterns("__pycache__"))
    (source,) = package_directories()
    for name in ("pyroute2", "qemu", "platformdirs"):
        shutil.copytree(source / name, elsewhere / "packages" / name, ignore=shutil.ignore_patterns("__pycache__"))

    def image(checkout: Path, cache: str) -> str:
        environment = os.environ | {
            "PYTHONPATH": f"{checkout}:{checkout / 'packages'}",
            "XDG_CACHE_HOME": str(tmp_path / cache),
        }
        command = [sys.executable, "-c", _IMAGE]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert image(elsewhere, "one") == image(ROOT, "other")


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


def _endless(store: RunStore, target: Path) -> Path:
    """Return a copy of a run in which the traffic of every trial would flow for a day of virtual time."""
    shutil.copytree(store.directory, target)
    lines = []
    for record in store.raw():
        (work,) = record["case"]["task"]["works"]
        work["deadline"] = 1e6
        for end in ("client", "server"):
            argv = work[end]["argv"]
            argv[argv.index("-l") + 1] = "86400"
        lines.append(gzip.compress(json.dumps(record).encode() + b"\n", mtime=0))
    (target / TRIALS).write_bytes(b"".join(lines))
    return target


@pytest.mark.parametrize("verb", ["replay", "run"])
def test_ctrl_c_ends_what_is_being_repeated(
    verb: str, shared: tuple[Sandbox, Any, RunStore], sandbox: Sandbox, tmp_path: Path
) -> None:
    """None of these capsules would come to its end by itself while this test waits."""
    _, _, store = shared
    runs = tmp_path / "runs"
    endless = _endless(store, runs / store.name)
    # All trials of that run are there: what is left of it is to repeat one of each arm.
    again = ("run", sandbox.file(_TOPOLOGY), "--resume", "--results", str(runs))
    process = sandbox.start("replay", str(endless)) if verb == "replay" else sandbox.start(*again)
    await_that(
        lambda: sum("guest=capsule" in line for line in sandbox.processes().values()) == min(2, usual_parallel()),
        lambda: f"no capsules: {sandbox.processes()}",
        seconds=60,
    )

    process.send_signal(2)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert out == b""
    sandbox.await_nothing_left()


def test_what_cannot_be_repeated_makes_the_run_invalid_and_its_results_are_shown(
    shared: tuple[Sandbox, Any, RunStore], tmp_path: Path
) -> None:
    sandbox, _, store = shared
    runs = tmp_path / "runs"
    shutil.copytree(store.directory, runs / store.name)
    (path,) = (runs / store.name).glob("*-zd/result.gz")
    path.unlink()

    done = sandbox.zdlab("run", sandbox.file(_TOPOLOGY), "--resume", "--results", str(runs), "-o", "json")

    found = done.json()
    assert (done.status, found["verdict"]) == (4, "invalid")
    assert found["repeats"]["stock"] == IDENTICAL
    assert found["repeats"]["zd"].startswith("not repeated: ")
    assert found["arms"]["zd"]["qdisc_drops"] == [0]


def test_a_trial_that_fails_is_repeated_and_bundled_like_any_other(sandbox: Sandbox, tmp_path: Path) -> None:
    text = _TOPOLOGY.replace("memory: 256mb}", "memory: 256mb, append: [rdinit=/nothing]}")
    done = sandbox.zdlab("run", sandbox.file(text), "--blocks", "1", "--arms", "stock", "-o", "json")
    assert (done.status, done.json()["verdict"]) == (4, "invalid")
    (run,) = (sandbox.data / "zdlab" / "runs").iterdir()
    path = tmp_path / "trial.zdlab"

    again = sandbox.zdlab("replay", run.name, "-o", "json")
    written = sandbox.zdlab("bundle", run.name, "--file", path)
    elsewhere = sandbox.zdlab("replay", path, "-o", "json")

    assert "panic" in gzip.decompress((run / "0000-stock" / "result.gz").read_bytes()).decode()
    assert written.status == 0, written.err
    for found in (again, elsewhere):
        assert (found.status, found.json()[0]["result"]) == (0, IDENTICAL), found.err


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


def test_of_a_trial_that_failed_in_a_capsule_all_that_was_seen_comes_out(sandbox: Sandbox) -> None:
    # The tool refuses: eight flows have no eight ports from the last one on.
    text = _TOPOLOGY.replace('"-m", "9mbit"', '"--source-port=65535"')

    done = sandbox.zdlab("run", sandbox.file(text), "--blocks", "1", "--arms", "stock", "-o", "json")

    found = done.json()
    assert (found["verdict"], found["accelerator"]) == ("invalid", "tcg")
    assert found["arms"]["stock"]["errors"][0].startswith("the server of bulk ended with status ")
    (run,) = (sandbox.data / "zdlab" / "runs").iterdir()
    (record,) = RunStore(run).raw()
    assert record["after"].keys() == {"a", "b"}
    assert "--source-port" in record["traffic"]["bulk"]["stderr"]["server"]
    assert record["traffic"]["bulk"]["returncode"] == {"server": 2}
    assert record["sampling"]["a"]["samples"] > 0
    assert (run / "0000-stock" / "samples.jsonl.gz").stat().st_size > 100
    assert (run / "0000-stock" / "result.gz").is_file()
