"""Drawings name everything there is, and no name breaks out of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from zdlab.errors import MissingToolError
from zdlab.plan.build import Plan, build_plan
from zdlab.plan.graph import to_dot, to_image, to_mermaid
from zdlab.topology import load_topology, parse_topology

GOLDEN = Path(__file__).parent / "golden"
TOPOLOGIES = Path(__file__).parents[2] / "topologies"
READY = sorted(path.stem for path in TOPOLOGIES.glob("*.yaml"))
#: A path may hold whatever a file's name may.
NASTY = '/k/a"b\\n]c<d>|$(e)&`f`#quot;'


def _ready(name: str) -> Plan:
    source = load_topology(TOPOLOGIES / f"{name}.yaml")
    return build_plan(source.base, source.name)


def _nasty() -> Plan:
    nodes = f"nodes: {{m: {{kind: machine, kernel: '{NASTY}'}}, end: {{kind: host}}}}\n"
    return build_plan(parse_topology(nodes + "links: {w: {ends: {m: {}, end: {}}}}\n").base, "nasty")


@pytest.mark.parametrize("name", ["ns-tbf", "vm-bridge"])
def test_drawings_of_ready_topologies_are_the_stored_ones(name: str) -> None:
    assert to_mermaid(_ready(name)) == (GOLDEN / f"graph-{name}.mmd").read_text(encoding="utf-8")
    assert to_dot(_ready(name)) == (GOLDEN / f"graph-{name}.dot").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", READY)
def test_every_node_and_link_is_drawn(name: str) -> None:
    plan = _ready(name)
    mermaid, dot = to_mermaid(plan), to_dot(plan)

    for node, kind in plan.topology.nodes.items():
        assert f'"{node}<br/>{kind.kind}' in mermaid
        assert f'    "{node}" [' in dot
    assert mermaid.count(" ---|") == dot.count(" -- ") == len(plan.topology.links)
    for link in plan.topology.links:
        assert f'"{link}<br/>' in mermaid
        assert f'label="{link}"' in dot


def test_a_kernels_path_cannot_break_out_of_a_mermaid_label() -> None:
    (line,) = (line for line in to_mermaid(_nasty()).splitlines() if "kernel" in line)

    assert line.startswith('    n0[["m<br/>machine, kernel /k/a')
    assert line.endswith('"]]')
    inside = line.removeprefix('    n0[["m<br/>').removesuffix('"]]')
    assert not set(inside) & set('"<>&')
    assert inside.endswith("a#quot;b\\n]c#lt;d#gt;|$(e)#amp;`f`#35;quot;")


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")
def test_graphviz_shows_a_kernels_path_as_it_is() -> None:
    drawn = ElementTree.fromstring(to_image(_nasty(), "svg"))  # noqa: S314 - our own picture

    assert f"machine, kernel {NASTY}" in [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")
@pytest.mark.parametrize(("form", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_images_are_drawn_by_graphviz(form: str, magic: bytes) -> None:
    assert to_image(_ready("vm-bridge"), form).startswith(magic)


def test_a_missing_graphviz_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match="dot is missing") as caught:
        to_image(_ready("ns-tbf"), "svg")

    assert "graphviz" in caught.value.hint
