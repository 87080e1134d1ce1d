"""Decoding the samples agents take (``zdlab.agent.sampler`` writes them), and writing them for others to read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from zdlab.agent.sampler import ROW, SAMPLE
from zdlab.errors import InfrastructureError
from zdlab.measure.counters import handle_text


class QdiscSample(NamedTuple):
    """One qdisc at one time.

    :param handle: numbers as in ``tc``'s ``major:minor``, as is ``parent``.
    :param qlen: packets waiting, ``backlog`` their bytes; the rest counts from the qdisc's beginning.
    """

    interface: str
    kind: str
    handle: int
    parent: int
    bytes: int
    packets: int
    drops: int
    overlimits: int
    requeues: int
    qlen: int
    backlog: int


class Sample(NamedTuple):
    """A node at one time.

    :param monotonic_ns: the node's own monotonic clock.
    :param busy_ticks: CPU time its kernel was not idle, of ``all_ticks``.
    """

    monotonic_ns: int
    retransmits: int
    segments: int
    busy_ticks: int
    all_ticks: int
    qdiscs: tuple[QdiscSample, ...]


def decode_samples(header: Mapping[str, Any], data: bytes) -> Iterator[Sample]:
    """Yield the samples in order.

    :raises InfrastructureError: when the data is cut short.
    """
    names = {int(index): str(name) for index, name in header["interfaces"]}
    kinds = {(int(index), int(handle)): str(kind) for index, handle, kind in header["kinds"]}
    offset = 0
    while offset < len(data):
        if offset + SAMPLE.size > len(data):
            raise InfrastructureError("a node's samples are cut short")
        when, retransmits, segments, busy, ticks, count = SAMPLE.unpack_from(data, offset)
        offset += SAMPLE.size
        end = offset + count * ROW.size
        if end > len(data):
            raise InfrastructureError("a node's samples are cut short")
        rows = tuple(
            QdiscSample(names.get(row[0], str(row[0])), kinds.get((row[0], row[1]), ""), *row[1:])
            for row in ROW.iter_unpack(data[offset:end])
        )
        offset = end
        yield Sample(when, retransmits, segments, busy, ticks, rows)


@dataclass(frozen=True)
class Peak:
    """The longest queue seen in a qdisc."""

    packets: int
    bytes: int


def peaks(samples: Iterable[Sample]) -> dict[tuple[str, int], Peak]:
    """Return the longest queues by interface and handle."""
    found: dict[tuple[str, int], Peak] = {}
    for sample in samples:
        for row in sample.qdiscs:
            old = found.get((row.interface, row.handle), Peak(0, 0))
            if row.qlen > old.packets or row.backlog > old.bytes or old == Peak(0, 0):
                key = (row.interface, row.handle)
                found[key] = Peak(max(old.packets, row.qlen), max(old.bytes, row.backlog))
    return found


def sample_lines(node: str, samples: Iterable[Sample], begun_ns: int) -> Iterator[str]:
    """Yield samples as JSON, one object a line: first one of the node, then one for each of its qdiscs.

    Times are in seconds from the node's first counters. Interfaces without a queue (``noqueue``) are left out:
    they count nothing.
    """
    for sample in samples:
        when = round((sample.monotonic_ns - begun_ns) / 1e9, 6)
        values = sample._asdict()
        del values["monotonic_ns"], values["qdiscs"]
        yield json.dumps({"node": node, "t": when, **values}, separators=(",", ":"))
        for row in sample.qdiscs:
            if row.kind != "noqueue":
                entry = {"node": node, "t": when, **row._asdict()}
                entry |= {"handle": handle_text(row.handle), "parent": parent_text(row.parent)}
                yield json.dumps(entry, separators=(",", ":"))


def parent_text(parent: int) -> str:
    """Write a qdisc's parent as ``tc`` does."""
    named = {0xFFFFFFFF: "root", 0xFFFFFFF1: "ingress"}
    return named.get(parent) or f"{parent >> 16:x}:{parent & 0xFFFF:x}"
