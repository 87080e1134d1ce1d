"""A topology file is untrusted text: what it says is known to the line, and what could hurt is refused."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdlab.errors import TopologyError
from zdlab.topology.yamltree import MAX_BYTES, MAX_DEPTH, MAX_VALUES, read_yaml


def _refusal(text: str) -> TopologyError:
    with pytest.raises(TopologyError) as caught:
        read_yaml(text, "t.yaml")
    return caught.value


def test_every_value_knows_its_line() -> None:
    tree = read_yaml("a: 1\nb:\n  - x\n  - c:\n      d: 2\n\ne: {f: [1,\n  2]}\n", "t.yaml")

    assert tree.value == {"a": 1, "b": ["x", {"c": {"d": 2}}], "e": {"f": [1, 2]}}
    assert {path: tree.line(path) for path in [("a",), ("b", 0), ("b", 1, "c"), ("b", 1, "c", "d")]} == {
        ("a",): 1,
        ("b", 0): 3,
        ("b", 1, "c"): 4,
        ("b", 1, "c", "d"): 5,
    }
    assert tree.line(("e", "f", 1)) == 8


def test_what_has_no_line_takes_that_of_what_is_around_it() -> None:
    tree = read_yaml("a: 1\nb:\n  c: 2\n", "t.yaml")

    assert tree.line(("b", "c", "d", 7)) == 3
    assert tree.line(("nowhere",)) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("010", 10),
        ("0x1f", 31),
        ("-3", -3),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("12:30", "12:30"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("'1'", "1"),
        ('"null"', "null"),
        ("200mbit", "200mbit"),
        ("2001-01-01", "2001-01-01"),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    read = read_yaml(f"a: {text}", "t.yaml").value["a"]

    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\nb: &x 2\n", 2, "anchors are not taken"),
        ("a: 1\nb: *x\n", 2, "aliases are not taken"),
        ("a: 1\n&x b: 2\n", 2, "anchors are not taken"),
        ("a: 1\n*x : 2\n", 2, "a key is a plain word"),
        ("a: 1\nb: !!python/object:os.system {}\n", 2, "tags are not taken"),
        ("a: 1\nb: !!str 2\n", 2, "tags are not taken"),
        ("a: 1\n!!str b: 2\n", 2, "tags are not taken"),
        ("a: 1\nb: 2\na: 3\n", 3, "'a' stands twice"),
        ("a:\n  c: 1\n  c: 1\n", 3, "'c' stands twice"),
        ("a: 1\n? [x, y]\n: 2\n", 2, "a key is a plain word"),
        ("a: 1\n---\nb: 2\n", 2, "a second YAML document"),
        ("a: 1\n  b: 2\n", 2, "not valid YAML"),
        ("a: 'open\nb: 1\n", 3, "not valid YAML"),
        ("a: {b: 1\n", 2, "not valid YAML"),
        ("a:\n\t- b\n", 2, "not valid YAML"),
        ("", 1, "the file is empty"),
        ("# only a comment\n", 1, "the file is empty"),
    ],
)
def test_refusals_name_the_line(text: str, line: int, problem: str) -> None:
    error = _refusal(text)

    assert problem in error.problem
    assert (error.file, error.line) == ("t.yaml", line)
    assert str(error).startswith(f"t.yaml:{line}: ")
    assert error.hint


def test_control_characters_are_refused() -> None:
    refusal = _refusal("a: 1\nb: \x00\n")
    assert "not valid YAML" in refusal.problem
    assert refusal.line == 2


def test_a_large_file_is_refused_before_it_is_read() -> None:
    assert f"larger than {MAX_BYTES} bytes" in _refusal("#" + "é" * (MAX_BYTES // 2)).problem


def test_deep_nesting_is_refused_wherever_it_ends() -> None:
    assert read_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH, "t.yaml").value
    assert "nested deeper" in _refusal("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2)).problem
    assert "nested deeper" in _refusal("[" * 200_000).problem
    assert "nested deeper" in _refusal("{a: " * 100_000).problem


def test_the_number_of_values_is_limited() -> None:
    assert f"more than {MAX_VALUES} values" in _refusal("[" + "1," * (MAX_VALUES + 1) + "]").problem


_SCALARS = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("abc :#-{}[]'\"\\é", max_size=12)
_DOCUMENTS = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcxyz.-", min_size=1), inner, max_size=4),
    max_leaves=20,
)


def _flow(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return "null" if value is None else str(value).lower()


@given(_DOCUMENTS)
def test_documents_read_back_as_they_were_written(document: object) -> None:
    assert read_yaml(_flow({"root": document}), "t.yaml").value == {"root": document}


@given(st.text(st.characters(codec="utf-8")) | st.text("ab:-[]{}&*!|>'\"#%@`?,~ \n\t0123456789\x00\x85\ufeff"))
def test_no_text_gives_anything_but_a_tree_or_a_topology_error(text: str) -> None:
    with contextlib.suppress(TopologyError):
        assert read_yaml(text, "t.yaml").line(()) is not None
