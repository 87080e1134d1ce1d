"""Drawing a topology: Mermaid and DOT as text, images through Graphviz."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping

from zdlab.errors import MissingToolError
from zdlab.plan.build import Plan
from zdlab.topology.network import Interface
from zdlab.topology.nodes import Machine
from zdlab.topology.places import held

_DOT_SHAPES = {"host": "box", "machine": "component", "bridge": "ellipse"}
_MERMAID_SHAPES = {"host": ("[", "]"), "machine": ("[[", "]]"), "bridge": ("([", "])")}
_ENTITIES = {"#": "#35;", "&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;"}


def to_mermaid(plan: Plan) -> str:
    """Return a Mermaid flowchart."""
    lines = ["flowchart LR"]
    numbers = {name: f"n{number}" for number, name in enumerate(plan.topology.nodes)}
    lines += _mermaid_nodes(plan, numbers, None, "    ")
    for link in plan.topology.links:
        first, second = plan.network.link(link)
        label = _mermaid(link, *_end_lines(first), *_end_lines(second))
        lines.append(f"    {numbers[first.node]} ---|{label}| {numbers[second.node]}")
    return "\n".join(lines) + "\n"


def to_dot(plan: Plan) -> str:
    """Return a Graphviz graph."""
    lines = [f"graph {_dot(plan.name)} {{", "    rankdir=LR;", '    node [fontname="sans-serif"];']
    lines.append('    edge [fontname="sans-serif", fontsize=10];')
    lines += _dot_nodes(plan, None, "    ")
    for link in plan.topology.links:
        first, second = plan.network.link(link)
        ends = [f"taillabel={_dot(*_end_lines(first))}", f"headlabel={_dot(*_end_lines(second))}"]
        attributes = ", ".join([f"label={_dot(link)}", *ends, "minlen=4"])
        lines.append(f"    {_dot(first.node)} -- {_dot(second.node)} [{attributes}];")
    return "\n".join([*lines, "}"]) + "\n"


def to_image(plan: Plan, form: str) -> bytes:
    """Return a drawing as ``png`` or ``svg``.

    :raises MissingToolError: when Graphviz is not installed or fails.
    """
    try:
        result = subprocess.run(["dot", f"-T{form}"], input=to_dot(plan).encode(), capture_output=True, check=False)
    except FileNotFoundError as error:
        raise MissingToolError("the program dot is missing", hint="apt-get install graphviz") from error
    if result.returncode:
        raise MissingToolError(f"dot failed: {result.stderr.decode(errors='replace').strip()}")
    return result.stdout


def _mermaid_nodes(plan: Plan, numbers: Mapping[str, str], place: str | None, indent: str) -> Iterator[str]:
    """Yield the nodes of a place; a machine in which others live is drawn around them."""
    for name, node in plan.topology.nodes.items():
        if node.inside != place:
            continue
        left, right = _MERMAID_SHAPES[node.kind]
        drawn = f"{numbers[name]}{left}{_mermaid(*_node_lines(plan, name))}{right}"
        if held(plan.topology, name):
            yield f"{indent}subgraph in_{numbers[name]}[{_mermaid('in ' + name)}]"
            yield f"{indent}    {drawn}"
            yield from _mermaid_nodes(plan, numbers, name, indent + "    ")
            yield f"{indent}end"
        else:
            yield f"{indent}{drawn}"


def _dot_nodes(plan: Plan, place: str | None, indent: str) -> Iterator[str]:
    for name, node in plan.topology.nodes.items():
        if node.inside != place:
            continue
        drawn = f"{_dot(name)} [shape={_DOT_SHAPES[node.kind]}, label={_dot(*_node_lines(plan, name))}];"
        if held(plan.topology, name):
            # Graphviz draws a frame around a subgraph whose name begins so.
            yield f"{indent}subgraph {_dot('cluster ' + name)} {{"
            yield f"{indent}    label={_dot('in ' + name)};"
            yield f"{indent}    {drawn}"
            yield from _dot_nodes(plan, name, indent + "    ")
            yield f"{indent}}}"
        else:
            yield f"{indent}{drawn}"


def _node_lines(plan: Plan, name: str) -> Iterator[str]:
    node = plan.topology.nodes[name]
    yield name
    yield f"{node.kind}, kernel {node.kernel}" if isinstance(node, Machine) else node.kind


def _end_lines(end: Interface) -> Iterator[str]:
    yield f"{end.node}:{end.name} {' '.join(end.addresses)}".rstrip()
    if end.end.qdisc is not None:
        yield f"qdisc {end.end.qdisc.kind}"


def _mermaid(*lines: str) -> str:
    """Quote lines for Mermaid: its own entities, so that a kernel's path cannot end the label or be markup."""
    return '"' + "<br/>".join("".join(_ENTITIES.get(char, char) for char in line) for line in lines) + '"'


def _dot(*lines: str) -> str:
    """Quote lines for Graphviz."""
    return '"' + "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in lines) + '"'
