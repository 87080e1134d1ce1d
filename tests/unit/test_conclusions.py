"""What is made of what was seen of a trial, and when traffic counts as hung."""

from __future__ import annotations

import json

import pytest

from zdlab.agent import counters, sampler
from zdlab.agent.netlink import QdiscReader
from zdlab.errors import GuestError, GuestHungError, ZdlabError
from zdlab.experiment.conclude import concluded
from zdlab.experiment.model import Slot, Trial
from zdlab.experiment.nodes import HungError
from zdlab.experiment.observe import Observation
from zdlab.experiment.watch import SILENCE_SECONDS, STALL_SECONDS, Stall
from zdlab.guest.agent_client import RawSamples
from zdlab.plan.build import build_plan
from zdlab.topology import parse_topology

_SLOT = Slot(3, 1, "stock", 7)


def _seen(ticks: int = 3, *, cut: int = 0) -> Observation:
    """Return what the agent's own code sees of this process's namespace."""
    reader = QdiscReader()
    try:
        before = counters.snapshot(reader)
        taken = sampler.Sampler(1_000_000)
        for _ in range(ticks):
            taken.tick()
        taken.close()
        after = counters.snapshot(reader)
    finally:
        reader.close()
    header = json.loads(json.dumps(taken.header()))
    raw = RawSamples(header, taken.data(0, header["size"] - cut))
    return Observation(before={"a": before}, after={"a": after}, samples={"a": raw}, consoles={"a": b"hello"})


def _concluded(seen: Observation) -> Trial:
    return concluded(_SLOT, build_plan(parse_topology("nodes: {a: {kind: host}}").base, "t"), [], seen)


def test_of_what_was_seen_come_figures_and_the_record() -> None:
    trial = _concluded(_seen())

    assert (trial.state, trial.error) == ("done", "")
    assert trial.figures["qdisc_drops"] >= 0
    assert trial.raw["sampling"]["a"]["samples"] == 3
    assert trial.raw["sampling"]["a"]["truncated"] is False
    assert {"missed", "interval_ns"} < trial.raw["sampling"]["a"].keys()
    assert trial.files.keys() == {"samples.jsonl.gz", "a.console.gz"}


def test_a_series_that_ended_before_the_traffic_makes_the_trial_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "LIMIT", 1)

    trial = _concluded(_seen())

    assert trial.state == "failed"
    assert trial.error.startswith("a: its samples filled the ")
    assert trial.raw["sampling"]["a"]["samples"] == 1
    assert trial.raw["sampling"]["a"]["truncated"] is True
    assert trial.files["samples.jsonl.gz"]


def test_a_series_that_is_cut_short_makes_the_trial_fail() -> None:
    trial = _concluded(_seen(cut=1))

    assert (trial.state, trial.error) == ("failed", "a: 2 of its 3 samples are readable")
    assert trial.files["samples.jsonl.gz"]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (HungError("stood still"), "hung"),
        (GuestHungError("stood still", machine="a", console=["last"]), "hung"),
        (GuestError("stood still", machine="a", console=["last"]), "failed"),
    ],
)
def test_of_a_broken_trial_what_could_be_had_is_kept(error: ZdlabError, state: str) -> None:
    seen = _seen()
    seen.after, seen.error = {}, error

    trial = _concluded(seen)

    assert (trial.state, trial.error) == (state, "stood still")
    assert trial.figures == {}
    assert trial.raw["before"] == seen.before
    assert trial.raw["sampling"]["a"]["samples"] == 3
    assert trial.raw.get("console") == (["last"] if isinstance(error, GuestError) else None)
    assert trial.files.keys() == {"samples.jsonl.gz", "a.console.gz"}


def test_a_client_may_try_for_longer_before_anything_moved_than_after() -> None:
    silent, begun = Stall(5_000, 100.0), Stall(5_000, 100.0)
    later = 100.0 + SILENCE_SECONDS

    assert not silent.still(9_000, later)  # attempts to connect are no traffic
    assert silent.still(9_000, later + 1)
    assert not begun.still(1_000_000, 110.0)
    assert not begun.still(1_001_000, 110.0 + STALL_SECONDS)
    assert begun.still(1_001_000, 111.0 + STALL_SECONDS)
    assert not begun.still(1_004_000, 112.0 + STALL_SECONDS)
