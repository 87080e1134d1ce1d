"""Queues: what each may hold, how long each got, and when it was full.

A drop counter that reads zero means something only when the queue it stands at was full. Limits come from the
plan, with the kernel's defaults where the plan leaves them open; lengths come from samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from zdlab.measure.counters import NodeDelta
from zdlab.measure.samples import Sample
from zdlab.plan.build import Plan
from zdlab.plan.operations import AddQdisc, ConfigureInterface

#: Limits of kinds that are told none, in packets: sch_fq.c, sch_fq_codel.c, sch_codel.c, sch_sfq.c; netem's is tc's.
_DEFAULT_PACKETS: Final[Mapping[str, int]] = {
    "fq": 10_000,
    "fq_codel": 10_240,
    "codel": 1_000,
    "sfq": 127,
    "netem": 1_000,
}
_IN_BYTES: Final = frozenset({"tbf", "bfifo", "red"})
#: ``DEFAULT_TX_QUEUE_LEN`` (net/sched/sch_generic.c).
_TX_QUEUE_LENGTH: Final = 1_000
_ETHERNET_HEADER: Final = 14
_NS: Final = 10**9


@dataclass(frozen=True)
class Queue:
    """A queue with a limit, and what became of it in a trial.

    :param handle: as ``tc`` writes it.
    :param limit: what it may hold, in ``unit``.
    :param frame: bytes of a full frame: when fewer are free, the next packet may not fit.
    :param peak: the most a sample saw in it, in ``unit``.
    :param drops: packets it dropped, its children's included.
    :param full_after_s: seconds from the first counters to the first sample that saw it full; ``None``: none did.
    """

    node: str
    interface: str
    handle: str
    kind: str
    limit: int
    unit: Literal["B", "packets"]
    frame: int = 0
    peak: int = 0
    drops: int = 0
    full_after_s: float | None = None

    @property
    def full(self) -> bool:
        """Whether it ran out of room, which it did for certain when it dropped."""
        return self.drops > 0 or self.full_after_s is not None

    @property
    def number(self) -> int:
        """The handle as the kernel numbers it."""
        return int(self.handle.rstrip(":"), 16) << 16

    def is_full(self, packets: int, size: int) -> bool:
        """Tell whether there is no room for one more full frame."""
        return packets >= self.limit if self.unit == "packets" else size + self.frame > self.limit

    def __str__(self) -> str:
        """Name it."""
        return f"{self.kind} {self.handle} of {self.node}:{self.interface}"


def limited_queues(plan: Plan) -> tuple[Queue, ...]:
    """Return the queues of a plan that are bounded, in its order, with nothing seen of them yet."""
    interfaces = {
        (operation.node, operation.interface): operation
        for operation in plan.operations
        if isinstance(operation, ConfigureInterface)
    }
    qdiscs = [operation for operation in plan.operations if isinstance(operation, AddQdisc)]
    parents = {(item.node, item.interface, item.parent.partition(":")[0]) for item in qdiscs if item.parent != "root"}
    found = []
    for item in qdiscs:
        device = interfaces.get((item.node, item.interface))
        has_child = (item.node, item.interface, item.handle.rstrip(":")) in parents
        limit = _limit(item, device, has_child=has_child)
        if limit is not None:
            unit: Literal["B", "packets"] = "B" if item.kind in _IN_BYTES else "packets"
            frame = (device.mtu if device is not None else 0) + _ETHERNET_HEADER
            found.append(Queue(item.node, item.interface, item.handle, item.kind, limit, unit, frame))
    return tuple(found)


def _limit(operation: AddQdisc, device: ConfigureInterface | None, *, has_child: bool) -> int | None:
    """Return what a qdisc may hold, ``None`` for one that leaves it to its children."""
    options: dict[str, Any] = dict(operation.options)
    length = _TX_QUEUE_LENGTH if device is None or device.txqueuelen is None else device.txqueuelen
    if operation.kind == "tbf" and has_child:
        return None  # its own limit is its built-in bfifo's, which the child replaced
    if "limit" in options:
        return int(options["limit"])
    if operation.kind == "tbf":
        # As tc works it out (tc-tbf(8)): what the rate sends in this time, and the bucket.
        return int(options["rate"]) // 8 * int(options["latency"]) // _NS + int(options["burst"])
    if operation.kind in {"pfifo", "pfifo_fast"}:
        return length
    if operation.kind == "bfifo" and device is not None:
        return length * (device.mtu + _ETHERNET_HEADER)
    return _DEFAULT_PACKETS.get(operation.kind)


def observed_queues(
    queues: Iterable[Queue],
    samples: Mapping[str, Iterable[Sample]],
    begun_ns: Mapping[str, int],
    deltas: Mapping[str, NodeDelta],
) -> tuple[Queue, ...]:
    """Return the queues with what a trial showed of them.

    :param samples: of each node.
    :param begun_ns: each node's monotonic clock at its first counters.
    """
    watched: dict[str, dict[tuple[str, int], Queue]] = {}
    for queue in queues:
        drops = deltas[queue.node].qdisc_drops.get((queue.interface, queue.number), 0)
        watched.setdefault(queue.node, {})[queue.interface, queue.number] = replace(queue, drops=drops)
    for node, of_node in watched.items():
        for sample in samples.get(node, ()):
            for row in sample.qdiscs:
                seen = of_node.get((row.interface, row.handle))
                if seen is not None:
                    of_node[row.interface, row.handle] = _seen(seen, row.qlen, row.backlog, sample, begun_ns[node])
    return tuple(queue for of_node in watched.values() for queue in of_node.values())


def _seen(queue: Queue, packets: int, size: int, sample: Sample, begun_ns: int) -> Queue:
    length = packets if queue.unit == "packets" else size
    first_full = queue.full_after_s is None and queue.is_full(packets, size)
    if length <= queue.peak and not first_full:
        return queue
    after = (sample.monotonic_ns - begun_ns) / _NS if first_full else queue.full_after_s
    return replace(queue, peak=max(length, queue.peak), full_after_s=after)
