"""Results that are known beforehand, made by ``python -m benchmarks.virtual tests/expected/virtual-clock.json``."""

from __future__ import annotations

import json
from typing import Any, Final

from benchmarks.virtual import ExactCase, cases
from tests.conftest import ROOT
from zdlab.capsule.repeat import side_by_side

_EXPECTED: Final = ROOT / "tests" / "expected" / "virtual-clock.json"
_CASE: Final = ExactCase("tbf", 500, "zd")


def _expected() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(_EXPECTED.read_text(encoding="utf-8"))
    return found


def test_every_case_is_there_and_shows_what_zd_is_for() -> None:
    found = _expected()

    assert set(found) == {case.name for case in cases()}
    for case in cases():
        entry = found[case.name]
        drops = entry["counters"]["qdisc_drops"]
        assert drops == 0 if case.arm == "zd" else drops > 0
        # An instruction takes a nanosecond: one second of traffic has no room for more, give or take its ends.
        assert entry["counters"]["instructions"] < entry["virtual_seconds"] * 1e9


def test_a_case_comes_out_as_it_is_known_to() -> None:
    """To the bit where kernel, image and QEMU are those it was made with; else the same twice, and the same answer."""
    expected = _expected()[_CASE.name]
    setup = _CASE.setup()
    same = _CASE.identity(setup).items() <= expected.items()

    runs = side_by_side(lambda _number: _CASE.run(setup), range(1 if same else 2), 2)

    assert all(run == runs[0] for run in runs)
    if same:
        assert runs[0].items() <= expected.items()
    assert runs[0]["counters"]["qdisc_drops"] == expected["counters"]["qdisc_drops"] == 0
    assert runs[0]["counters"]["bytes_delivered"] > 0.9 * expected["counters"]["bytes_delivered"]
