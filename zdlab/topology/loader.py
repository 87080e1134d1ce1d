"""Loading a topology file: text to typed model, with every complaint carrying file and line."""

from __future__ import annotations

import difflib
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from zdlab.errors import TopologyError, UsageError
from zdlab.topology import checks
from zdlab.topology.links import End, Link, Offloads, Tap
from zdlab.topology.model import Topology
from zdlab.topology.nodes import Bridge, Host, Machine, Route
from zdlab.topology.overrides import apply_overrides
from zdlab.topology.qdiscs import (
    Bfifo,
    Codel,
    Fq,
    FqCodel,
    Htb,
    HtbClass,
    Netem,
    Pfifo,
    PfifoFast,
    Prio,
    Red,
    Sfq,
    Tbf,
)
from zdlab.topology.sentences import value_sentence
from zdlab.topology.workloads import Workload
from zdlab.topology.yamltree import MAX_BYTES, Path, Tree, path_text, read_yaml

_MODELS: Sequence[type[BaseModel]] = (
    Topology, Host, Machine, Bridge, Route, Link, End, Offloads, Tap, Workload,
    Pfifo, Bfifo, PfifoFast, Tbf, Htb, HtbClass, Prio, Fq, FqCodel, Codel, Sfq, Red, Netem,
)  # fmt: skip
#: Of more findings than these in one file nobody reads, and each is looked up among the known names.
_MOST_FINDINGS: Final = 200
_MOST_TOLD: Final = 10
_MODELS_BY_KIND: dict[str, type[BaseModel]] = {"host": Host, "machine": Machine, "bridge": Bridge} | {
    model.model_fields["kind"].annotation.__args__[0]: model  # type: ignore[union-attr]
    for model in _MODELS
    if "kind" in model.model_fields and model not in {Host, Machine, Bridge}
}


@dataclass(frozen=True)
class TopologyFile:
    """A topology file that was read and found sound, with the lines of all its values.

    :param file: its name as the user gave it.
    :param text: its content, kept for the record of a run.
    """

    file: str
    text: str
    tree: Tree
    base: Topology

    @cached_property
    def name(self) -> str:
        """Name of the topology: the one it gives itself, else the file's."""
        if self.base.name:
            return self.base.name
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", FilePath(self.file).stem).strip("-")[:31]
        return stem if stem[:1].isalpha() else f"t-{stem}"[:31]

    def arm_names(self) -> tuple[str, ...]:
        """Return the arms in the order of the file."""
        return tuple(self.base.arms)

    def arm(self, name: str) -> Topology:
        """Return the topology of one arm.

        :raises UsageError: when there is no such arm.
        """
        return _typed(self._arm_tree(name)[0], self.file)

    def error(self, path: Path, message: str, *, hint: str = "", arm: str | None = None) -> TopologyError:
        """Return (not raise) an error about the value at ``path``, of an arm when one is named."""
        tree = self.tree if arm is None else self._arm_tree(arm)[0]
        return TopologyError(message, hint=hint, file=self.file, line=tree.line(path))

    def arm_findings(self, name: str) -> list[TopologyError]:
        """Return all that is wrong with one arm: what the file says apart from its arms is sound."""
        tree, wrong = self._arm_tree(name)
        found = list(wrong) or _findings(tree, self.file)[1]
        own = {line for path, line in self.tree.lines.items() if path[:2] == ("arms", name)}
        return [
            TopologyError(
                f"arm {name}: {error.problem}",
                hint=error.hint,
                file=self.file,
                line=error.line if error.line in own else self.tree.line(("arms", name)),
            )
            for error in found
        ]

    def _arm_tree(self, name: str) -> tuple[Tree, tuple[TopologyError, ...]]:
        if name not in self.base.arms:
            known = ", ".join(self.base.arms) or "none"
            raise UsageError(f"{self.file} has no arm {name!r}", hint=f"its arms: {known}")
        return apply_overrides(self.tree, name, self.base.arms[name] or {}, self.file)


def load_topology(path: FilePath) -> TopologyFile:
    """Read and check a topology file.

    :raises TopologyError: when the file is not a sound topology; names file and line.
    :raises UsageError: when the file cannot be read.
    """
    try:
        # A pipe or a device would block, or never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path} is not a file", hint="name a topology file")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="name a topology file") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TopologyError("not UTF-8 text", hint="save it as UTF-8", file=str(path), line=line) from error
    return parse_topology(text, str(path))


def parse_topology(text: str, file: str = "topology.yaml") -> TopologyFile:
    """Check a topology given as text; ``file`` names it in errors.

    :raises TopologyError: when it is not a sound topology.
    """
    tree = read_yaml(text, file)
    if not isinstance(tree.value, dict):
        raise TopologyError("a topology is a mapping", hint="start with nodes: and links:", file=file, line=1)
    base = _typed(tree, file)
    loaded = TopologyFile(file=file, text=text, tree=tree, base=base)
    if wrong := [error for name in loaded.arm_names() for error in loaded.arm_findings(name)]:
        raise _join(wrong)
    return loaded


def _typed(tree: Tree, file: str) -> Topology:
    topology, wrong = _findings(tree, file)
    if topology is None or wrong:
        raise _join(wrong)
    return topology


def _findings(tree: Tree, file: str) -> tuple[Topology | None, list[TopologyError]]:
    """Return the document as a topology, where its parts are well-formed, and all that is wrong with it."""
    try:
        topology = Topology.model_validate(tree.value)
    except ValidationError as error:
        return None, [_complaint(detail, tree, file) for detail in _telling(error.errors())]
    return topology, [
        TopologyError(problem.message, hint=problem.hint, file=file, line=tree.line(problem.path))
        for problem in checks.problems(topology)
    ]


