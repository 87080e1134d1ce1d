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

from zdlab.errors import MistakeError, TopologyError
from zdlab.topology.yamltree import Path, Tree, path_text

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


def apply_overrides(
    tree: Tree, arm: str, overrides: Mapping[str, Any], file: str
) -> tuple[Tree, tuple[TopologyError, ...]]:
    """Return the document with one arm's values in place, and what is wrong with paths that lead nowhere.

    Lines of replaced values point into the arm, where the user finds what is wrong.
    """
    value = copy.deepcopy(tree.value)
    lines = dict(tree.lines)
    wrong: list[TopologyError] = []
    for dotted, new in overrides.items():
        origin: Path = ("arms", arm, dotted)
        line = tree.line(origin)
        try:
            path = _place(value, dotted, new)
        except MistakeError as error:
            wrong.append(TopologyError(error.problem, hint=error.hint, file=file, line=line))
            continue
        for old in [known for known in lines if known[: len(path)] == path]:
            del lines[old]
        lines[path] = line or 1
        for known, number in tree.lines.items():
            if known[: len(origin)] == origin:
                lines[(*path, *known[len(origin) :])] = number
    return Tree(value, lines), tuple(wrong)


def _place(value: Any, dotted: object, new: Any) -> Path:
    """Put a value where a dotted path leads, and return the path.

    :raises MistakeError: when it leads nowhere.
    """
    if not isinstance(dotted, str) or dotted.partition(".")[0] not in ROOTS:
        raise MistakeError(
            f"an arm cannot change {str(dotted)[:80]!r}", f"a path starts with one of: {', '.join(ROOTS)}"
        )
    path = split_path(dotted, value)
    _replace(value, path, new, f"{dotted[:200]!r} leads nowhere")
    return path


def _replace(value: Any, path: Path, new: Any, nowhere: str) -> None:
    here = value
    for depth, step in enumerate(path[:-1]):
        if step in BRANCHES and isinstance(here, dict) and here.get(step) is None:
            here[step] = {}
        try:
            here = here[step]
        except (KeyError, IndexError, TypeError):
            here = None
        if not isinstance(here, dict | list):
            where = path_text(path[: depth + 1])
            raise MistakeError(f"{nowhere}: there is no {where!r}", _suggest(value, path[: depth + 1]))
    last = path[-1]
    if isinstance(here, list):
        if not isinstance(last, int) or last >= len(here):
            raise MistakeError(f"{nowhere}: the list has {len(here)} items", "count items from 0")
        here[last] = copy.deepcopy(new)
    elif isinstance(here, dict):
        if len(path) == 2 and path[0] != "sysctls" and last not in here:
            raise MistakeError(
                f"{nowhere}: {path[0]} has no {str(last)[:80]!r}",
                f"an arm adds no nodes, links or workloads: {_suggest(value, path)}",
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
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)[:200] or 'nothing'}"
