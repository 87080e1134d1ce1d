"""The verdict table."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from zdlab.cli.output import plain
from zdlab.experiment.model import IDENTICAL, Outcome
from zdlab.results.document import guests_on, mean_figures
from zdlab.topology.metrics import METRICS

_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "invalid": "magenta"}


def print_outcome(console: Console, outcome: Outcome, directory: Path) -> None:
    """Print each arm's mean figures, each expectation's verdict, and the verdict of all."""
    console.print(_figures(outcome))
    console.print()
    for answer in outcome.answers:
        colour = _COLOURS[answer.verdict]
        console.print(f"[{colour}]{answer.verdict:<13}[/]{plain(answer.text)}\n             {plain(answer.reason)}")
    for trial in outcome.trials:
        if trial.state != "done":
            place = f"trial {trial.slot.number} of {trial.slot.arm}"
            console.print(f"[red]{trial.state:<13}[/]{plain(place)}\n             {plain(trial.error)}")
    if not outcome.answers:
        console.print("no expectations were asked of these arms")
    console.print()
    console.print(f"verdict: [bold {_COLOURS[outcome.verdict]}]{outcome.verdict}[/]")
    if outcome.clock == "real":
        console.print(f"guests on: {guests_on(outcome) or 'unknown'}; clock: real; kept in {plain(str(directory))}")
        return
    forms = sorted(set(outcome.forms.values()))
    console.print(f"clock: virtual ({', '.join(forms)}); {_repeats(outcome)}; kept in {plain(str(directory))}")


def _repeats(outcome: Outcome) -> str:
    """Say what repeating trials showed."""
    if outcome.repeatable is None:
        return "no trial was repeated"
    if outcome.repeatable:
        return "a trial of each arm was repeated: identical"
    differences = [f"{arm}: {found}" for arm, found in outcome.repeats.items() if found != IDENTICAL]
    return f"[red]NOT REPEATABLE[/]: {plain('; '.join(differences))}"


def _figures(outcome: Outcome) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title="means over trials", title_justify="left")
    table.add_column("")
    means = {arm: mean_figures(outcome, arm) for arm in outcome.arms}
    for arm in outcome.arms:
        table.add_column(f"{arm} ({len(outcome.of(arm))})", justify="right")
    for name, metric in METRICS.items():
        if any(name in values for values in means.values()):
            label = f"{name} [{metric.unit}]" if metric.unit else name
            table.add_row(plain(label), *(_number(values.get(name)) for values in means.values()))
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value == 0 or (abs(value) >= 1000 and value.is_integer()):
        return f"{value:,.0f}"
    if abs(value) >= 1e5:
        return f"{value:,.0f}"
    return f"{value:.4g}"
