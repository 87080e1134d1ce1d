"""What README and cover letter say of exact results is what the record says."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from benchmarks.published import PUBLISHED, RECORD, published


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.name)
def test_tables_are_those_of_the_record(path: Path) -> None:
    """``python -m benchmarks.published`` writes them anew."""
    assert path.read_text(encoding="utf-8") == published(path, json.loads(RECORD.read_text(encoding="utf-8")))


def test_another_record_makes_other_tables() -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    other = copy.deepcopy(record)
    other["nested-tbf/zd-both/1"]["figures"]["qdisc_drops"] = 98765

    for path in PUBLISHED:
        assert "98,765" in published(path, other)
        assert "98,765" not in published(path, record)
