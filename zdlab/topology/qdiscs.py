"""Qdisc trees: one model per kind of queueing discipline, with the parameters ``tc`` gives it.

Fields left out keep the kernel's default. ``children`` names the qdiscs a node of the tree holds, so that
planning can walk any tree without knowing its kinds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, WithJsonSchema, model_validator

from zdlab import units
from zdlab.errors import MistakeError
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
#: Limits of qdiscs are 32 bits wide.
_U32 = 2**32 - 1
#: The kernel counts rates in bytes a second.
_SLOWEST = 8


def _power_of_two(number: int) -> int:
    """Return the nearest one below."""
    return 1 << (number.bit_length() - 1)


class _Qdisc(Model):
    """What all kinds share: they may hold no children."""

    def children(self) -> Iterator[tuple[str, str, Qdisc]]:
        """Yield ``(class minor, path below this qdisc, qdisc)`` for each qdisc held directly."""
        return iter(())


class Pfifo(_Qdisc):
    """First in, first out, limited in packets (tc-bfifo(8))."""

    kind: Literal["pfifo"] = Field(description="kind of qdisc")
    limit: Packets | None = Field(
        None, ge=1, le=_U32, description="queue limit in packets; the kernel takes txqueuelen"
    )


class Bfifo(_Qdisc):
    """First in, first out, limited in bytes (tc-bfifo(8))."""

    kind: Literal["bfifo"] = Field(description="kind of qdisc")
    limit: Size | None = Field(
        None, ge=1, le=_U32, description="queue limit in bytes; the kernel takes txqueuelen x MTU"
    )


class PfifoFast(_Qdisc):
    """Three bands by priority, the classic default (tc-pfifo_fast(8)); its limit is txqueuelen."""

    kind: Literal["pfifo_fast"] = Field(description="kind of qdisc")


class Tbf(_Qdisc):
    """Token bucket filter: shapes to a rate (tc-tbf(8))."""

    kind: Literal["tbf"] = Field(description="kind of qdisc")
    rate: Rate = Field(description="rate in bit/s", examples=["200mbit"])
    burst: Size = Field(
        le=_U32, description="bucket size in bytes; at least rate / HZ and one packet", examples=["32kb"]
    )
    limit: Size | None = Field(None, ge=1, le=_U32, description="bytes that may wait; give this or latency")
    latency: Time | None = Field(None, ge=1, description="longest time a packet may wait; give this or limit")
    peakrate: Rate | None = Field(None, description="rate at which the bucket itself is emptied, in bit/s")
    minburst: Size | None = Field(None, description="bucket of the peak rate in bytes, about the MTU")
    child: Qdisc | None = Field(None, description="qdisc inside in place of the built-in bfifo")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.limit is None) == (self.latency is None):
            raise MistakeError(
                "tbf needs either limit (bytes) or latency (time), and not both", "write limit: 150kb or latency: 5ms"
            )
        if (self.peakrate is None) != (self.minburst is None):
            raise MistakeError(
                "tbf: peakrate and minburst go together",
                "add minburst: 2kb" if self.minburst is None else "add a peakrate above the rate",
            )
        if self.rate < _SLOWEST or self.burst == 0:
            raise MistakeError(
                "tbf: rate must be at least 8bit, a byte a second, and burst above zero",
                "write rate: 200mbit, burst: 32kb",
            )
        if self.peakrate is not None and self.peakrate <= self.rate:
            raise MistakeError(
                "tbf: peakrate is the higher of the two rates",
                f"write one above {units.format_rate(self.rate)}, or leave out peakrate and minburst",
            )
        return self

    def children(self) -> Iterator[tuple[str, str, Qdisc]]:
        """Yield the inner qdisc, held by class 1."""
        if self.child is not None:
            yield "1", "child", self.child


class HtbClass(Model):
    """One class of htb (tc-htb(8))."""

    id: ClassId = Field(description="minor number in hexadecimal, 1 to ffff", examples=["10"])
    rate: Rate = Field(description="guaranteed rate in bit/s", examples=["100mbit"])
    ceil: Rate | None = Field(None, description="rate up to which it may borrow; its own rate when left out")
    burst: Size | None = Field(None, description="bucket of the rate in bytes")
    cburst: Size | None = Field(None, description="bucket of the ceil in bytes")
    prio: int | None = Field(None, ge=0, le=7, description="who borrows first, 0 before 7")
    quantum: Size | None = Field(None, description="bytes served before the next class has its turn")
    qdisc: Qdisc | None = Field(None, description="qdisc of a leaf class")
    classes: tuple[HtbClass, ...] = Field((), description="classes below this one, which share its rate")

    @model_validator(mode="after")
    def _leaf_or_inner(self) -> Self:
        if self.classes and self.qdisc is not None:
            raise MistakeError(
                f"htb class {self.id}: only a class without classes below it holds a qdisc",
                "give the qdisc to one of the classes below",
            )
        if self.rate < _SLOWEST:
            raise MistakeError(
                f"htb class {self.id}: rate must be at least 8bit, a byte a second", "write rate: 100mbit"
            )
        if self.ceil is not None and self.ceil < self.rate:
            raise MistakeError(
                f"htb class {self.id}: ceil is what it may borrow up to, and not below its rate",
                f"write ceil: {units.format_rate(self.rate)} or more, or leave it out",
            )
        return self


class Htb(_Qdisc):
    """Hierarchical token bucket (tc-htb(8))."""

    kind: Literal["htb"] = Field(description="kind of qdisc")
    default: ClassId = Field(description="class of packets that nothing classifies", examples=["10"])
    r2q: int | None = Field(None, ge=1, description="divides the rate to give a class its quantum")
    classes: tuple[HtbClass, ...] = Field(
        min_length=1, description="its classes", examples=["[{id: 10, rate: 100mbit}]"]
    )

    @model_validator(mode="after")
    def _ids(self) -> Self:
        seen: set[str] = set()
        leaves: set[str] = set()
        for _, _, item in self.walk():
            if item.id in seen:
                raise MistakeError(f"htb: class {item.id} stands twice", "give one of them another id")
            seen.add(item.id)
            if not item.classes:
                leaves.add(item.id)
        if self.default not in leaves:
            raise MistakeError(
                f"htb: default {self.default!r} is not one of its leaf classes",
                f"its leaf classes: {', '.join(sorted(leaves))}",
            )
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

    kind: Literal["prio"] = Field(description="kind of qdisc")
    bands: int = Field(3, ge=2, le=16, description="number of bands; the first is served first")
    priomap: tuple[int, ...] | None = Field(
        None, min_length=16, max_length=16, description="band of each priority 0 to 15, counted from 0"
    )
    qdiscs: dict[int, Qdisc] = Field(default_factory=dict, description="qdisc of a band, counted from 1")

    @model_validator(mode="after")
    def _bands(self) -> Self:
        for band in self.qdiscs:
            if not 1 <= band <= self.bands:
                raise MistakeError(
                    f"prio: band {band} is not one of 1 to {self.bands}", "name one of these, or raise bands"
                )
        for band in self.priomap or ():
            if not 0 <= band < self.bands:
                raise MistakeError(f"prio: priomap names band {band}", f"bands there count 0 to {self.bands - 1}")
        if self.priomap is None and self.bands != 3:
            raise MistakeError(
                "prio: give priomap when bands is not 3",
                "name a band for each of the 16 priorities: priomap: [1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]",
            )
        return self

    def children(self) -> Iterator[tuple[str, str, Qdisc]]:
        """Yield the bands' qdiscs."""
        for band, qdisc in sorted(self.qdiscs.items()):
            yield f"{band:x}", f"qdiscs.{band}", qdisc


