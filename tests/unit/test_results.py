"""What is kept of a run comes back as it was, survives broken ends, and is shown in a form that stays."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zdlab.errors import InfrastructureError, UsageError
from zdlab.experiment.model import Answer, Outcome, Slot, Trial
from zdlab.measure.queues import Queue
from zdlab.results.document import document, mean_figures, to_csv
from zdlab.results.store import DATABASE, RUN, TRIALS, RunStore, find_run, list_runs
from zdlab.topology.metrics import METRICS

_QUEUE = Queue("a", "eth0", "1:", "tbf", 150_000, "B", 1514, peak=149_000, drops=3, full_after_s=0.25)


def _trial(number: int, arm: str = "stock", state: Any = "done", **changes: Any) -> Trial:
    trial = Trial(
        Slot(number, number // 2, arm, 77),
        state,
        figures={"qdisc_drops": 3.0, "retransmits": 2.0, "throughput_bps": 1.5e8, "jain_index": 0.5},
        nodes={"a": {"qdisc_drops": 3.0}, "b": {"qdisc_drops": 0.0}},
        lost={"a qdisc eth0 1: tbf": 3},
        queues=(_QUEUE, replace(_QUEUE, handle="2:", full_after_s=None)),
        accelerators=("tcg",),
        seconds=1.5,
    )
    return replace(trial, **changes)


DESCRIPTION = {
    "experiment": "exp",
    "topology_file": "exp.yaml",
    "topology": "",
    "arms": ["stock"],
    "blocks": 1,
    "seed": 77,
    "provenance": {},
}


def _store(directory: Path) -> RunStore:
    return RunStore.create("exp", DESCRIPTION, directory)


def test_a_trial_comes_back_as_it_was(tmp_path: Path) -> None:
    store = _store(tmp_path)
    trials = [
        _trial(0),
        _trial(1, "deep", accelerators=("kvm", "tcg")),
        _trial(2, state="failed", error="it's broken", figures={}, nodes={}, lost={}, queues=(), accelerators=()),
    ]
    for trial in trials:
        store.add(trial)

    assert RunStore(store.directory).finished() == trials


_NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=10)
_FIGURES = st.dictionaries(st.sampled_from(sorted(METRICS)), _NUMBERS, max_size=4)


@settings(max_examples=20)  # each makes a database
@given(_FIGURES, st.dictionaries(_TEXTS.filter(bool), _FIGURES.filter(bool), max_size=3), _TEXTS)
def test_any_figures_and_words_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    figures: dict[str, float],
    nodes: dict[str, dict[str, float]],
    error: str,
) -> None:
    store = _store(tmp_path_factory.mktemp("run"))
    store.add(_trial(0, figures=figures, nodes=nodes, error=error))
    (found,) = store.finished()

    assert (found.figures, found.nodes, found.error) == (figures, nodes, error)
    shutil.rmtree(store.directory)


def test_the_description_comes_back_and_a_broken_one_is_told(tmp_path: Path) -> None:
    store = _store(tmp_path)
    assert store.description() == DESCRIPTION

    for broken in ("{", "[]", "{}", "7", json.dumps({**DESCRIPTION, "arms": "stock"})):
        (store.directory / RUN).write_text(broken, encoding="utf-8")
        with pytest.raises(InfrastructureError, match="is not readable"):
            store.description()


def test_raw_records_hold_everything_and_any_gzip_reader_reads_them(tmp_path: Path) -> None:
    store = _store(tmp_path)
    for number in range(3):
        store.add(_trial(number, raw={"counters": [number] * 3}))

    with gzip.open(store.directory / TRIALS, "rt", encoding="utf-8") as stream:
        lines = [json.loads(line) for line in stream]
    assert lines == store.raw()
    assert [line["counters"] for line in lines] == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    assert lines[1]["trial"] == {"number": 1, "block": 0, "arm": "stock", "seed": 77}
    assert lines[1]["figures"]["qdisc_drops"] == 3
    assert lines[1]["queues"][0]["full_after_s"] == 0.25


def test_an_end_broken_anywhere_loses_one_raw_record_at_most(tmp_path: Path) -> None:
    store = _store(tmp_path)
    for number in range(2):
        store.add(_trial(number))
    path = store.directory / TRIALS
    whole = path.read_bytes()
    store.add(_trial(2))
    last = path.read_bytes()[len(whole) :]

    for length in range(len(last)):
        path.write_bytes(whole + last[:length])
        assert [record["trial"]["number"] for record in store.raw()] == [0, 1]


def test_records_after_a_broken_one_are_read(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.add(_trial(0))
    path = store.directory / TRIALS
    path.write_bytes(path.read_bytes() + path.read_bytes()[:60])
    store.add(_trial(1))
    store.add(_trial(2, raw={"long": "x" * 300_000}))

    assert [record["trial"]["number"] for record in store.raw()] == [0, 1, 2]


def test_a_trial_run_again_replaces_the_one_that_failed(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.add(_trial(0, state="hung", error="stood still"))
    store.add(_trial(0, lost={}, queues=()))
    (found,) = store.finished()

    assert found == _trial(0, lost={}, queues=())
    assert [record["state"] for record in store.raw()] == ["hung", "done"]


def test_files_of_a_trial_lie_in_a_directory_of_its_own(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.add(_trial(3, "deep", files={"samples.jsonl.gz": b"s", "console.txt": b"c"}))

    directory = store.directory / "0003-deep"
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {
        "samples.jsonl.gz": b"s",
        "console.txt": b"c",
    }
    assert directory.stat().st_mode & 0o077 == 0
    assert store.directory.stat().st_mode & 0o077 == 0


def _no_room_for_files(store: RunStore) -> None:
    (store.directory / "0001-stock").write_bytes(b"in the way")


def _no_room_for_lines(store: RunStore) -> None:
    (store.directory / TRIALS).unlink()
    (store.directory / TRIALS).symlink_to("/dev/full")


def _no_database(store: RunStore) -> None:
    (store.directory / DATABASE).write_bytes(b"not a database" * 100)


@pytest.mark.parametrize("harm", [_no_room_for_files, _no_room_for_lines, _no_database])
def test_what_cannot_be_written_is_an_infrastructure_error_with_a_way_on(
    tmp_path: Path, harm: Callable[[RunStore], None]
) -> None:
    store = _store(tmp_path)
    store.add(_trial(0))
    harm(store)

    with pytest.raises(InfrastructureError, match="cannot write the results in") as caught:
        store.add(_trial(1, files={"f": b"x"}))
    assert "--resume" in caught.value.hint
    if harm is not _no_database:
        assert store.finished() == [_trial(0)]


def test_a_run_is_not_made_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InfrastructureError, match="cannot write the results"):
        _store(tmp_path / "file" / "below")


def test_a_database_that_is_none_is_told(tmp_path: Path) -> None:
    store = _store(tmp_path)
    _no_database(store)

    with pytest.raises(InfrastructureError, match="is not readable"):
        store.finished()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("zdlab.results.store.results_dir", lambda: tmp_path)
    return tmp_path


def _named(home: Path, name: str) -> None:
    (home / name).mkdir()
    (home / name / RUN).write_text("{}", encoding="utf-8")


def test_runs_are_found_by_name_part_directory_or_as_the_newest(home: Path) -> None:
    for name in ("20260101T000000-one-aa", "20260102T000000-two-bb", "20260103T000000-one-cc"):
        _named(home, name)
    (home / "unrelated").mkdir()

    assert [run.name[16:] for run in list_runs()] == ["one-cc", "two-bb", "one-aa"]
    assert find_run(None).name == "20260103T000000-one-cc"
    assert find_run("two").name == "20260102T000000-two-bb"
    assert find_run("20260101T000000-one-aa").name == "20260101T000000-one-aa"
    assert find_run(str(home / "20260101T000000-one-aa")).directory == home / "20260101T000000-one-aa"
    assert find_run("one").name == "20260103T000000-one-cc"
    for name, problem in (("three", "there is no run"), ("./x", "is not the directory")):
        with pytest.raises(UsageError, match=problem):
            find_run(name)


def test_without_runs_the_way_to_one_is_named(home: Path) -> None:
    with pytest.raises(UsageError, match="no results yet") as caught:
        find_run(None)
    assert caught.value.hint == "zdlab run FILE"


def _outcome() -> Outcome:
    trials = (
        _trial(1, "deep", figures={"qdisc_drops": 0.0, "throughput_bps": 2.5, "retransmits": 1.0}),
        _trial(0),
        _trial(2, figures={"qdisc_drops": 5.0}),
        _trial(3, "deep", state="failed", error="x", figures={}, accelerators=()),
    )
    return Outcome("exp", "invalid", (Answer("deep.qdisc_drops == 0", "invalid", "why"),), ("stock", "deep"), trials)


def test_the_document_has_these_keys_and_no_others() -> None:
    assert document(_outcome()) == {
        "experiment": "exp",
        "verdict": "invalid",
        "clock": "real",
        "accelerator": "tcg",
        "expectations": [{"text": "deep.qdisc_drops == 0", "verdict": "invalid", "reason": "why"}],
        "arms": {
            "stock": {
                "trials": 2,
                "qdisc_drops": [3, 5],
                "retransmits": [2, None],
                "throughput_bps": [150_000_000, None],
                "jain_index": [0.5, None],
                "errors": [],
                "failed_trials": 0,
            },
            "deep": {
                "trials": 1,
                "qdisc_drops": [0],
                "retransmits": [1],
                "throughput_bps": [2.5],
                "jain_index": [None],
                "errors": ["x"],
                "failed_trials": 1,
            },
        },
    }


def test_the_document_is_json_with_whole_numbers_written_as_such() -> None:
    text = json.dumps(document(_outcome()), allow_nan=False)

    assert '"qdisc_drops": [3, 5]' in text
    assert '"jain_index": [0.5, null]' in text


@pytest.mark.parametrize(
    ("accelerators", "named"), [(((), ()), "none"), ((("kvm",), ("kvm",)), "kvm"), ((("tcg",), ("kvm",)), "kvm,tcg")]
)
def test_the_document_names_what_guests_ran_on(accelerators: tuple[tuple[str, ...], ...], named: str) -> None:
    trials = tuple(_trial(number, accelerators=names) for number, names in enumerate(accelerators))

    assert document(Outcome("exp", "pass", (), ("stock",), trials))["accelerator"] == named


def test_csv_has_a_line_for_every_figure_of_the_lab_and_of_each_node() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv([_trial(0), _trial(1, "deep", "failed", figures={}, nodes={})]))))

    assert len(rows) == 4 + 2
    assert rows[0] == {
        "trial": "0",
        "block": "0",
        "arm": "stock",
        "seed": "77",
        "state": "done",
        "node": "",
        "metric": "qdisc_drops",
        "value": "3",
    }
    assert [row["value"] for row in rows if row["node"] == "a"] == ["3"]


def test_means_are_over_finished_trials_that_have_the_figure() -> None:
    assert mean_figures(_outcome(), "stock") == {
        "qdisc_drops": 4,
        "retransmits": 2,
        "throughput_bps": 1.5e8,
        "jain_index": 0.5,
    }
    assert mean_figures(_outcome(), "deep") == {"qdisc_drops": 0, "retransmits": 1, "throughput_bps": 2.5}


def test_an_arm_whose_trials_all_failed_has_empty_lists_and_reasons() -> None:
    trials = tuple(_trial(n, state="failed", error="panic", figures={}, accelerators=()) for n in (0, 1))

    found = document(Outcome("exp", "invalid", (), ("stock",), trials))

    # Nobody came so far as to say what the guests ran on.
    assert found["accelerator"] is None
    assert found["arms"]["stock"] == {
        "trials": 0,
        "qdisc_drops": [],
        "retransmits": [],
        "throughput_bps": [],
        "errors": ["panic", "panic"],
        "failed_trials": 2,
    }
