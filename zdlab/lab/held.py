"""What a kernel holds of the qdiscs and classes it was given, compared with what was asked for.

Most of it is told by ``tc``, which knows the kernel's units. The rest is read from netlink: ``tc`` writes no peak rate
of tbf into its JSON, nor buckets as numbers where it tells details, and nothing of classes. Every parameter of an
operation must be told by one or the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pyroute2.netlink.rtnl.tcmsg.common import red_eval_ewma, red_eval_idle_damping

from zdlab import units
from zdlab.errors import ReadbackError
from zdlab.plan.operations import AddClass, AddQdisc

#: The kernel keeps bursts as transmission times in ticks of 64 ns (PSCHED_SHIFT): that much is lost at most.
_TICK_NS: Final = 64
#: Most such ticks: 32 bits, 274 seconds.
_MOST_TICKS: Final = (1 << 32) - 1

#: The rate at which the kernel counts a bucket in time.
_RATE_OF: Final = {"burst": "rate", "cburst": "ceil", "minburst": "peakrate"}

_RATES: Final = {"rate", "ceil", "peakrate", "maxrate", "bandwidth"}
_TIMES: Final = {"latency", "delay", "jitter", "target", "interval", "refill_delay", "perturb"}
_FRACTIONS: Final = {"loss", "duplicate", "reorder", "corrupt", "probability"}
_SIZES: Final = {"burst", "cburst", "minburst", "quantum", "initial_quantum", "memory_limit", "min", "max", "avpkt"}
_PACKETS: Final = {"limit", "flow_limit"}
_IN_BYTES: Final = {"bfifo", "tbf", "red"}
#: Nanoseconds of what tc tells in other units.
_UNITS: Final = {"latency": 1000, "target": 1000, "interval": 1000, "refill_delay": 1000, "perturb": 10**9}
#: What tc calls differently.
_TOLD_AS: Final = {"latency": "lat"}
#: What tc leaves out when it is so.
_LEFT_OUT: Final = {"ecn": False, "pacing": True, "perturb": 0}


def check_qdisc(node: str, operation: AddQdisc, told: Mapping[str, Any] | None, *, jiffy_ns: int) -> None:
    """Compare a qdisc with what the kernel holds.

    :param told: its row of ``tc -json -raw -details qdisc``, with tbf's buckets as numbers.
    :param jiffy_ns: length of the kernel's jiffy.
    :raises ReadbackError: when the kernel holds another kind, or another value beyond its own rounding.
    """
    where = f"{node} {operation.interface} qdisc {operation.handle.rstrip(':')}"
    if told is None or told.get("kind") != operation.kind:
        message = f"{where}: set {operation.kind}, the kernel holds {told['kind'] if told else 'none'}"
        raise ReadbackError(message, hint="choose a qdisc its kernel has", origin=operation.origin)
    options = told.get("options") or {}
    for name, value in _comparable(operation):
        held = _netem(name, options) if operation.kind == "netem" else _told(name, options)
        _compare(f"{where} ({operation.kind})", operation, name, value, held, jiffy_ns)


def check_class(node: str, operation: AddClass, held: Mapping[str, int] | None) -> None:
    """Compare a class with what the kernel holds: its parameters in the units of the plan.

    :raises ReadbackError: when the kernel holds another value beyond its own rounding.
    """
    where = f"{node} {operation.interface} class {operation.classid}"
    if held is None:
        message = f"{where}: set, and the kernel does not hold it"
        raise ReadbackError(message, hint="write what the kernel can hold", origin=operation.origin)
    for name, value in operation.options:
        _compare(where, operation, name, value, held.get(name), 0)


def burst_bytes(rate: int, ticks: int) -> int:
    """Return the size of a bucket the kernel keeps as ticks at a rate in bit/s."""
    return round(rate / 8 * ticks * _TICK_NS / 1e9)


def _comparable(operation: AddQdisc) -> Iterator[tuple[str, Any]]:
    """Yield the parameters the kernel holds; of red's it holds what tc made of some."""
    if operation.kind != "red":
        yield from operation.options
        return
    given = dict(operation.options)
    avpkt, bandwidth = given.pop("avpkt"), given.pop("bandwidth")
    burst = given.pop("burst", (2 * given["min"] + given["max"]) // (3 * avpkt))  # tc's own default
    yield from given.items()
    ewma = red_eval_ewma(given["min"], burst, avpkt)
    yield "ewma of min, avpkt and burst", ewma
    yield "Scell_log of avpkt, burst and bandwidth", red_eval_idle_damping(ewma, avpkt, bandwidth // 8)[0]


def _told(name: str, options: Mapping[str, Any]) -> Any:
    """Return what tc tells of a parameter in the plan's units, ``None`` when it does not."""
    value = options.get(_TOLD_AS.get(name, name.partition(" of ")[0]), _LEFT_OUT.get(name))
    if value is None:
        return None
    if name in _RATES:
        return value * 8
    if name == "default":
        return str(value).removeprefix("0x")
    return value * _UNITS[name] if name in _UNITS else value


def _netem(name: str, options: Mapping[str, Any]) -> Any:
    """Do the same for netem, of which tc tells in groups, and only of what is not zero."""
    if name == "limit":
        return options.get(name)
    group = options.get({"loss": "loss-random", "jitter": "delay"}.get(name, name), {})
    value = group.get(name, 0)
    return value * 8 if name == "rate" else value * 1e9 if name in _TIMES else value


def _compare(where: str, operation: AddQdisc | AddClass, name: str, value: Any, held: Any, jiffy_ns: int) -> None:
    """Compare one value.

    :raises ReadbackError: when they differ by more than the kernel's rounding, or nothing is held.
    """
    kind, options = operation.kind, dict(operation.options)
    wanted = _written(kind, name, value)
    if held is None:
        message = f"{where}: set {name} to {wanted}, and neither tc nor the kernel tells what it holds"
        raise ReadbackError(
            message, hint="leave it out, or use iproute2 of Debian 12 or later", origin=operation.origin
        )
    if _agree(name, value, held, options, jiffy_ns):
        return
    hint = "write what the kernel can hold"
    rate = options.get(_RATE_OF.get(name, ""))
    if rate is not None and kind in {"tbf", "htb"} and value > burst_bytes(rate, _MOST_TICKS):
        longest = units.format_size(burst_bytes(rate, _MOST_TICKS))
        hint = f"a bucket takes 274 s at most at its rate, {longest} at {units.format_rate(rate)}: raise the rate"
    message = f"{where}: set {name} to {wanted}, the kernel holds {_written(kind, name, held)}"
    raise ReadbackError(message, hint=hint, origin=operation.origin)


def _agree(name: str, value: Any, held: Any, options: Mapping[str, Any], jiffy_ns: int) -> bool:
    if not isinstance(value, int | float):
        return list(value) == list(held)
    return bool(abs(held - value) <= _tolerance(name, value, options, jiffy_ns))


def _tolerance(name: str, value: float, options: Mapping[str, Any], jiffy_ns: int) -> float:
    """Return by how much the kernel's rounding may move a value."""
    if name in _RATE_OF:
        rate = int(options.get(_RATE_OF[name], options.get("rate", 0)))
        return 2 + rate / 8 * 2 * _TICK_NS / 1e9 + value * 0.002
    if name in _RATES:
        return 8.0  # whole bytes per second
    if name == "refill_delay":
        return jiffy_ns + 1000.0  # the only time the kernel keeps in jiffies
    if name in _TIMES:
        return max(2000.0, value * 0.001)  # microseconds in tc, coarser for codel's 1024 ns
    return 1e-6 if name in _FRACTIONS else 0.0


def _written(kind: str, name: str, value: Any) -> str:
    """Write a value as the file has it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if name in _FRACTIONS:
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, str):
        return value
    number = round(value)
    if name in _RATES:
        return units.format_rate(number)
    if name in _TIMES:
        return units.format_time(number)
    if (kind, name) == ("red", "burst") or (name in _PACKETS and kind not in _IN_BYTES):
        return f"{number}p"
    return units.format_size(number) if name in _SIZES | _PACKETS else str(number)
