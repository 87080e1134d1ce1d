"""Topology files that are damaged in any way: a topology, or errors that say where and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.mistakes import SOUND, told
from zdlab.errors import TopologyError
from zdlab.plan.build import build_plan
from zdlab.topology import load_topology, parse_topology

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
_READY = [path.read_text(encoding="utf-8") for path in sorted(TOPOLOGIES.glob("*.yaml"))]
_PIECES = st.sampled_from(
    ["null", "[]", "{}", "-1", "'", "{kind: fq}", "a", "0", ": ", "1mbit", "\n", "  ", "[a]", "1.5"]
)


@st.composite
def _damaged(draw: st.DrawFn) -> str:
    """A ready topology, or the file above, with a piece of it replaced."""
    text = draw(st.sampled_from([*_READY, SOUND]))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 20)))
        text = text[:start] + draw(_PIECES) + text[end:]
    return text


@st.composite
def _damaged_bytes(draw: st.DrawFn) -> bytes:
    """A ready topology with other bytes in it."""
    data = bytearray(draw(st.sampled_from(_READY)).encode())
    for _ in range(draw(st.integers(1, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def _parses_or_tells(text: str) -> None:
    """See that a text is a topology, with all its arms, or refused with all that whoever wrote it has to know."""
    try:
        loaded = parse_topology(text, "bad.yaml")
    except TopologyError as error:
        told(error)
    else:
        for name in loaded.arm_names():
            topology = loaded.arm(name)
            assert build_plan(topology, "t") == build_plan(topology, "t")


@given(_damaged())
def test_damaged_topologies_give_a_topology_or_lines_with_what_would_be_right(text: str) -> None:
    _parses_or_tells(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.sampled_from(["host", "fq", "1mbit", "a", "x.y", "default"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["nodes", "links", "kind", "ends", "a", "b", "arms", "qdisc", "links.a", "subnet", "from", "1"]
                ),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_documents_of_the_right_words_in_wrong_places_give_a_topology_or_an_error(document: object) -> None:
    _parses_or_tells(repr(document).replace("None", "null"))


@given(st.binary(max_size=200) | _damaged_bytes())
def test_bytes_in_a_file_give_a_topology_or_lines_with_what_would_be_right(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(data)
    try:
        load_topology(path)
    except TopologyError as error:
        told(error)


@given(st.text(max_size=200) | st.text("ab:-[]{}&*!|>'\"#%@`?,~ \n\t0123456789\x00\x85\ufeff", max_size=200))
def test_text_gives_a_topology_or_lines_with_what_would_be_right(text: str) -> None:
    _parses_or_tells(text)
