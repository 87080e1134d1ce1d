"""What comes out of a capsule, comparing it, and bundles, which come from somebody else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdlab.capsule.case import none_came_out
from zdlab.capsule.machine import CapsuleSpec, capsule_command
from zdlab.capsule.repeat import compare_results
from zdlab.capsule.result import observation
from zdlab.capsule.wire import WireError, packed, unpacked
from zdlab.errors import GuestError, GuestHungError, LabError
from zdlab.experiment.model import IDENTICAL
from zdlab.experiment.nodes import HungError
from zdlab.measure.metrics import instruction_figures

_HEADER = {"observation": {"after": {"a": {"snmp": {"Tcp": {"OutSegs": 5}}, "list": [1, 2]}}}}
_PIECES = {"samples a": b"\x00\x01", "stdout bulk client": b"x"}


@given(st.dictionaries(st.text(max_size=8), st.binary(max_size=40), max_size=4))
def test_a_result_comes_out_as_it_went_in(pieces: dict[str, bytes]) -> None:
    assert unpacked(packed({"a": [1]}, pieces)) == ({"a": [1]}, pieces)


@given(st.integers(0, 150))
def test_a_result_that_is_cut_short_is_noticed(length: int) -> None:
    whole = packed(_HEADER, _PIECES)

    with pytest.raises(WireError):
        unpacked(whole[: min(length, len(whole) - 1)])


@pytest.mark.parametrize("data", [b"", b"[]\nend\n", b"{}\nend\n", b'{"pieces":[["a",-1]]}\nend\n', b"\xff\n"])
def test_what_is_no_result_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        unpacked(data)


def test_equal_results_are_identical() -> None:
    assert compare_results(packed(_HEADER, _PIECES), packed(_HEADER, dict(_PIECES))) == IDENTICAL


@pytest.mark.parametrize(
    ("header", "pieces", "difference"),
    [
        (
            {"observation": {"after": {"a": {"snmp": {"Tcp": {"OutSegs": 6}}, "list": [1, 2]}}}},
            _PIECES,
            "observation.after.a.snmp.Tcp.OutSegs is 6 now, 5 before",
        ),
        (
            {"observation": {"after": {"a": {"snmp": {"Tcp": {"OutSegs": 5}}, "list": [1, 3]}}}},
            _PIECES,
            "observation.after.a.list[1] is 3 now, 2 before",
        ),
        ({"observation": {"after": {}}}, _PIECES, "observation.after.a is missing now"),
        (_HEADER, {**_PIECES, "samples a": b"\x00\x02"}, "samples a differs from byte 1 on"),
        (_HEADER, {**_PIECES, "stdout bulk client": b"xy"}, "stdout bulk client differs from byte 1 on"),
    ],
)
def test_the_first_difference_is_named(header: Any, pieces: dict[str, bytes], difference: str) -> None:
    assert compare_results(packed(_HEADER, _PIECES), packed(header, pieces)) == difference


def test_counters_are_named_before_moments() -> None:
    """These move with whatever else is different, and say nothing of it."""
    counted = {"links": {"eth0": {"rx": 5}}, "monotonic_ns": 7, "tcp": 1}
    expected = {"booted_ns": 1, "observation": {"after": {"a": counted}, "before": {"x": 1}}}
    found = {"booted_ns": 2, "observation": {"after": {"a": {**counted, "monotonic_ns": 9, "tcp": 2}}, "before": {}}}

    assert compare_results(packed(expected, {}), packed(found, {})) == "observation.after.a.tcp is 2 now, 1 before"
    assert compare_results(packed({"booted_ns": 1}, {}), packed({"booted_ns": 2}, {})) == "booted_ns is 2 now, 1 before"


def test_a_capsule_that_comes_to_nothing_comes_to_that_again() -> None:
    died = GuestError("the capsule ended without a result", console=["Kernel panic"], hint="h")
    otherwise = GuestError("the capsule ended without a result", console=["Kernel panic, another"], hint="h")

    assert compare_results(none_came_out(died), none_came_out(died)) == IDENTICAL
    assert compare_results(none_came_out(died), none_came_out(otherwise)) == "console differs from byte 12 on"
    assert compare_results(none_came_out(died), packed(_HEADER, {})) == "error is missing now"
    with pytest.raises(HungError):
        observation(*unpacked(none_came_out(GuestHungError("it said nothing"))))


def test_what_went_wrong_inside_is_raised_outside() -> None:
    said = {"message": "m", "hint": "h", "origin": ["links", "x"]}

    with pytest.raises(HungError, match="m"):
        observation({"error": {**said, "kind": "hung"}}, {})
    with pytest.raises(LabError) as caught:
        observation({"error": {**said, "kind": "failed"}}, {})
    assert caught.value.origin == ("links", "x")
    with pytest.raises(GuestError, match="makes no sense"):
        observation({"observation": {}}, {})


def test_a_nanosecond_that_was_not_idle_is_an_instruction() -> None:
    figures = instruction_figures({"ns": 100, "idle_ns": 10}, {"ns": 1100, "idle_ns": 410}, 2e9)

    assert figures == {"instructions": 600.0, "cpu_busy": 0.6, "instructions_per_gb": 300.0}
    assert instruction_figures({}, {}, 1e9) == {}
    assert instruction_figures({"ns": 0, "idle_ns": 0}, {"ns": 5, "idle_ns": 0}, 0) == {
        "instructions": 5.0,
        "cpu_busy": 1.0,
    }


def test_the_command_line_lets_nothing_in(tmp_path: Path) -> None:
    spec = CapsuleSpec(Path("/k"), Path("/i"), 1024, 7, ("word=1",))

    command = capsule_command(spec, tmp_path, "qemu")

    text = " ".join(command)
    assert "-seed 7" in text
    assert "-smp 1" in text
    assert "rr=record" in text
    assert "word=1" in text
    # No disk, no network, no socket, no host's randomness.
    assert not [word for word in command if word.startswith(("-drive", "-netdev", "-nic", "-virtfs", "-qmp", "-mon"))]
    assert "socket" not in text
    assert "rng" not in text


def test_what_runs_in_a_capsule_loads_nothing_heavy() -> None:
    """Every import is paid for in every trial; and only pure Python runs under the image's interpreter."""
    script = "import sys, zdlab.capsule.inside; print(*{name.partition('.')[0] for name in sys.modules})"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    loaded = set(done.stdout.split())
    assert loaded >= {"pyroute2", "qemu", "zdlab"}
    assert not loaded & {"filelock", "numpy", "pydantic", "pydantic_core", "rich", "ruamel", "scipy", "typer", "yaml"}
