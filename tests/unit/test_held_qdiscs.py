"""What a kernel holds of a qdisc against what was asked for: every parameter counts, in the words of the file."""

from __future__ import annotations

from typing import Any

import pytest

from zdlab.errors import ReadbackError
from zdlab.lab.held import check_class, check_qdisc
from zdlab.plan.operations import AddClass, AddQdisc

JIFFY = 4_000_000
#: What ``tc -json -raw -details qdisc`` (iproute2 6.1, Linux 6.12) tells, and tbf's buckets as zdlab adds them.
TOLD: dict[str, dict[str, Any]] = {
    "tbf": {"rate": 2500000, "lat": 50000, "limit": 141384, "burst": 16384, "minburst": 1540, "peakrate": 5000000},
    "htb": {"r2q": 20, "default": "0x1a", "direct_packets_stat": 0, "ver": "3.17", "direct_qlen": 1000},
    "prio": {"bands": 4, "priomap": [1, 2, 2, 2, 1, 2, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1], "multiqueue": False},
    "fq": {"limit": 2000, "quantum": 3028, "maxrate": 1250000, "refill_delay": 32000, "pacing": False},
    "fq_codel": {"limit": 800, "flows": 512, "target": 4999, "interval": 99999, "memory_limit": 1048576, "ecn": True},
    "red": {
        "limit": 409600,
        "min": 30720,
        "max": 92160,
        "ecn": False,
        "ewma": 5,
        "probability": 0.05,
        "Scell_log": 12,
    },
    "netem": {"limit": 500, "delay": {"delay": 0.02, "jitter": 0.002, "correlation": 0}, "gap": 0},
    "sfq": {"limit": 100, "quantum": 1514, "depth": 127, "flows": 100, "divisor": 512},
}
PRIOMAP = (1, 2, 2, 2, 1, 2, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1)
RED = {"limit": 409600, "min": 30720, "max": 92160, "avpkt": 1000, "probability": 0.05, "bandwidth": 100_000_000}


def check(kind: str, **options: Any) -> None:
    operation = AddQdisc(
        node="a", interface="eth0", kind=kind, handle="1:", parent="root", options=tuple(options.items())
    )
    check_qdisc("a", operation, {"kind": kind, "options": TOLD[kind]}, jiffy_ns=JIFFY)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("tbf", {"rate": 20_000_000, "burst": 16384, "latency": 50_000_000, "peakrate": 40_000_000, "minburst": 1540}),
        ("htb", {"default": "1a", "r2q": 20}),
        ("prio", {"bands": 4, "priomap": PRIOMAP}),
        ("fq", {"limit": 2000, "maxrate": 10_000_000, "pacing": False}),
        ("fq", {"refill_delay": 30_000_000}),  # 30 ms are 8 jiffies of 4 ms
        ("fq_codel", {"limit": 800, "target": 5_000_000, "interval": 100_000_000, "ecn": True}),
        ("red", {**RED, "burst": 55, "ecn": False}),
        ("red", {**RED, "ecn": False}),
        ("netem", {"delay": 20_000_000, "jitter": 2_000_000, "loss": 0.0, "rate": 0, "limit": 500}),
        ("sfq", {"perturb": 0, "divisor": 512}),
    ],
)
def test_what_the_kernel_holds_as_it_was_asked_for_is_fine(kind: str, options: dict[str, Any]) -> None:
    check(kind, **options)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("tbf", {"rate": 20_000_000, "peakrate": 41_000_000}, "set peakrate to 41mbit, the kernel holds 40mbit"),
        ("htb", {"default": "10"}, "set default to 10, the kernel holds 1a"),
        ("prio", {"priomap": (0, *PRIOMAP[1:])}, "set priomap to [0, 2, 2, 2, 1, 2, 0"),
        ("fq", {"pacing": True}, "set pacing to on, the kernel holds off"),
        ("fq", {"refill_delay": 27_000_000}, "set refill_delay to 27ms, the kernel holds 32ms"),
        ("fq", {"limit": 2001}, "set limit to 2001p, the kernel holds 2000p"),
        ("fq", {"flow_limit": 100}, "set flow_limit to 100p, and neither tc nor the kernel tells"),
        ("fq_codel", {"ecn": False}, "set ecn to off, the kernel holds on"),
        ("fq_codel", {"memory_limit": 2 << 20}, "set memory_limit to 2mb, the kernel holds 1mb"),
        ("red", {**RED, "burst": 55, "probability": 0.06}, "set probability to 0.06, the kernel holds 0.05"),
        ("red", {**RED, "burst": 200}, "set ewma of min, avpkt and burst to 10, the kernel holds 5"),
        (
            "red",
            {**RED, "bandwidth": 10_000_000},
            "set Scell_log of avpkt, burst and bandwidth to 15, the kernel holds 12",
        ),
        ("netem", {"delay": 20_000_000, "loss": 0.01}, "set loss to 0.01, the kernel holds 0"),
        ("sfq", {"perturb": 10**10}, "set perturb to 10s, the kernel holds 0ns"),
    ],
)
def test_what_the_kernel_holds_otherwise_is_told_in_the_files_words(
    kind: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ReadbackError) as caught:
        check(kind, **options)

    assert caught.value.message.startswith(f"a eth0 qdisc 1 ({kind}): {words}")


def test_another_kind_or_none_is_told() -> None:
    operation = AddQdisc(node="a", interface="eth0", kind="fq", handle="1:", parent="root")

    for told, words in ({"kind": "pfifo"}, "pfifo"), (None, "none"):
        with pytest.raises(ReadbackError, match=f"^a eth0 qdisc 1: set fq, the kernel holds {words}$"):
            check_qdisc("a", operation, told, jiffy_ns=JIFFY)


def test_every_parameter_of_a_class_counts() -> None:
    held = {"rate": 10**6, "ceil": 10**6, "burst": 1600, "cburst": 1600, "prio": 1, "quantum": 1514}

    def add(**options: int) -> None:
        operation = AddClass(
            node="a", interface="eth0", kind="htb", classid="1:1", parent="1:", options=tuple(options.items())
        )
        check_class("a", operation, held)

    add(**held)
    for name, words in (
        ("burst", "3kb, the kernel holds 1600b"),
        ("prio", "3072, the kernel holds 1"),
        ("quantum", "3kb, the kernel holds 1514b"),
    ):
        with pytest.raises(ReadbackError, match=f"^a eth0 class 1:1: set {name} to {words}$"):
            add(**{**held, name: 3072})