def _telling(details: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Leave out what only follows from another finding: a list without sound entries is not one without entries."""
    some = details[:_MOST_FINDINGS]
    inner = {detail["loc"][:end] for detail in some for end in range(len(detail["loc"]))}
    return [detail for detail in some if not (detail["type"] == "too_short" and detail["loc"] in inner)]


def _join(errors: Sequence[TopologyError]) -> TopologyError:
    """One error for several: the first, with others below it, as many as one reads."""
    ordered = sorted(errors, key=lambda item: item.line or 0)
    first = ordered[0]
    seen = {str(first)}
    others: list[str] = []
    for item in ordered[1:]:
        if str(item) not in seen:
            seen.add(str(item))
            others.append(f"{item}" + (f" ({item.hint})" if item.hint else ""))
    if len(others) >= _MOST_TOLD:
        others[_MOST_TOLD - 1 :] = [f"… and {len(others) - _MOST_TOLD + 1} more"]
    if others:
        first.args = ("\n".join([first.args[0] + (f" ({first.hint})" if first.hint else ""), *others]),)
        first.hint = ""
        first.message = first.args[0]
    return first


def _complaint(detail: ErrorDetails, tree: Tree, file: str) -> TopologyError:
    """Turn one of pydantic's findings into a sentence with a line."""
    path, missing = _document_path(detail["loc"], tree.value)
    kind = detail["type"]
    where = path_text(path)
    place, hint = path, ""
    if kind == "extra_forbidden":
        message = f"unknown key {str(detail['loc'][-1])!r} in {_parent(path)}"
        hint = _known_keys(detail["loc"], path, tree.value)
    elif kind == "missing":
        message = f"{where} needs {missing or detail['loc'][-1]!s}"
        hint = _example(path, missing, tree.value)
        place = (*path, missing)  # has a line where an arm removed it
    elif kind == "union_tag_not_found":
        message = f"{where} needs kind"
        hint = _kinds(where)
    elif kind == "union_tag_invalid":
        message = f"{where}: unknown kind {str(detail['ctx']['tag'])[:40]!r}"
        hint = f"known: {detail['ctx']['expected_tags']}"
        if detail["ctx"]["tag"] == "ingress":
            hint = "write `ingress: on` beside qdisc"
    else:
        message, hint = value_sentence(detail, path)
    return TopologyError(message, hint=hint, file=file, line=tree.line(place))


def _document_path(location: Sequence[str | int], value: Any) -> tuple[Path, str]:
    """Follow pydantic's location through the document, passing over its union tags and key markers."""
    path: list[str | int] = []
    here = value
    rest = ""
    for step in location:
        if step == "[key]":
            continue
        if isinstance(here, dict) and step in here:
            here = here[step]
            path.append(step)
        elif isinstance(here, dict) and isinstance(step, str) and step.isdecimal() and int(step) in here:
            here = here[int(step)]
            path.append(int(step))
        elif isinstance(here, list) and isinstance(step, int) and step < len(here):
            here = here[step]
            path.append(step)
        else:
            rest = str(step)
    return tuple(path), rest


def _parent(path: Path) -> str:
    return path_text(path[:-1])


def _kinds(where: str) -> str:
    nodes = {Host, Machine, Bridge}
    kinds = [kind for kind, model in _MODELS_BY_KIND.items() if (model in nodes) == where.startswith("nodes")]
    return f"one of: {', '.join(kinds)}"


def _known_keys(location: Sequence[str | int], path: Path, value: Any) -> str:
    """Name the key that was meant, or those there are."""
    wrong = str(location[-1])
    model = _model_of(path[:-1], value)
    if model is None:
        return "docs/topology.md names the keys there are"
    names = [item.alias or name for name, item in model.model_fields.items()]
    close = difflib.get_close_matches(wrong, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"keys here: {', '.join(names)}"


def _example(path: Path, missing: str, value: Any) -> str:
    """Say how a key that is missing is written."""
    model = _model_of(path, value)
    for name, item in model.model_fields.items() if model else ():
        if missing == (item.alias or name) and item.examples:
            return f"write {missing}: {item.examples[0]}"
    return f"add {missing}: docs/topology.md says how it is written"


def _model_of(path: Path, value: Any) -> type[BaseModel] | None:
    """Return the model of the mapping at a path of the document."""
    here = value
    for step in path:
        here = here[step]
    if isinstance(here, dict) and isinstance(here.get("kind"), str) and here["kind"] in _MODELS_BY_KIND:
        return _MODELS_BY_KIND[here["kind"]]
    return _model_at(path)


def _model_at(path: Path) -> type[BaseModel] | None:
    """Return the model that stands at a path of the document, qdiscs and nodes apart."""
    patterns: dict[tuple[str, ...], type[BaseModel]] = {
        (): Topology,
        ("links", "*"): Link,
        ("links", "*", "ends", "*"): End,
        ("links", "*", "ends", "*", "offloads"): Offloads,
        ("links", "*", "ends", "*", "tap"): Tap,
        ("workloads", "*"): Workload,
        ("nodes", "*", "routes", "*"): Route,
    }
    for pattern, model in patterns.items():
        if len(pattern) == len(path) and all(
            expected in {"*", step} for expected, step in zip(pattern, path, strict=True)
        ):
            return model
    return HtbClass if path and "classes" in path else None
