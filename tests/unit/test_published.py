"""What README and cover letter say of exact results is what the record and the kept runs say."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from benchmarks.keep_run import RUNS
from benchmarks.published import PUBLISHED, RECORD, combined, published, stored


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.name)
def test_tables_are_those_of_the_record(path: Path) -> None:
    """``python -m benchmarks.published`` writes them anew."""
    assert path.read_text(encoding="utf-8") == published(path, stored())


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.name)
def test_another_run_makes_other_tables(path: Path) -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    runs = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RUNS.glob("*.json")}
    other = copy.deepcopy(runs)
    drops = other["nested-tbf"]["document"]["arms"]["zd-both"]["qdisc_drops"]
    # One drop in one trial shows, too.
    drops[0] = 1
    other["nested-tbf"]["document"]["expectations"][-1]["reason"] = "it was otherwise"

    text = published(path, combined(record, other))

    assert f"| {1 / len(drops):.2f} |" in text
    assert "| it was otherwise |" in text


def test_of_an_arm_with_a_whole_run_the_record_does_not_count() -> None:
    entry = {"figures": {"qdisc_drops": 7.0}, "nodes": {"br": {"qdisc_drops": 6}}}
    arms = {"stock": {"trials": 2, "qdisc_drops": [3, None], "errors": []}}
    run = {"document": {"arms": arms}, "nodes": {"stock": {"br.qdisc_drops": [2, 1]}}}

    source = combined({"one/stock/1": entry, "two/stock/1": entry}, {"two": run})

    assert source.trials == {
        "one/stock": [{"qdisc_drops": 7.0, "br.qdisc_drops": 6}],
        "two/stock": [{"qdisc_drops": 3, "br.qdisc_drops": 2}, {"br.qdisc_drops": 1}],
    }
