"""Queues: the limit of each is known, and when it was full."""

from __future__ import annotations

import pytest

from zdlab.measure.counters import NodeDelta
from zdlab.measure.queues import Queue, limited_queues, observed_queues
from zdlab.measure.samples import QdiscSample, Sample
from zdlab.plan.build import build_plan
from zdlab.topology import parse_topology


def _queues(end: str) -> list[Queue]:
    text = f"nodes: {{a: {{kind: host}}, b: {{kind: host}}}}\nlinks: {{w: {{ends: {{a: {end}, b: {{}}}}}}}}\n"
    return list(limited_queues(build_plan(parse_topology(text).base, "test")))


@pytest.mark.parametrize(
    ("end", "limit", "unit"),
    [
        ("{qdisc: {kind: tbf, rate: 8mbit, burst: 10kb, limit: 64kb}}", 65_536, "B"),
        # what the rate sends in that time, and the bucket
        ("{qdisc: {kind: tbf, rate: 8mbit, burst: 10kb, latency: 50ms}}", 50_000 + 10_240, "B"),
        ("{qdisc: {kind: pfifo, limit: 7p}}", 7, "packets"),
        ("{qdisc: {kind: pfifo}}", 1000, "packets"),
        ("{txqueuelen: 20p, qdisc: {kind: pfifo}}", 20, "packets"),
        ("{txqueuelen: 20p, qdisc: {kind: pfifo_fast}}", 20, "packets"),
        ("{qdisc: {kind: bfifo, limit: 9kb}}", 9_216, "B"),
        ("{txqueuelen: 20p, mtu: 986, qdisc: {kind: bfifo}}", 20_000, "B"),
        ("{qdisc: {kind: fq}}", 10_000, "packets"),
        ("{qdisc: {kind: fq, limit: 5p}}", 5, "packets"),
        ("{qdisc: {kind: fq_codel}}", 10_240, "packets"),
        ("{qdisc: {kind: codel}}", 1_000, "packets"),
        ("{qdisc: {kind: sfq}}", 127, "packets"),
        ("{qdisc: {kind: netem, delay: 5ms}}", 1_000, "packets"),
        ("{qdisc: {kind: red, limit: 60kb, min: 10kb, max: 20kb}}", 61_440, "B"),
    ],
)
def test_the_limit_of_every_kind_is_known(end: str, limit: int, unit: str) -> None:
    (queue,) = _queues(end)

    assert (queue.node, queue.interface, queue.handle) == ("a", "eth0", "1:")
    assert (queue.limit, queue.unit) == (limit, unit)


def test_a_shaper_with_a_child_leaves_the_limit_to_it() -> None:
    child = "{qdisc: {kind: tbf, rate: 8mbit, burst: 10kb, limit: 64kb, child: {kind: pfifo, limit: 3p}}}"

    assert [(queue.handle, queue.kind, queue.limit) for queue in _queues(child)] == [("2:", "pfifo", 3)]


def test_classful_qdiscs_and_ingress_hold_nothing_themselves() -> None:
    assert _queues("{ingress: on}") == []
    assert [queue.kind for queue in _queues("{qdisc: {kind: prio, qdiscs: {1: {kind: codel}}}}")] == ["codel"]


def _sample(at_ms: int, qlen: int, backlog: int) -> Sample:
    row = QdiscSample("eth0", "tbf", 0x10000, 0xFFFFFFFF, 0, 0, 0, 0, 0, qlen, backlog)
    return Sample(at_ms * 1_000_000, 0, 0, 0, 0, (row,))


_BYTES = Queue("a", "eth0", "1:", "tbf", 10_000, "B", frame=1_514)
_PACKETS = Queue("a", "eth0", "1:", "pfifo", 10, "packets", frame=1_514)


def _observed(queue: Queue, *samples: Sample, drops: int = 0) -> Queue:
    deltas = {"a": NodeDelta({}, qdisc_drops={("eth0", 0x10000): drops})}
    (found,) = observed_queues([queue], {"a": samples}, {"a": 1_000_000_000}, deltas)
    return found


def test_a_queue_of_bytes_is_full_when_one_more_frame_does_not_fit() -> None:
    roomy = _observed(_BYTES, _sample(1100, 5, 8_486))
    full = _observed(_BYTES, _sample(1100, 5, 8_486), _sample(1200, 6, 8_487), _sample(1300, 1, 9_999))

    assert (roomy.full, roomy.full_after_s, roomy.peak) == (False, None, 8_486)
    assert (full.full, full.full_after_s, full.peak) == (True, 0.2, 9_999)


def test_a_queue_of_packets_is_full_at_its_limit() -> None:
    roomy = _observed(_PACKETS, _sample(1100, 9, 99_999))
    full = _observed(_PACKETS, _sample(1100, 9, 0), _sample(1500, 10, 0), _sample(1600, 3, 0))

    assert (roomy.full, roomy.peak) == (False, 9)
    assert (full.full, full.full_after_s, full.peak) == (True, 0.5, 10)


def test_a_queue_that_dropped_was_full_whatever_the_samples_saw() -> None:
    queue = _observed(_BYTES, _sample(1100, 1, 100), drops=3)

    assert queue.full
    assert (queue.drops, queue.full_after_s) == (3, None)


def test_queues_of_other_nodes_and_handles_are_left_alone() -> None:
    elsewhere = [
        Queue("b", "eth0", "1:", "tbf", 100, "B"),
        Queue("a", "eth1", "1:", "tbf", 100, "B"),
        Queue("a", "eth0", "2:", "tbf", 100, "B"),
    ]
    deltas = {"a": NodeDelta({}), "b": NodeDelta({})}
    found = observed_queues(elsewhere, {"a": [_sample(1100, 99, 9_999)]}, {"a": 0, "b": 0}, deltas)

    assert {(queue.full, queue.peak) for queue in found} == {(False, 0)}


def test_a_queue_names_itself() -> None:
    assert str(_BYTES) == "tbf 1: of a:eth0"
    assert Queue("a", "eth0", "a:", "fq", 1, "packets").number == 0xA0000
