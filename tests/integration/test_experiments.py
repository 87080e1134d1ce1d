"""Experiments on real guests and flows: what they record, conclude and refuse to conclude."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import signal
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.virtual import SEEDS
from tests.conftest import TOPOLOGIES, await_that

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Sandbox

SMALL = """
nodes: {a: {kind: machine, memory: 256mb}, b: {kind: host}}
links:
  wire:
    subnet: 10.1.0.0/24
    ends:
      a:
        offloads: {tso: off, gso: off}
        qdisc: {kind: tbf, rate: 30mbit, burst: 16kb, limit: 40kb}
      b: {}
workloads:
  bulk: {tool: tcp_stream, from: a, to: b, flows: 30, duration: 3s, args: ["-m", "1200kbit"]}
arms:
  stock:
  deep: {links.wire.ends.a.qdisc.limit: 8mb}
expectations:
  - deep.qdisc_drops == 0
  - deep.throughput_bps >= 0.5 * stock.throughput_bps
"""


def run_directory(sandbox: Sandbox) -> Path:
    (directory,) = (sandbox.data / "zdlab" / "runs").iterdir()
    return directory


def test_a_run_tells_only_its_document_and_keeps_everything(sandbox: Sandbox) -> None:
    done = sandbox.zdlab("run", sandbox.file(SMALL), "--blocks", "1", "--seed", "7", "-o", "json")

    found = done.json()
    assert set(found) == {"experiment", "verdict", "clock", "accelerator", "expectations", "arms"}
    assert found["experiment"] == "topology"
    assert found["clock"] == "real"
    assert found["accelerator"] in {"kvm", "tcg"}
    # One block cannot decide a comparison; the count of drops is decided by every trial.
    assert [entry["verdict"] for entry in found["expectations"]] == ["pass", "inconclusive"]
    assert found["verdict"] == "inconclusive"
    assert done.status == 4
    assert set(found["arms"]) == {"stock", "deep"}
    for arm in found["arms"].values():
        assert arm["trials"] == 1
        assert len(arm["qdisc_drops"]) == len(arm["retransmits"]) == len(arm["throughput_bps"]) == 1
        # The shaper is the bottleneck, and it keeps its rate.
        assert 20e6 < arm["throughput_bps"][0] < 31e6
        assert arm["flows_without_data"] == [0]
    assert found["arms"]["stock"]["qdisc_drops"][0] > 0
    assert found["arms"]["deep"]["qdisc_drops"] == [0]

    directory = run_directory(sandbox)
    description = json.loads((directory / "run.json").read_text())
    assert description["seed"] == 7
    assert description["topology"] == SMALL
    kernels = description["provenance"]["kernels"]
    assert all(len(kernel["sha256"]) == 64 for kernel in kernels.values())
    assert all(len(kernel["config_sha256"]) == 64 for kernel in kernels.values())
    assert all(description["provenance"][name] for name in ("qemu", "iproute2", "numpy", "scipy"))
    _records_agree(directory, found)

    again = sandbox.zdlab("results", "-o", "json")
    assert again.json() == found
    rows = list(csv.DictReader(sandbox.zdlab("results", "--csv").out.splitlines()))
    drops = {row["arm"]: int(row["value"]) for row in rows if row["metric"] == "qdisc_drops" and not row["node"]}
    assert drops == {arm: found["arms"][arm]["qdisc_drops"][0] for arm in ("stock", "deep")}


def _records_agree(directory: Path, found: dict[str, Any]) -> None:
    """The raw records, the series and the database hold what the document says."""
    with gzip.open(directory / "trials.jsonl.gz", "rt") as lines:
        trials = {trial["trial"]["arm"]: trial for trial in map(json.loads, lines)}
    for arm, trial in trials.items():
        before, after = (trial[when]["a"]["qdiscs"] for when in ("before", "after"))
        dropped = sum(row["drops"] for row in after) - sum(row["drops"] for row in before)
        assert dropped == found["arms"][arm]["qdisc_drops"][0]
        (queue,) = trial["queues"]
        assert queue["kind"] == "tbf"
        assert (queue["full_after_s"] is not None) == (arm == "stock")
        series = directory / f"{trial['trial']['number']:04}-{arm}" / "samples.jsonl.gz"
        with gzip.open(series, "rt") as rows:
            samples = [json.loads(row) for row in rows]
        of_guest = [row for row in samples if row["node"] == "a" and row.get("kind") == "tbf"]
        of_host = [row for row in samples if row["node"] == "b" and "segments" in row]
        # Every 50 ms in the guest and every 10 ms in the namespace, but for what a busy computer makes late.
        assert len(of_guest) > 3 / 0.05 / 2
        assert len(of_host) > 3 / 0.01 / 2
        # What is dropped after the last sample, the counters have.
        assert 0.9 * dropped <= max(row["drops"] for row in of_guest) <= dropped
    database = sqlite3.connect(directory / "results.sqlite")
    query = "select t.arm, m.value from trials t join metrics m on m.trial = t.number where m.name = ? and m.node = ''"
    assert dict(database.execute(query, ["qdisc_drops"])) == {
        arm: values["qdisc_drops"][0] for arm, values in found["arms"].items()
    }
    database.close()


def test_a_run_goes_on_where_it_was_stopped(sandbox: Sandbox) -> None:
    topology = TOPOLOGIES / "ns-tbf.yaml"
    first = sandbox.zdlab("run", topology, "--blocks", "1", "--seed", "3", "-o", "json").json()

    more = sandbox.zdlab("run", topology, "--blocks", "2", "--resume", "-o", "json").json()

    for arm, values in more["arms"].items():
        assert values["trials"] == 2
        assert values["qdisc_drops"][0] == first["arms"][arm]["qdisc_drops"][0]
    (run,) = (sandbox.data / "zdlab" / "runs").iterdir()

    # The traffic tool was another one when the run began.
    record = json.loads((run / "run.json").read_text())
    now = record["provenance"]["traffic"]["sha256"]["tcp_stream"]
    record["provenance"]["traffic"]["sha256"]["tcp_stream"] = "0" * 64
    (run / "run.json").write_text(json.dumps(record))
    refused = sandbox.zdlab("run", topology, "--blocks", "3", "--resume")

    assert refused.status == 2
    assert f"traffic sha256 tcp_stream: {'0' * 64} then, {now} now" in refused.err


def test_a_control_arm_without_pressure_makes_the_answer_invalid(sandbox: Sandbox) -> None:
    text = SMALL.replace("limit: 40kb", "limit: 9mb")

    found = sandbox.zdlab("run", sandbox.file(text), "--blocks", "1", "-o", "json").json()

    (drops, _) = found["expectations"]
    assert drops["verdict"] == "invalid"
    assert "never" in drops["reason"] or "no queue" in drops["reason"]


@pytest.mark.parametrize(
    ("number", "state", "problem"),
    [(signal.SIGKILL, "failed", "machine a ended"), (signal.SIGSTOP, "hung", "machine a hangs")],
    ids=["lost", "hung"],
)
def test_a_guest_that_goes_in_the_middle_of_the_traffic_makes_the_run_invalid(
    sandbox: Sandbox, number: signal.Signals, state: str, problem: str
) -> None:
    text = SMALL.replace("duration: 3s", "duration: 300s")
    running = sandbox.start("run", sandbox.file(text), "--blocks", "1", "--arms", "stock", "-o", "json")
    await_that(lambda: _received(sandbox) > 1_000_000, lambda: "no traffic", seconds=120)

    os.kill(sandbox.pid_of("qemu-system"), number)
    out, err = running.communicate(timeout=120)

    assert running.returncode == 4, err
    found = json.loads(out)
    assert found["verdict"] == "invalid"
    assert found["accelerator"] in {"kvm", "tcg"}
    assert found["arms"]["stock"]["failed_trials"] == 1
    assert found["arms"]["stock"]["errors"][0].startswith(problem)
    # What was seen of it is kept: of the guest what it had said before, of the namespace all.
    directory = run_directory(sandbox)
    record = json.loads(gzip.decompress((directory / "trials.jsonl.gz").read_bytes()))
    assert record["state"] == state
    assert "b" in record["after"]
    assert "a" not in record["after"]
    assert "listening=" in record["traffic"]["bulk"]["stdout"]["server"]
    assert gzip.decompress((directory / "0000-stock" / "a.console.gz").read_bytes())
    with gzip.open(directory / "0000-stock" / "samples.jsonl.gz", "rt") as rows:
        assert {json.loads(row)["node"] for row in rows} == {"b"}


def _received(sandbox: Sandbox) -> int:
    """Return the bytes that have come to b, none before there is one."""
    labs = sandbox.zdlab("ps", "-o", "json").json()
    if not labs:
        return 0
    done = sandbox.zdlab("exec", "--lab", labs[0]["name"], "b", "--", "cat", "/sys/class/net/eth0/statistics/rx_bytes")
    return int(done.out) if done.status == 0 else 0


def test_a_failed_trials_lab_is_kept_on_request(sandbox: Sandbox) -> None:
    # The tool refuses: thirty flows have no thirty ports from the last one on.
    text = SMALL.replace('args: ["-m", "1200kbit"]', 'args: ["--source-port=65535"]')

    done = sandbox.zdlab("run", sandbox.file(text), "--blocks", "2", "--keep-on-failure")

    assert "is still running" in done.err, done.err
    (lab,) = sandbox.zdlab("ps", "-o", "json").json()
    assert sandbox.zdlab("exec", "--lab", lab["name"], "b", "--", "true").status == 0
    assert sandbox.zdlab("down", lab["name"]).status == 0


#: Of each ready topology: arms that run in its test, and what must show in one trial of each.
READY = {
    "ns-tbf": ("stock", "deep"),
    "vm-tbf": ("stock", "deep", "zd"),
    "vm-pfifo": ("stock", "deep", "zd"),
    "vm-bridge": ("stock", "deep", "sndbuf"),
    "vm-pair": ("stock", "deep"),
    "dumbbell": ("stock", "deep"),
}


#: Of those that are run in capsules: an arm that drops, one that does not, and seconds of traffic that show it.
CAPSULES = {
    "virtual-tbf": (("stock", "zd"), 3),
    "nested-tbf": (("stock-gso", "zd-both-gso"), 3),
    "nested-pfifo": (("stock", "zd-both"), 1),
    "nested-many": (("stock", "zd-hypervisor"), 1),
}


def test_every_ready_topology_is_run_here_or_has_known_results() -> None:
    assert {path.stem for path in TOPOLOGIES.glob("*.yaml")} == {*READY, *CAPSULES, *SEEDS}


@pytest.mark.parametrize("name", CAPSULES)
def test_ready_topologies_show_in_capsules_what_they_say(sandbox: Sandbox, name: str) -> None:
    arms, seconds = CAPSULES[name]
    text = re.sub(r"duration: \d+s", f"duration: {seconds}s", (TOPOLOGIES / f"{name}.yaml").read_text())
    options = ("--clock", "virtual", "--no-repeat", "--blocks", "1", "--seed", "1", "--arms", ",".join(arms))

    done = sandbox.zdlab("run", sandbox.file(text), *options, "-o", "json", timeout=500)

    found = done.json()
    worse, better = (found["arms"][arm] for arm in arms)
    assert worse["trials"] == better["trials"] == 1, done.out
    assert worse["qdisc_drops"][0] > 100
    # A copy of a broadcast has no owner that could wait: a question for an address, of each of four guests.
    assert better["qdisc_drops"][0] <= (4 if name == "nested-many" else 0)
    assert better["device_drops"] == better["softnet_drops"] == [0]
    assert better["throughput_bps"][0] > 0.95 * worse["throughput_bps"][0]
    if name.startswith("nested"):
        # Out of the sight of the guests' TCP.
        assert worse["retransmits"][0] > 100
        assert better["retransmits"][0] <= 0.1 * worse["retransmits"][0]
    if name == "nested-many":
        assert better["jain_workloads"][0] > 0.95


def test_with_many_flows_zd_in_the_hypervisor_alone_moves_the_drops_into_the_guest(sandbox: Sandbox) -> None:
    text = (TOPOLOGIES / "nested-flows.yaml").read_text()
    # All of them begin at once, for a short time.
    for old, new in {"duration: 10s": "duration: 3s", '"--start-jitter", "4"': '"--start-jitter", "0.5"'}.items():
        assert old in text
        text = text.replace(old, new)
    options = ("--clock", "virtual", "--no-repeat", "--blocks", "1", "--seed", "1")

    sandbox.zdlab("run", sandbox.file(text), *options, "--arms", "stock,zd-hypervisor,zd-both", timeout=500)

    rows = list(csv.DictReader(sandbox.zdlab("results", "--csv").out.splitlines()))
    seen = {(row["arm"], row["node"], row["metric"]): float(row["value"]) for row in rows}
    assert seen["stock", "br", "qdisc_drops"] == seen["stock", "", "lost"] > 100
    assert seen["zd-hypervisor", "a", "qdisc_drops"] == seen["zd-hypervisor", "", "lost"] > 100
    assert seen["zd-both", "", "lost"] == 0
    assert seen["zd-both", "a", "zd_parked"] > 100
    assert seen["zd-both", "", "retransmits"] <= 0.1 * seen["stock", "", "retransmits"]


@pytest.mark.parametrize("name", READY)
def test_ready_topologies_show_what_they_say(sandbox: Sandbox, name: str) -> None:
    arms = ",".join(READY[name])

    done = sandbox.zdlab("run", TOPOLOGIES / f"{name}.yaml", "--blocks", "1", "--arms", arms, "-o", "json")

    found = done.json()
    stock, deep = found["arms"]["stock"], found["arms"]["deep"]
    assert stock["trials"] == deep["trials"] == 1, done.out
    # The problem: the shallow queue drops, the deep one does not and holds packets for long.
    assert stock["qdisc_drops"][0] > 0
    assert deep["qdisc_drops"] == [0]
    assert deep["backlog_max_packets"][0] > stock["backlog_max_packets"][0]
    if name in {"vm-bridge", "dumbbell"}:
        # Out of TCP's sight drops become retransmits.
        assert stock["retransmits"][0] > stock["qdisc_drops"][0] / 2
        assert deep["retransmits"][0] < stock["retransmits"][0] / 2
    if "zd" in READY[name]:
        assert found["arms"]["zd"]["qdisc_drops"] == [0]
        assert found["arms"]["zd"]["backlog_max_packets"][0] < deep["backlog_max_packets"][0]
    assert found["expectations"][0]["text"] == "deep.qdisc_drops == 0"
    assert found["expectations"][0]["verdict"] == "pass", done.out


#: The arms of ready topologies with guests that no other test runs.
OTHERS = {"vm-tbf": ("fq_codel", "small-tsq"), "vm-pfifo": ("fq",)}


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_arms_of_ready_topologies_carry_traffic(sandbox: Sandbox, name: str) -> None:
    arms = OTHERS[name]
    text = (TOPOLOGIES / f"{name}.yaml").read_text()
    # A tenth of the flows, each ten times as fast, for a short time.
    shorter = {
        r"flows: (\d+)0\b": r"flows: \1",
        '"20kbit", "--start-jitter", "12"': '"200kbit", "--start-jitter", "0.2"',
        r"duration: \d+s": "duration: 2s",
        r"start: \d+s": "start: 0s",
    }
    for old, new in shorter.items():
        text = re.sub(old, new, text)

    done = sandbox.zdlab("run", sandbox.file(text), "--blocks", "1", "--arms", ",".join(arms), "-o", "json")

    found = done.json()["arms"]
    assert found.keys() == set(arms)
    for arm in arms:
        assert found[arm]["trials"] == 1, done.out
        assert 10e6 < found[arm]["throughput_bps"][0] < 61e6
        assert found[arm]["transactions_per_second"][0] > 0


def test_the_topology_in_the_readme_does_what_it_is_there_for(sandbox: Sandbox) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (TOPOLOGIES.parent / "README.md").read_text(), re.DOTALL)

    done = sandbox.zdlab("run", sandbox.file(text), "--blocks", "1", "-o", "json")

    # A comparison takes more blocks; nothing is wrong with the trials.
    assert [entry["verdict"] for entry in done.json()["expectations"]] == ["pass", "inconclusive"], done.out
    assert done.json()["arms"]["stock"]["qdisc_drops"][0] > 100


def test_the_wire_between_two_machines_is_counted(sandbox: Sandbox) -> None:
    sandbox.zdlab("run", TOPOLOGIES / "vm-pair.yaml", "--blocks", "1", "--arms", "stock", "-o", "json")

    rows = list(csv.DictReader(sandbox.zdlab("results", "--csv").out.splitlines()))

    packets = {row["node"]: int(row["value"]) for row in rows if row["metric"] == "packets"}
    assert packets["wire:wire"] > packets["a"] > 1000
