"""Reading YAML into plain values that remember their lines.

Topology files are untrusted: size, nesting and the number of values are limited, and tags, anchors and
aliases are refused, so a small file can never unfold into a large one. Scalars follow the YAML 1.2 core
schema: ``on`` and ``off`` are texts, ``010`` is a number in decimal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from zdlab.errors import TopologyError

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 32
MAX_VALUES: Final = 100_000

_INT: Final = re.compile(r"[-+]?[0-9]{1,20}")
_HEX: Final = re.compile(r"0x[0-9a-fA-F]{1,16}")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")

Path = tuple[str | int, ...]


def path_text(path: Path) -> str:
    """Write a path the way arms do, on one line whatever is in it."""
    steps = (str(step)[:80] for step in path)
    return ".".join(step if len(step.splitlines()) < 2 else repr(step) for step in steps) or "the file"


@dataclass
class Tree:
    """A document's values, and the line of each.

    :param value: nested dicts, lists and scalars.
    :param lines: line (from 1) of each value by its path from the root.
    """

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int | None:
        """Return the line of the value at ``path``, or of the nearest thing around it."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None


def _scalar(event: ScalarEvent) -> Any:
    text: str = event.value
    if event.style is not None:
        return text
    if text in {"", "~", "null", "Null", "NULL"}:
        return None
    if text in {"true", "True", "TRUE"}:
        return True
    if text in {"false", "False", "FALSE"}:
        return False
    if _INT.fullmatch(text):
        return int(text)
    if _HEX.fullmatch(text):
        return int(text, 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


class _Reader:
    def __init__(self, file: str, events: Iterator[Event]) -> None:
        self._file = file
        self._events = events
        self._values = 0
        self.tree = Tree()

    def _error(self, event: Event, message: str, hint: str) -> TopologyError:
        return TopologyError(message, hint=hint, file=self._file, line=event.start_mark.line + 1)

    def read(self, event: Event, path: Path) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            raise self._error(event, f"more than {MAX_VALUES} values", "split the topology")
        if len(path) > MAX_DEPTH:
            raise self._error(event, f"nested deeper than {MAX_DEPTH} levels", "flatten the topology")
        if isinstance(event, AliasEvent):
            raise self._error(event, "YAML aliases are not taken", "write the value out, or use an arm")
        self._refuse_decorations(event)
        self.tree.lines.setdefault(path, event.start_mark.line + 1)
        if isinstance(event, ScalarEvent):
            return _scalar(event)
        if isinstance(event, SequenceStartEvent):
            return self._sequence(path)
        if isinstance(event, MappingStartEvent):
            return self._mapping(path)
        raise self._error(event, "unexpected YAML structure", "write mappings, lists and values")

    def _refuse_decorations(self, event: Event) -> None:
        if getattr(event, "anchor", None) is not None:
            raise self._error(event, "YAML anchors are not taken", "remove the & name")
        # A quoted scalar's implicit tag is no tag; an explicit one is kept in `tag`.
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise self._error(event, f"YAML tags are not taken: {str(tag)[:40]}", "remove the ! word")

    def _sequence(self, path: Path) -> list[Any]:
        items: list[Any] = []
        for event in self._events:
            if isinstance(event, SequenceEndEvent):
                break
            items.append(self.read(event, (*path, len(items))))
        return items

    def _mapping(self, path: Path) -> dict[str | int, Any]:
        result: dict[str | int, Any] = {}
        for event in self._events:
            if isinstance(event, MappingEndEvent):
                break
            if not isinstance(event, ScalarEvent):
                raise self._error(event, "a key is a plain word", "write key: value")
            self._refuse_decorations(event)
            key = _scalar(event) if _INT.fullmatch(event.value) else event.value
            if key in result:
                raise self._error(event, f"the key {str(key)[:40]!r} stands twice", "remove one of them")
            self.tree.lines[(*path, key)] = event.start_mark.line + 1
            result[key] = self.read(next(self._events), (*path, key))
        return result


def read_yaml(text: str, file: str) -> Tree:
    """Read one YAML document.

    :param text: the document.
    :param file: its name, for errors.
    :raises TopologyError: when it is not YAML, or uses what is refused; names the line.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise TopologyError(f"larger than {MAX_BYTES} bytes", hint="split the topology", file=file, line=1)
    try:
        events = YAML(typ="safe", pure=True).parse(text)
        return _document(events, file)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(part for part in (error.context, error.problem) if part)
        line = mark.line + 1 if mark is not None else 1
        raise TopologyError(
            f"not valid YAML: {problem}", hint="check quotes, colons and indentation", file=file, line=line
        ) from error
    except (YAMLError, ValueError, RecursionError) as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        line = text[: getattr(error, "position", 0)].count("\n") + 1  # a character that YAML refuses has one
        raise TopologyError(
            f"not valid YAML: {problem}", hint="the file is plain UTF-8 text in YAML", file=file, line=line
        ) from error


def _document(events: Iterator[Event], file: str) -> Tree:
    reader: _Reader | None = None
    for event in events:
        if isinstance(event, DocumentStartEvent):
            if reader is not None:
                raise TopologyError(
                    "a second YAML document",
                    hint="one file, one topology",
                    file=file,
                    line=event.start_mark.line + 1,
                )
            reader = _Reader(file, events)
            reader.tree.value = reader.read(next(events), ())
    if reader is None:
        raise TopologyError("the file is empty", hint="start with nodes: and links:", file=file, line=1)
    return reader.tree
