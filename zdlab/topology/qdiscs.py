"""Qdisc trees: one model per kind of queueing discipline, with the parameters ``tc`` gives it.

Fields left out keep the kernel's default. ``children`` names the qdiscs a node of the tree holds, so that
planning can walk any tree without knowing its kinds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, WithJsonSchema, model_validator

from zdlab.topology._types import Model, Packets, Rate, Size, Switch, Time

#: Minor number of a class, as ``tc`` writes it without the major one: hexadecimal, 1 to ffff.
_CLASS_ID = r"^[1-9a-f][0-9a-f]{0,3}$"
ClassId = Annotated[
    str,
    Field(pattern=_CLASS_ID, coerce_numbers_to_str=True),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": _CLASS_ID}, {"type": "integer", "minimum": 1, "maximum": 9999}]}
    ),
]
Probability = Annotated[float, Field(ge=0, le=1)]


class _Qdisc(Model):
    """What all kinds share: they may hold no children."""

    def children(self) -> Iterator[tuple[str, str, Qdisc]]:
        """Yield ``(class minor, path below this qdisc, qdisc)`` for each qdisc held directly."""
        return iter(())


class Pfifo(_Qdisc):
    """First in, first out, limited in packets (tc-bfifo(8))."""

    kind: Literal["pfifo"]
    limit: Packets | None = Field(None, description="queue limit in packets; the kernel takes txqueuelen")


class Bfifo(_Qdisc):
    """First in, first out, limited in bytes (tc-bfifo(8))."""

    kind: Literal["bfifo"]
    limit: Size | None = Field(None, description="queue limit in bytes; the kernel takes txqueuelen x MTU")


class PfifoFast(_Qdisc):
    """Three bands by priority, the classic default (tc-pfifo_fast(8)); its limit is txqueuelen."""

    kind: Literal["pfifo_fast"]


class Tbf(_Qdisc):
    """Token bucket filter: shapes to a rate (tc-tbf(8))."""

    kind: Literal["tbf"]
    rate: Rate = Field(description="rate in bit/s")
    burst: Size = Field(description="bucket size in bytes; at least rate / HZ and one packet")
    limit: Size | None = Field(None, description="bytes that may wait; give this or latency")
    latency: Time | None = Field(None, description="longest time a packet may wait; give this or limit")
    peakrate: Rate | None = Field(None, description="rate at which the bucket itself is emptied, in bit/s")
    minburst: Size | None = Field(None, description="bucket of the peak rate in bytes, about the MTU")
    child: Qdisc | None = Field(None, description="qdisc inside in place of the built-in bfifo")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.limit is None) == (self.latency is None):
            raise ValueError("tbf needs either limit (bytes) or latency (time), and not both")
        if (self.peakrate is None) != (self.minburst is None):
            raise ValueError("tbf: peakrate and minburst go together")
        if self.rate == 0 or self.burst == 0:
            raise ValueError("tbf: rate and burst must be above zero")
        return self

    def children(self) -> Iterator[tuple[str, str, Qdisc]]:
        """Yield the inner qdisc, held by class 1."""
        if self.child is not None:
            yield "1", "child", self.child


class HtbClass(Model):
    """One class of htb (tc-htb(8))."""

    id: ClassId
    rate: Rate
    ceil: Rate | None = None
    burst: Size | None = None
    cburst: Size | None = None
    prio: int | None = Field(None, ge=0, le=7)
    quantum: Size | None = None
    qdisc: Qdisc | None = Field(None, description="qdisc of a leaf class")
    classes: tuple[HtbClass, ...] = ()

    @model_validator(mode="after")
    def _leaf_or_inner(self) -> Self:
        if self.classes and self.qdisc is not None:
            raise ValueError(f"htb class {self.id}: only a class without classes below it holds a qdisc")
        if self.rate == 0:
            raise ValueError(f"htb class {self.id}: rate must be above zero")
        return self


class Htb(_Qdisc):
    """Hierarchical token bucket (tc-htb(8))."""

    kind: Literal["htb"]
    default: ClassId = Field(description="class of packets that nothing classifies")
    r2q: int | None = Field(None, ge=1)
    classes: tuple[HtbClass, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ids(self) -> Self:
        seen: set[str] = set()
        leaves: set[str] = set()
        for _, _, item in self.walk():
            if item.id in seen:
                raise ValueError(f"htb: class {item.id} stands twice")
            seen.add(item.id)
            if not item.classes:
                leaves.add(item.id)
        if self.default not in leaves:
            raise ValueError(f"htb: default {self.default!r} is not one of its leaf classes")
        return self

    def walk(self) -> Iterator[tuple[str | None, str, HtbClass]]:
        """Yield ``(parent class id, path below this qdisc, class)``, parents before children."""

        def below(
            parent: str | None, path: str, items: tuple[HtbClass, ...]
        ) -> Iterator[tuple[str | None, str, HtbClass]]:
            for index, item in enumerate(items):
                here = f"{path}.{index}"
                yield parent, here, item
                yield from below(item.id, f"{here}.classes", item.classes)

        return below(None, "classes", self.classes)

    def children(self) -> Iterator[tuple[str, str, Qdisc]]:
        """Yield the qdiscs of the leaf classes."""
        for _, path, item in self.walk():
            if item.qdisc is not None:
                yield item.id, f"{path}.qdisc", item.qdisc


class Prio(_Qdisc):
    """Bands served in strict order (tc-prio(8))."""

    kind: Literal["prio"]
    bands: int = Field(3, ge=2, le=16)
    priomap: tuple[int, ...] | None = Field(None, min_length=16, max_length=16)
    qdiscs: dict[int, Qdisc] = Field(default_factory=dict, description="qdisc of a band, counted from 1")

    @model_validator(mode="after")
    def _bands(self) -> Self:
        for band in self.qdiscs:
            if not 1 <= band <= self.bands:
                raise ValueError(f"prio: band {band} is not one of 1 to {self.bands}")
        for band in self.priomap or ():
            if not 0 <= band < self.bands:
                raise ValueError(f"prio: priomap names band {band}; bands there count 0 to {self.bands - 1}")
        if self.priomap is None and self.bands != 3:
            raise ValueError("prio: give priomap when bands is not 3")
        return self

    def children(self) -> Iterator[tuple[str, str, Qdisc]]:
        """Yield the bands' qdiscs."""
        for band, qdisc in sorted(self.qdiscs.items()):
            yield f"{band:x}", f"qdiscs.{band}", qdisc


