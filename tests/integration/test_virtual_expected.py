"""Results that are known beforehand, made by ``python -m benchmarks.virtual tests/expected/virtual-clock.json``."""

from __future__ import annotations

import json
from functools import cache
from statistics import mean, stdev
from typing import Any, Final

import pytest

from benchmarks.virtual import SEEDS, ExactCase, cases
from tests.conftest import ROOT
from zdlab.capsule.repeat import side_by_side

_EXPECTED: Final = ROOT / "tests" / "expected" / "virtual-clock.json"
_CASE: Final = ExactCase("virtual-scale", "tbf-500-zd", 1)


@cache
def _expected() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(_EXPECTED.read_text(encoding="utf-8"))
    return found


def _rows(topology: str, arm: str) -> list[dict[str, float]]:
    return [_expected()[ExactCase(topology, arm, seed).name]["figures"] for seed in range(1, SEEDS[topology] + 1)]


def _figures(topology: str, arm: str) -> dict[str, float]:
    """Return an arm's figures: means over its seeds."""
    rows = _rows(topology, arm)
    return {name: mean(row[name] for row in rows) for name in rows[0]}


def _seeds(topology: str, arm: str, name: str) -> list[float]:
    """Return one figure of each seed."""
    return [row[name] for row in _rows(topology, arm)]


def _of_node(topology: str, arm: str, node: str, name: str) -> float:
    """Return a figure of one node, of the first seed."""
    return float(_expected()[ExactCase(topology, arm, 1).name]["nodes"].get(node, {}).get(name, 0))


def test_every_case_is_there() -> None:
    assert list(_expected()) == [case.name for case in cases()]
    for entry in _expected().values():
        # An instruction takes a nanosecond.
        assert 0 < entry["figures"]["instructions"] < entry["virtual_seconds"] * 1e9


@pytest.mark.parametrize("flows", [500, 5000, 10000])
@pytest.mark.parametrize("queue", ["pfifo", "tbf"])
def test_zd_drops_nothing_however_many_flows_there_are(queue: str, flows: int) -> None:
    stock, zd = (_figures("virtual-scale", f"{queue}-{flows}-{arm}") for arm in ("stock", "zd"))

    assert stock["qdisc_drops"] > 1000
    assert zd["qdisc_drops"] == 0
    assert zd["flows_without_data"] == 0
    assert zd["timeouts"] <= stock["timeouts"]
    assert zd["throughput_bps"] > 0.98 * stock["throughput_bps"]
    assert zd["jain_index"] >= max(0.95, stock["jain_index"])
    assert zd["backlog_max_bytes"] <= stock["backlog_max_bytes"]


@pytest.mark.parametrize("kind", ["gso", "ipv6", "bfifo"])
def test_zd_drops_nothing_whatever_the_packets_are(kind: str) -> None:
    stock, zd = (_figures("virtual-queues", f"{kind}-{arm}") for arm in ("stock", "zd"))

    assert stock["qdisc_drops"] > 1000
    assert zd["qdisc_drops"] == 0
    assert zd["retransmits"] <= stock["retransmits"]
    assert zd["throughput_bps"] > 0.98 * stock["throughput_bps"]
    if kind == "gso":
        # A packet of which tbf drops a part was made in vain, and TCP hears nothing of it.
        assert zd["instructions_per_gb"] < 0.9 * stock["instructions_per_gb"]


def test_behind_a_bridge_retransmits_end_and_behind_a_router_nothing_changes() -> None:
    stock, zd = (_figures("virtual-hidden", f"bridge-{arm}") for arm in ("stock", "zd"))
    routed, unchanged = (_figures("virtual-hidden", f"router-{arm}") for arm in ("stock", "zd"))

    assert stock["retransmits"] > 0.5 * stock["qdisc_drops"] > 500
    assert zd["qdisc_drops"] == zd["retransmits"] == 0
    assert unchanged["qdisc_drops"] == pytest.approx(routed["qdisc_drops"], rel=0.2)