class Fq(_Qdisc):
    """Fair queue with pacing (tc-fq(8))."""

    kind: Literal["fq"] = Field(description="kind of qdisc")
    limit: Packets | None = Field(None, description="packets that may wait in all")
    flow_limit: Packets | None = Field(None, description="packets of one flow that may wait")
    quantum: Size | None = Field(None, description="bytes of a flow served before the next has its turn")
    initial_quantum: Size | None = Field(None, description="bytes a new flow may send at first")
    maxrate: Rate | None = Field(None, description="no flow is sent faster, in bit/s")
    buckets: int | None = Field(None, ge=1, le=1 << 18, description="size of the table of flows, a power of two")
    pacing: Switch | None = Field(None, description="heed the rates sockets ask for")
    orphan_mask: int | None = Field(None, ge=0, description="mask of the hash of packets without a socket")
    refill_delay: Time | None = Field(None, description="idle time after which a flow counts as new")

    @model_validator(mode="after")
    def _buckets(self) -> Self:
        if self.buckets is not None and self.buckets & (self.buckets - 1):
            raise MistakeError("fq: buckets is a power of two", f"write {_power_of_two(self.buckets)}")
        return self


class FqCodel(_Qdisc):
    """Fair queue with controlled delay (tc-fq_codel(8))."""

    kind: Literal["fq_codel"] = Field(description="kind of qdisc")
    limit: Packets | None = Field(None, description="packets that may wait")
    flows: int | None = Field(None, ge=1, le=65536, description="number of queues")
    target: Time | None = Field(None, description="waiting time that is acceptable for long")
    interval: Time | None = Field(None, description="how long it may be above the target before drops begin")
    quantum: Size | None = Field(None, description="bytes of a queue served before the next has its turn")
    ecn: Switch | None = Field(None, description="mark packets where they agree to it, in place of drops")
    memory_limit: Size | None = Field(None, le=_U32, description="memory that waiting packets may take")


