"""Qdiscs and classes: the words ``tc`` takes, and reading back what the kernel holds then.

``tc`` does this and not netlink by hand: it knows every kind there is, in the kernel's own units, and a guest has
it too. All of a node's qdiscs go to it as one batch on standard input; the words are numbers and names that were
checked, never a user's text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from zdlab.errors import LabError
from zdlab.guest.agent_client import AgentClient
from zdlab.lab.held import check_class, check_qdisc
from zdlab.lab.rtnetlink import read_htb_classes, read_tbf_buckets
from zdlab.plan.operations import AddClass, AddQdisc

#: Options whose value is a fraction and which tc wants in percent.
_FRACTIONS: Final = {"loss", "duplicate", "reorder", "corrupt"}
_TIMES: Final = {"latency", "delay", "target", "interval", "refill_delay"}
_SWITCHES: Final = {"ecn": ("ecn", "noecn"), "pacing": ("pacing", "nopacing")}
#: Kinds whose ``ecn`` can only be switched on.
_ECN_ONLY_ON: Final = {"red"}


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
    await _read_back(agent, operations)


async def _read_back(agent: AgentClient, operations: Sequence[AddQdisc | AddClass]) -> None:
    shown = await agent.run(["tc", "-json", "-raw", "-details", "qdisc", "show"])
    try:
        rows = json.loads(shown.stdout)
    except ValueError as error:
        raise LabError(f"{agent.name}: tc's answer is not readable: {shown.stderr.decode()}") from error
    told = {(row.get("dev"), row.get("handle")): row for row in rows}
    if any(operation.kind == "tbf" for operation in operations):
        for place, buckets in (await read_tbf_buckets(agent)).items():
            told[place]["options"] |= buckets
    classes = {}
    if any(isinstance(operation, AddClass) for operation in operations):
        classes = await read_htb_classes(agent)
    jiffy_ns = (await agent.hello()).jiffy_ns
    for operation in operations:
        if isinstance(operation, AddQdisc):
            row = told.get((operation.interface, operation.handle))
            check_qdisc(agent.name, operation, row, jiffy_ns=jiffy_ns)
        else:
            check_class(agent.name, operation, classes.get((operation.interface, operation.classid)))
