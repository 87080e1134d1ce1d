"""Qdiscs and classes: the words ``tc`` takes, and comparing what the kernel says it holds.

``tc`` does this and not netlink by hand: it knows every kind there is, in the kernel's own units, and a guest has
it too. All of a node's qdiscs go to it as one batch on standard input; the words are numbers and names that were
checked, never a user's text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from zdlab.errors import LabError, ReadbackError
from zdlab.guest.agent_client import AgentClient
from zdlab.lab.rtnetlink import read_htb_classes
from zdlab.plan.operations import AddClass, AddQdisc

#: Options whose value is a fraction and which tc wants in percent.
_FRACTIONS: Final = {"loss", "duplicate", "reorder", "corrupt"}
_TIMES: Final = {"latency", "delay", "target", "interval", "refill_delay"}
_SWITCHES: Final = {"ecn": ("ecn", "noecn"), "pacing": ("pacing", "nopacing")}
#: Kinds whose ``ecn`` can only be switched on.
_ECN_ONLY_ON: Final = {"red"}
#: The kernel keeps bursts as transmission times in ticks of 64 ns (PSCHED_SHIFT): that much is lost at most.
_TICK_NS: Final = 64


def tc_words(operation: AddQdisc | AddClass) -> list[str]:
    """Return ``tc``'s arguments for an operation."""
    words = ["qdisc" if isinstance(operation, AddQdisc) else "class", "add", "dev", operation.interface]
    if isinstance(operation, AddClass):
        words += ["parent", operation.parent, "classid", operation.classid]
    elif operation.kind == "ingress":
        return [*words, "handle", operation.handle, "ingress"]
    elif operation.parent == "root":
        words += ["root", "handle", operation.handle]
    else:
        words += ["parent", operation.parent, "handle", operation.handle]
    words.append(operation.kind)
    options = dict(operation.options)
    jitter = options.pop("jitter", None)
    for name, value in options.items():
        words += _option(operation.kind, name, value)
        if name == "delay" and jitter is not None:
            words.append(f"{jitter / 1000:.3f}us")
    return words


