"""Applying an arm: dotted paths into a topology file, and the values that stand there instead.

``links.uplink.ends.a.qdisc.limit: 20000p`` replaces one value, ``links.uplink.ends.a.qdisc: {kind: fq}`` a
whole branch, ``null`` removes it. A path must lead through what the file already says; only its last step may
be new, so that a slip in a name is an error and not a setting nobody reads.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from typing import Any, Final

from zdlab.errors import TopologyError
from zdlab.topology.yamltree import Path, Tree

#: What an arm may change. The rest describes the experiment itself.
ROOTS: Final = ("sysctls", "nodes", "links", "workloads")

#: Mappings that may be left out of a file; an arm may start them.
BRANCHES: Final = ("sysctls", "offloads", "tap")


def split_path(dotted: str, value: Any) -> Path:
    """Split a dotted path along the keys of ``value``, the longest key first.

    Keys may hold dots themselves (``sysctls.net.ipv4.tcp_sack``), so the document decides where a step ends;
    below ``sysctls`` the rest is one key, whether the document has it or not.
    """
    path: list[str | int] = []
    rest = dotted
    here = value
    while rest:
        step, rest = (rest, "") if path and path[-1] == "sysctls" else _step(rest, here)
        path.append(step)
        if isinstance(here, Mapping):
            here = here.get(step)
        elif isinstance(here, list) and isinstance(step, int) and step < len(here):
            here = here[step]
        else:
            here = None
    return tuple(path)


def _step(rest: str, here: Any) -> tuple[str | int, str]:
    if isinstance(here, Mapping):
        for key in sorted((k for k in here), key=lambda k: len(str(k)), reverse=True):
            text = str(key)
            if rest == text:
                return key, ""
            if rest.startswith(text + "."):
                return key, rest[len(text) + 1 :]
    head, _, tail = rest.partition(".")
    return (int(head), tail) if isinstance(here, list) and head.isdecimal() else (head, tail)


def apply_overrides(tree: Tree, arm: str, overrides: Mapping[str, Any], file: str) -> Tree:
    """Return the document with one arm's values in place.

    Lines of replaced values point into the arm, where the user finds what is wrong.

    :raises TopologyError: when a path leads nowhere; names the line in the arm.
    """
    value = copy.deepcopy(tree.value)
    lines = dict(tree.lines)
    for dotted, new in overrides.items():
        origin: Path = ("arms", arm, dotted)
        line = tree.line(origin)
        if not isinstance(dotted, str) or dotted.partition(".")[0] not in ROOTS:
            raise TopologyError(
                f"arm {arm!r} cannot change {str(dotted)[:80]!r}",
                hint=f"a path starts with one of: {', '.join(ROOTS)}",
                file=file,
                line=line,
            )
        path = split_path(dotted, value)
        _replace(value, path, new, arm=arm, dotted=dotted, file=file, line=line)
        for old in [known for known in lines if known[: len(path)] == path]:
            del lines[old]
        lines[path] = line or 1
        for known, number in tree.lines.items():
            if known[: len(origin)] == origin:
                lines[(*path, *known[len(origin) :])] = number
    return Tree(value, lines)


def _replace(
    value: Any,
    path: Path,
    new: Any,
    *,
    arm: str,
    dotted: str,
    file: str,
    line: int | None,
) -> None:
    here = value
    for depth, step in enumerate(path[:-1]):
        if step in BRANCHES and isinstance(here, dict) and here.get(step) is None:
            here[step] = {}
        try:
            here = here[step]
        except (KeyError, IndexError, TypeError):
            here = None
        if not isinstance(here, dict | list):
            where = ".".join(str(part) for part in path[: depth + 1])
            raise TopologyError(
                f"arm {arm!r}: {dotted!r} leads nowhere: there is no {where!r}",
                hint=_suggest(value, path[: depth + 1]) or "name something the file has",
                file=file,
                line=line,
            )
    last = path[-1]
    if isinstance(here, list):
        if not isinstance(last, int) or last >= len(here):
            raise TopologyError(
                f"arm {arm!r}: {dotted!r} leads nowhere: the list has {len(here)} items",
                hint="count items from 0",
                file=file,
                line=line,
            )
        here[last] = copy.deepcopy(new)
    elif isinstance(here, dict):
        if len(path) == 2 and path[0] != "sysctls" and last not in here:
            raise TopologyError(
                f"arm {arm!r}: {dotted!r} leads nowhere: {path[0]} has no {str(last)!r}",
                hint=_suggest(value, path) or "an arm adds no nodes, links or workloads",
                file=file,
                line=line,
            )
        if new is None:
            here.pop(last, None)
        else:
            here[last] = copy.deepcopy(new)


def _suggest(value: Any, path: Path) -> str:
    here = value
    for step in path[:-1]:
        here = here[step]
    known = [str(key) for key in here] if isinstance(here, dict) else []
    close = difflib.get_close_matches(str(path[-1]), known, n=1)
    return f"did you mean {close[0]!r}?" if close else ""
