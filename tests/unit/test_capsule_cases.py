"""Cases, what decides a trial in a capsule: they may come from somebody else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.bundle_maker import sound_case
from zdlab.capsule.case import Case, command_of
from zdlab.errors import InfrastructureError

_GOLDEN = Path(__file__).parent / "golden" / "capsule-command.txt"


def test_a_case_survives_json() -> None:
    value = sound_case()

    assert Case.from_json(json.loads(json.dumps(value))).to_json() == value


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"memory_mib": "1024"},
        {"memory_mib": -1},
        {"memory_mib": (1 << 32) - 1},
        {"seed": True},
        {"append": [1]},
        {"append": ["a\nb"]},
        {"task": {}},
        {"task": None},
        {"boot": {"a": ["x"]}},
        {"kernel": 5},
        {"command": [["-m"]]},
        {"task": {"outline": {"name": "t", "kinds": {}, "places": {}, "ends": [], "operations": [{"operation": "x"}]}}},
    ],
)
def test_a_case_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InfrastructureError, match="not readable"):
        Case.from_json(sound_case(**change))


def test_the_arguments_of_qemu_are_the_stored_ones() -> None:
    """What a bundle keeps of them, and what every replay is compared with."""
    assert "".join(f"{word}\n" for word in command_of(Case.from_json(sound_case()))) == _GOLDEN.read_text(
        encoding="utf-8"
    )
