"""Trials that were kept: written into bundles, whole or not at all, and repeated."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from tests.unit.bundle_maker import BundleMaker
from zdlab.capsule import bundle
from zdlab.capsule.bundle import open_bundle, write_bundle
from zdlab.capsule.repeat import Kept, compare_results, kept_trials
from zdlab.capsule.wire import packed
from zdlab.errors import InfrastructureError, UsageError, ZdlabError
from zdlab.results.store import RunStore


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    described = {
        "experiment": "t",
        "topology_file": "t.yaml",
        "topology": "nodes: {}",
        "arms": ["stock"],
        "blocks": 1,
        "seed": 1,
        "provenance": {},
    }
    return RunStore.create("t", described, tmp_path / "runs")


@pytest.fixture
def trials(tmp_path: Path) -> list[Kept]:
    place = tmp_path / "given"
    place.mkdir()
    return open_bundle(BundleMaker(tmp_path / "given.zdlab").fill().write(), place)


def test_what_is_written_can_be_opened(store: RunStore, trials: list[Kept], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    write_bundle(store, trials, tmp_path / "made.zdlab")

    (again,) = open_bundle(tmp_path / "made.zdlab", tmp_path / "out")
    (given,) = trials
    assert (again.number, again.arm, again.case) == (given.number, given.arm, given.case)
    assert again.result() == given.result()


def test_the_same_trials_make_the_same_bundle(store: RunStore, trials: list[Kept], tmp_path: Path) -> None:
    made = [tmp_path / "one.zdlab", tmp_path / "other.zdlab"]
    for path in made:
        write_bundle(store, trials, path)

    assert made[0].read_bytes() == made[1].read_bytes()


def test_a_file_that_is_there_is_left_alone(store: RunStore, trials: list[Kept], tmp_path: Path) -> None:
    path = tmp_path / "made.zdlab"
    path.write_text("mine")

    with pytest.raises(UsageError, match="is there already"):
        write_bundle(store, trials, path)

    assert path.read_text() == "mine"


def test_a_place_that_is_not_there_is_said(store: RunStore, trials: list[Kept], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write"):
        write_bundle(store, trials, tmp_path / "none" / "made.zdlab")


def test_one_that_cannot_be_written_to_its_end_is_removed(store: RunStore, trials: list[Kept], tmp_path: Path) -> None:
    path = tmp_path / "made.zdlab"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(ZdlabError, match=r"cannot write .*made\.zdlab: File too large"):
            write_bundle(store, trials, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert not path.exists()


def test_more_than_a_bundle_may_hold_is_refused(
    store: RunStore, trials: list[Kept], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_LARGEST", 1000)

    with pytest.raises(UsageError, match="more than a bundle may hold"):
        write_bundle(store, trials, tmp_path / "made.zdlab")

    assert not (tmp_path / "made.zdlab").exists()


def test_a_run_under_the_real_clock_has_no_trial_that_comes_out_again(store: RunStore) -> None:
    with pytest.raises(UsageError, match="ran under the real clock"):
        kept_trials(store)


def test_a_result_that_is_none_is_not_compared() -> None:
    with pytest.raises(InfrastructureError, match="cannot be compared"):
        compare_results(b"nothing", packed({}, {}))
