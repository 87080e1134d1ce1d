"""The forms an outcome is shown in: the JSON document, CSV, and rows for a table. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from zdlab.experiment.model import Outcome, Trial
from zdlab.topology.metrics import METRICS

#: Metrics every arm has a list of, if an empty one.
_ALWAYS = ("qdisc_drops", "retransmits", "throughput_bps")


def document(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as ``zdlab run -o json`` prints it: a list of per-trial values for each metric."""
    known = [name for name in METRICS if name in _ALWAYS or any(name in trial.figures for trial in outcome.trials)]
    arms: dict[str, Any] = {}
    for arm in outcome.arms:
        trials = outcome.of(arm)
        values: dict[str, Any] = {"trials": len(trials)}
        for name in known:
            values[name] = [_number(trial.figures.get(name)) for trial in trials]
        values["errors"] = [t.error for t in outcome.trials if t.slot.arm == arm and t.state != "done"]
        values["failed_trials"] = len(values["errors"])
        arms[arm] = values
    return {
        "experiment": outcome.experiment,
        "verdict": outcome.verdict,
        "clock": outcome.clock,
        **_virtual(outcome),
        "accelerator": guests_on(outcome),
        "expectations": [
            {"text": answer.text, "verdict": answer.verdict, "reason": answer.reason} for answer in outcome.answers
        ],
        "arms": arms,
    }


def guests_on(outcome: Outcome) -> str | None:
    """Return what guests ran on, ``none`` where there were none; ``None`` where no trial came so far as to tell."""
    names = sorted({name for trial in outcome.trials for name in trial.accelerators})
    untold = not names and any(trial.state != "done" for trial in outcome.trials)
    return None if untold else ",".join(names) or "none"


def _virtual(outcome: Outcome) -> dict[str, Any]:
    """Return what only a run under the virtual clock has."""
    if outcome.clock == "real":
        return {}
    return {"machines": dict(outcome.forms), "repeatable": outcome.repeatable, "repeats": dict(outcome.repeats)}


def _number(value: float | None) -> float | int | None:
    """Write whole numbers as such."""
    return int(value) if value is not None and value.is_integer() else value


def to_csv(trials: Sequence[Trial]) -> str:
    """Return one line for each metric of each trial, of the lab (empty node) and of each node."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["trial", "block", "arm", "seed", "state", "node", "metric", "value"])
    for trial in trials:
        head = [trial.slot.number, trial.slot.block, trial.slot.arm, trial.slot.seed, trial.state]
        for node, values in {"": trial.figures, **trial.nodes}.items():
            writer.writerows([*head, node, name, _number(value)] for name, value in values.items())
    return stream.getvalue()


def mean_figures(outcome: Outcome, arm: str) -> dict[str, float]:
    """Return the mean of each metric over an arm's finished trials that have it."""
    trials = outcome.of(arm)
    values = {name: [trial.figures[name] for trial in trials if name in trial.figures] for name in METRICS}
    return {name: sum(known) / len(known) for name, known in values.items() if known}