def _option(kind: str, name: str, value: Any) -> list[str]:
    if name in _SWITCHES:
        on, off = _SWITCHES[name]
        return [on] if value else [] if kind in _ECN_ONLY_ON else [off]
    if name in _FRACTIONS:
        return [name, f"{value * 100:.6f}%"]
    if name in {"rate", "ceil", "peakrate", "maxrate", "bandwidth"}:
        return [name, f"{value}bit"]
    if name in _TIMES:
        return [name, f"{value / 1000:.3f}us"]
    if name == "perturb":
        return [name, str(value // 10**9)]
    if name == "priomap":
        return [name, *map(str, value)]
    return [name, str(value)]


async def add_all(agent: AgentClient, operations: Sequence[AddQdisc | AddClass]) -> None:
    """Attach qdiscs and classes of one node, in order, and compare what its kernel then holds.

    :raises LabError: when the kernel refuses one; names it.
    :raises ReadbackError: when the kernel holds other values.
    """
    lines = "".join(" ".join(tc_words(operation)) + "\n" for operation in operations)
    done = await agent.run(["tc", "-batch", "-"], input=lines.encode())
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        failed = re.search(r"Command failed -:(\d+)", said)
        which = operations[int(failed.group(1)) - 1] if failed else operations[0]
        if "qdisc kind is unknown" in said:
            message, hint = f"the kernel of {agent.name} has no qdisc {which.kind}", "choose another qdisc or kernel"
        else:
            message = (
                f"{agent.name}: tc refused {which.describe()}: {said.splitlines()[0] if said else 'no reason given'}"
            )
            hint = "change the qdisc's parameters"
        raise LabError(message, hint=hint, origin=which.origin)
    shown = await agent.run(["tc", "-json", "-raw", "qdisc", "show"])
    try:
        rows = json.loads(shown.stdout)
    except ValueError as error:
        raise LabError(f"{agent.name}: tc's answer is not readable: {shown.stderr.decode()}") from error
    for operation in operations:
        if isinstance(operation, AddQdisc):
            _compare(agent.name, operation, rows)
    classes = [operation for operation in operations if isinstance(operation, AddClass)]
    if classes:
        _compare_classes(agent.name, classes, await read_htb_classes(agent))


def _compare(node: str, operation: AddQdisc, rows: Sequence[Mapping[str, Any]]) -> None:
    held = next(
        (row for row in rows if row.get("dev") == operation.interface and row.get("handle") == operation.handle), None
    )
    where = f"{node} {operation.interface} {operation.handle}"
    if held is None or held.get("kind") != operation.kind:
        message = f"{where}: set {operation.kind}, the kernel holds {held and held.get('kind')}"
        raise ReadbackError(message, origin=operation.origin)
    options = held.get("options") or {}
    for name, value in operation.options:
        actual = _held(operation.kind, name, options)
        if actual is not None and abs(actual - value) > _tolerance(name, value, dict(operation.options)):
            message = f"{where}: set {name} to {value}, the kernel holds {actual:g}"
            raise ReadbackError(message, hint="write what the kernel can hold", origin=operation.origin)


def _compare_classes(
    node: str, operations: Sequence[AddClass], held: Mapping[tuple[str, str], Mapping[str, int]]
) -> None:
    for operation in operations:
        where = f"{node} {operation.interface} class {operation.classid}"
        actual = held.get((operation.interface, operation.classid))
        if actual is None:
            raise ReadbackError(f"{where}: set, and the kernel does not hold it", origin=operation.origin)
        for name, value in operation.options:
            if name in actual and abs(actual[name] - value) > _tolerance(name, value, {}):
                message = f"{where}: set {name} to {value}, the kernel holds {actual[name]}"
                raise ReadbackError(message, hint="write what the kernel can hold", origin=operation.origin)


def _held(kind: str, name: str, options: Mapping[str, Any]) -> float | None:
    """Return what the kernel holds for an option in the plan's units, ``None`` when tc does not print it."""
    if kind == "netem":
        return _netem_held(name, options)
    if name in {"rate", "maxrate", "ceil"}:
        return float(options[name]) * 8 if isinstance(options.get(name), int) else None
    if name == "default":
        return None
    if name == "latency":
        return float(options["lat"]) * 1000 if "lat" in options else None
    if name in {"target", "interval", "refill_delay"}:
        return float(options[name]) * 1000 if name in options else None
    if name == "perturb":
        return float(options[name]) * 1e9 if name in options else None
    value = options.get(name)
    return float(value) if isinstance(value, int | float) else None


def _netem_held(name: str, options: Mapping[str, Any]) -> float | None:
    if name in {"delay", "jitter"}:
        group = options.get("delay")
        return float(group[name]) * 1e9 if isinstance(group, Mapping) else None
    if name == "rate":
        group = options.get("rate")
        return float(group["rate"]) * 8 if isinstance(group, Mapping) else None
    if name in _FRACTIONS:
        group = options.get("loss-random" if name == "loss" else name)
        return float(group[name]) if isinstance(group, Mapping) else None
    return float(options["limit"]) if name == "limit" else None


def _tolerance(name: str, value: int | float, options: Mapping[str, Any]) -> float:
    """Return by how much the kernel's rounding may move a value."""
    if name in {"burst", "minburst"}:
        rate = int(options.get("peakrate" if name == "minburst" else "rate", 0))
        return 2 + rate / 8 * 2 * _TICK_NS / 1e9 + value * 0.002
    if name in {"rate", "maxrate", "ceil", "peakrate"}:
        return 8.0  # whole bytes per second
    if name in _TIMES | {"jitter"}:
        return max(2000.0, value * 0.001)  # microseconds in tc, coarser for codel's 1024 ns
    return 1e-6 if name in _FRACTIONS else 0.0