class Codel(_Qdisc):
    """Controlled delay (tc-codel(8))."""

    kind: Literal["codel"] = Field(description="kind of qdisc")
    limit: Packets | None = Field(None, description="packets that may wait")
    target: Time | None = Field(None, description="waiting time that is acceptable for long")
    interval: Time | None = Field(None, description="how long it may be above the target before drops begin")
    ecn: Switch | None = Field(None, description="mark packets where they agree to it, in place of drops")


class Sfq(_Qdisc):
    """Stochastic fairness queueing (tc-sfq(8))."""

    kind: Literal["sfq"] = Field(description="kind of qdisc")
    limit: Packets | None = Field(None, ge=2, description="packets that may wait")
    perturb: Time | None = Field(None, description="time between changes of the hash, whole seconds")
    quantum: Size | None = Field(None, description="bytes of a flow served before the next has its turn")
    divisor: int | None = Field(None, ge=1, le=65536, description="size of the table of flows, a power of two")

    @model_validator(mode="after")
    def _divisor(self) -> Self:
        if self.divisor is not None and self.divisor & (self.divisor - 1):
            raise MistakeError("sfq: divisor is a power of two", f"write {_power_of_two(self.divisor)}")
        return self


class Red(_Qdisc):
    """Random early detection (tc-red(8))."""

    kind: Literal["red"] = Field(description="kind of qdisc")
    limit: Size = Field(description="bytes that may wait; all above is dropped", examples=["400kb"])
    min: Size = Field(description="average queue in bytes at which drops begin", examples=["30kb"])
    max: Size = Field(description="average queue in bytes at which probability is reached", examples=["90kb"])
    avpkt: Size = Field(1000, description="bytes of an average packet")
    burst: Packets | None = Field(None, description="packets in a burst before the average follows")
    probability: Probability = Field(0.02, description="of a drop at max, 0 to 1")
    bandwidth: Rate = Field(10_000_000, description="rate in bit/s, for the average while the queue is empty")
    ecn: Switch = Field(False, description="mark packets where they agree to it, in place of drops")

    @model_validator(mode="after")
    def _thresholds(self) -> Self:
        if not 0 < self.min < self.max <= self.limit:
            raise MistakeError(
                "red: its thresholds are 0 < min < max <= limit", "write min: 30kb, max: 90kb, limit: 400kb, say"
            )
        if self.probability == 0:
            raise MistakeError("red: probability is above zero", "write probability: 0.02, the default")
        return self


class Netem(_Qdisc):
    """Network emulator: delay, loss, duplication, a rate (tc-netem(8))."""

    kind: Literal["netem"] = Field(description="kind of qdisc")
    delay: Time | None = Field(None, description="every packet waits this long")
    jitter: Time | None = Field(None, description="the delay varies by so much")
    loss: Probability | None = Field(None, description="fraction of packets lost, 0 to 1")
    duplicate: Probability | None = Field(None, description="fraction of packets sent twice, 0 to 1")
    reorder: Probability | None = Field(None, description="fraction of packets sent without the delay, 0 to 1")
    corrupt: Probability | None = Field(None, description="fraction of packets with a bit changed, 0 to 1")
    rate: Rate | None = Field(None, description="rate in bit/s packets leave at")
    limit: Packets | None = Field(None, description="packets that may wait")
    child: Qdisc | None = Field(None, description="qdisc inside")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.jitter is not None and self.delay is None:
            raise MistakeError("netem: jitter needs delay", "add delay: 5ms, say")
        if self.reorder is not None and self.delay is None:
            raise MistakeError("netem: reorder needs delay", "add delay: 5ms, say")
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