class Fq(_Qdisc):
    """Fair queue with pacing (tc-fq(8))."""

    kind: Literal["fq"]
    limit: Packets | None = None
    flow_limit: Packets | None = None
    quantum: Size | None = None
    initial_quantum: Size | None = None
    maxrate: Rate | None = None
    buckets: int | None = Field(None, ge=1, le=1 << 18)
    pacing: Switch | None = None
    orphan_mask: int | None = Field(None, ge=0)
    refill_delay: Time | None = None


class FqCodel(_Qdisc):
    """Fair queue with controlled delay (tc-fq_codel(8))."""

    kind: Literal["fq_codel"]
    limit: Packets | None = None
    flows: int | None = Field(None, ge=1, le=65536)
    target: Time | None = None
    interval: Time | None = None
    quantum: Size | None = None
    ecn: Switch | None = None
    memory_limit: Size | None = None


class Codel(_Qdisc):
    """Controlled delay (tc-codel(8))."""

    kind: Literal["codel"]
    limit: Packets | None = None
    target: Time | None = None
    interval: Time | None = None
    ecn: Switch | None = None


class Sfq(_Qdisc):
    """Stochastic fairness queueing (tc-sfq(8))."""

    kind: Literal["sfq"]
    limit: Packets | None = Field(None, ge=2)
    perturb: Time | None = Field(None, description="time between changes of the hash, whole seconds")
    quantum: Size | None = None
    divisor: int | None = Field(None, ge=1, le=65536)


class Red(_Qdisc):
    """Random early detection (tc-red(8))."""

    kind: Literal["red"]
    limit: Size
    min: Size
    max: Size
    avpkt: Size = 1000
    burst: Packets | None = None
    probability: Probability = 0.02
    bandwidth: Rate = 10_000_000
    ecn: Switch = False

    @model_validator(mode="after")
    def _thresholds(self) -> Self:
        if not 0 < self.min < self.max <= self.limit:
            raise ValueError("red: write 0 < min < max <= limit")
        return self


class Netem(_Qdisc):
    """Network emulator: delay, loss, duplication, a rate (tc-netem(8))."""

    kind: Literal["netem"]
    delay: Time | None = None
    jitter: Time | None = None
    loss: Probability | None = Field(None, description="fraction of packets lost, 0 to 1")
    duplicate: Probability | None = None
    reorder: Probability | None = None
    corrupt: Probability | None = None
    rate: Rate | None = None
    limit: Packets | None = None
    child: Qdisc | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.jitter is not None and self.delay is None:
            raise ValueError("netem: jitter needs delay")
        if self.reorder is not None and self.delay is None:
            raise ValueError("netem: reorder needs delay")
        return self

    def children(self) -> Iterator[tuple[str, str, Qdisc]]:
        """Yield the inner qdisc, held by class 1."""
        if self.child is not None:
            yield "1", "child", self.child


Qdisc = Annotated[
    Pfifo | Bfifo | PfifoFast | Tbf | Htb | Prio | Fq | FqCodel | Codel | Sfq | Red | Netem,
    Field(discriminator="kind"),
]

for _model in (Tbf, HtbClass, Htb, Prio, Netem):
    _model.model_rebuild()


def walk(qdisc: Qdisc, path: str = "") -> Iterator[tuple[str, Qdisc]]:
    """Yield ``(path, qdisc)`` for a tree, the root first; paths are relative to ``path``."""
    yield path, qdisc
    for _, below, child in qdisc.children():
        yield from walk(child, f"{path}.{below}" if path else below)