def test_switched_off_the_patched_kernel_is_the_unpatched_one() -> None:
    stock, off, zd = (_figures("virtual-cost", f"free-{arm}") for arm in ("stock", "off", "zd"))

    assert off["instructions_per_gb"] == pytest.approx(stock["instructions_per_gb"], rel=0.005)
    assert off["throughput_bps"] == pytest.approx(stock["throughput_bps"], rel=0.005)
    # Switched on where no queue is ever full.
    assert zd["qdisc_drops"] == stock["qdisc_drops"] == 0
    assert zd["instructions_per_gb"] < 1.005 * stock["instructions_per_gb"]


@pytest.mark.parametrize("name", ["qdisc_drops", "throughput_bps", "segments_sent", "instructions_per_gb"])
def test_switched_off_a_full_queue_does_what_that_of_the_unpatched_kernel_does(name: str) -> None:
    """As far as one seed differs from another: five of each."""
    stock, off = (_seeds("virtual-cost", f"full-{arm}", name) for arm in ("stock", "off"))

    assert abs(mean(off) - mean(stock)) < 2 * max(stdev(stock), stdev(off))


def test_a_queue_that_makes_wait_is_no_slower_than_one_that_holds_it_all() -> None:
    zd, deep = (_figures("virtual-latency", arm) for arm in ("zd", "deep"))

    assert zd["qdisc_drops"] == deep["qdisc_drops"] == 0
    assert zd["throughput_bps"] > 0.98 * deep["throughput_bps"]
    assert zd["latency_mean_s"] < deep["latency_mean_s"]
    assert zd["backlog_max_bytes"] < 0.1 * deep["backlog_max_bytes"]
    assert zd["instructions_per_gb"] < deep["instructions_per_gb"]


@pytest.mark.parametrize("gso", ["", "-gso"], ids=["frames", "gso"])
@pytest.mark.parametrize("topology", ["nested-tbf", "nested-pfifo"])
def test_pressure_of_the_hypervisors_queue_reaches_the_guests_sockets(topology: str, gso: str) -> None:
    stock, zd = (_figures(topology, f"{arm}{gso}") for arm in ("stock", "zd-both"))
    again, spared = (_of_node(topology, f"{arm}{gso}", "a", "retransmits") for arm in ("stock", "zd-both"))

    assert _of_node(topology, f"stock{gso}", "br", "qdisc_drops") > 100
    assert again > 100
    assert zd["qdisc_drops"] == 0
    assert spared <= 0.1 * again
    assert zd["throughput_bps"] > 0.95 * stock["throughput_bps"]


@pytest.mark.parametrize(
    ("control", "arm"), [("stock", "zd-hypervisor"), ("stock", "zd-both"), ("stock-gso", "zd-both-gso")]
)
def test_guests_of_one_uplink_have_equal_parts(control: str, arm: str) -> None:
    stock, zd = _figures("nested-many", control), _figures("nested-many", arm)

    assert stock["qdisc_drops"] > 100
    # A copy of a broadcast has no owner that could wait: a question for an address, of each of four guests.
    assert zd["qdisc_drops"] <= 4
    assert zd["retransmits"] <= 0.1 * stock["retransmits"]
    assert zd["jain_workloads"] > 0.95
    assert zd["bytes_delivered"] > 0.95 * stock["bytes_delivered"]
    # With packets of several segments what waits in a guest's ring is too long for some retransmit timers: these flows
    # end late.
    assert zd["throughput_bps"] > (0.75 if arm.endswith("-gso") else 0.95) * stock["throughput_bps"]


def test_a_case_comes_out_as_it_is_known_to() -> None:
    """To the bit where kernel, image and QEMU are those it was made with; else the same twice, and the same answer."""
    expected = _expected()[_CASE.name]
    setup = _CASE.setup()
    same = _CASE.identity(setup).items() <= expected.items()

    runs = side_by_side(lambda _number: _CASE.run(setup), range(1 if same else 2), 2)

    assert all(run == runs[0] for run in runs)
    if same:
        assert runs[0].items() <= expected.items()
    assert runs[0]["figures"]["qdisc_drops"] == expected["figures"]["qdisc_drops"] == 0
    assert runs[0]["figures"]["bytes_delivered"] > 0.9 * expected["figures"]["bytes_delivered"]
