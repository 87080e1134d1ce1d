"""Experiments on real guests and flows: what they record, conclude and refuse to conclude."""

from __future__ import annotations

import csv
import gzip
import json
import re
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.virtual import SEEDS
from tests.conftest import TOPOLOGIES

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
    assert description["provenance"]["qemu"]
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
        assert max(row["drops"] for row in of_guest) == dropped
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


def test_a_guest_that_is_lost_makes_the_run_invalid(sandbox: Sandbox) -> None:
    # The guest restarts in the middle of the traffic: panic=-1 and -no-reboot end it.
    text = SMALL.replace("memory: 256mb", 'memory: 64mb, append: ["mem=40M"]')

    done = sandbox.zdlab("run", sandbox.file(text), "--blocks", "1", "--arms", "stock", "-o", "json")

    assert done.status == 4
    found = done.json()
    assert found["arms"]["stock"]["failed_trials"] == 1
    assert found["arms"]["stock"]["trials"] == 0


def test_a_failed_trials_lab_is_kept_on_request(sandbox: Sandbox) -> None:
    # Nothing gets through: the tools cannot even agree to begin.
    text = SMALL.replace("kind: tbf, rate: 30mbit, burst: 16kb, limit: 40kb", "kind: netem, loss: 1.0")
    text = text.replace("  deep: {links.wire.ends.a.qdisc.limit: 8mb}\n", "").partition("expectations")[0]
    text = text.replace('duration: 3s, args: ["-m", "1200kbit"]', 'duration: 1s, args: ["--control-timeout=3"]')

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


#: Of those that are run in capsules: an arm that drops, and one that does not.
CAPSULES = {
    "virtual-tbf": ("stock", "zd"),
    "nested-tbf": ("stock-gso", "zd-both-gso"),
    "nested-pfifo": ("stock", "zd-both"),
    "nested-many": ("stock", "zd-hypervisor"),
}


def test_every_ready_topology_is_run_here_or_has_known_results() -> None:
    assert {path.stem for path in TOPOLOGIES.glob("*.yaml")} == {*READY, *CAPSULES, *SEEDS}


@pytest.mark.parametrize("name", CAPSULES)
def test_ready_topologies_show_in_capsules_what_they_say(sandbox: Sandbox, name: str) -> None:
    text = re.sub(r"duration: \d+s", "duration: 3s", (TOPOLOGIES / f"{name}.yaml").read_text())
    options = ("--clock", "virtual", "--no-repeat", "--blocks", "1", "--seed", "1", "--arms", ",".join(CAPSULES[name]))

    done = sandbox.zdlab("run", sandbox.file(text), *options, "-o", "json", timeout=500)

    found = done.json()
    worse, better = (found["arms"][arm] for arm in CAPSULES[name])
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
    assert found["expectations"][0]["verdict"] in {"pass", "invalid"}, done.out


def test_the_wire_between_two_machines_is_counted(sandbox: Sandbox) -> None:
    sandbox.zdlab("run", TOPOLOGIES / "vm-pair.yaml", "--blocks", "1", "--arms", "stock", "-o", "json")

    rows = list(csv.DictReader(sandbox.zdlab("results", "--csv").out.splitlines()))

    packets = {row["node"]: int(row["value"]) for row in rows if row["metric"] == "packets"}
    assert packets["wire:wire"] > packets["a"] > 1000
