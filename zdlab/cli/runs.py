"""Verbs about experiments: run, results."""

from __future__ import annotations

import secrets
import shlex
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zdlab.cli.completion import run_names
from zdlab.cli.labs import AccelOption
from zdlab.cli.output import (
    Format,
    FormatOption,
    SparseProgress,
    emit,
    err,
    minutes,
    out,
    print_json,
    progress_line,
    say,
)
from zdlab.cli.topologies import FileArgument
from zdlab.errors import ExitCode, InfrastructureError, UsageError

if TYPE_CHECKING:
    from zdlab.experiment.model import Clock, Outcome
    from zdlab.results.store import RunStore

_EXIT = {
    "pass": ExitCode.PASS,
    "fail": ExitCode.FAILED,
    "inconclusive": ExitCode.INCONCLUSIVE,
    "invalid": ExitCode.INCONCLUSIVE,
}


class ClockChoice(StrEnum):
    """What trials are timed by."""

    REAL = "real"
    VIRTUAL = "virtual"


def run(
    file: FileArgument,
    blocks: Annotated[int | None, typer.Option("--blocks", min=1, help="trials of each arm")] = None,
    arms: Annotated[str | None, typer.Option("--arms", help="only these, separated by commas")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="of all that is left to chance; random when left out")
    ] = None,
    clock: Annotated[ClockChoice | None, typer.Option("--clock", help="the file's, else real, when left out")] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", min=1, help="virtual clock: trials at once; as many as CPUs")
    ] = None,
    repeat: Annotated[
        bool, typer.Option("--repeat/--no-repeat", help="virtual clock: repeat a trial of each arm and compare")
    ] = True,
    accel: AccelOption = None,
    neper_dir: Annotated[Path | None, typer.Option("--neper-dir", help="use neper's programs from here")] = None,
    keep_on_failure: Annotated[bool, typer.Option(help="leave the lab of a failed trial running")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the newest run of this file")] = False,
    results: Annotated[Path | None, typer.Option("--results", help="directory the run is kept in")] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Run an experiment: every arm on fresh labs, in blocks; prints the verdict."""
    from zdlab.cli.conduct import chosen_conductor
    from zdlab.experiment.run import Options, least_blocks, run_experiment, selected_arms, usual_blocks
    from zdlab.experiment.setup import changed_since, describe_run
    from zdlab.results.store import RunStore
    from zdlab.topology import load_topology

    source = load_topology(file)
    wanted = tuple(arm.strip() for arm in arms.split(",") if arm.strip()) if arms is not None else ()
    if arms is not None and not wanted:
        raise UsageError(f"--arms {arms!r} names none", hint="zdlab validate lists those of a file")
    chosen = selected_arms(source, wanted)
    timed: Clock = clock.value if clock else source.base.clock
    store: RunStore | None = None
    if resume:
        store, kept = _resumable(source.name, source.text, results)
        if (wanted and list(chosen) != kept["arms"]) or (seed is not None and seed != kept["seed"]):
            raise UsageError("a run goes on with the arms and the seed it began with", hint="leave both out")
        began: Clock = kept.get("clock", "real")
        if clock and timed != began:
            raise UsageError(f"the run began under the {began} clock", hint="leave out --clock")
        chosen, seed, blocks, timed = tuple(kept["arms"]), kept["seed"], blocks or kept["blocks"], began
    options = Options(
        seed=secrets.randbelow(1 << 31) if seed is None else seed,
        arms=chosen,
        blocks=blocks or usual_blocks(source, chosen),
        accelerator=accel.value if accel else None,
        keep_on_failure=keep_on_failure,
        clock=timed,
    )
    with progress_line() as show:
        conductor = chosen_conductor(source, options, neper_dir=neper_dir, parallel=parallel, progress=show)
    if store is not None and (changed := changed_since(store.description()["provenance"], conductor.provenance)):
        raise UsageError(
            "what the run began with has changed, so that its trials cannot be compared:\n  " + "\n  ".join(changed),
            hint="start a new run without --resume",
        )
    if store is None:
        store = RunStore.create(source.name, describe_run(source, chosen, options, conductor.provenance), results)
    say(f"run {store.name}: {len(chosen)} arms, {options.blocks} blocks, seed {options.seed}")
    if options.blocks < (least := least_blocks(source, chosen)):
        say(f"{options.blocks} blocks cannot decide the comparisons: at least {least} are needed")
    outcome = _run_with_progress(run_experiment, source, conductor.conduct, options, store)
    if repeat and conductor.repeat is not None and outcome.kept_lab is None:
        with progress_line() as show:
            store.amend(repeats=conductor.repeat(store, chosen, show))
    outcome = replace(_judged(store), kept_lab=outcome.kept_lab)
    _show(outcome, store, output)
    raise typer.Exit(int(_EXIT[outcome.verdict]))


def results(
    name: Annotated[
        str | None, typer.Argument(help="run, or part of its name; the newest of these", autocompletion=run_names)
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="list the runs")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="print every figure of every trial as CSV")] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show the results of a run again."""
    from zdlab.results.document import to_csv
    from zdlab.results.store import list_runs

    _agree({"--list": listed, "--csv": csv, "-o json": output is Format.JSON and not listed})
    if listed:
        if name is not None:
            raise UsageError("--list lists all runs", hint="leave out the name, or --list")
        rows = [row for store in list_runs() if (row := _listed(store))]
        emit(output, rows, {"run": "RUN", "experiment": "EXPERIMENT", "arms": "ARMS", "trials": "TRIALS"})
        return
    store = named_run(name)
    if csv:
        sys.stdout.write(to_csv(store.finished()))
        return
    _show(_judged(store), store, output)


def _agree(chosen: dict[str, bool]) -> None:
    """Refuse options that each ask for another output.

    :raises UsageError: when more than one was given.
    """
    given = [option for option, there in chosen.items() if there]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} ask for different outputs", hint="choose one")


def named_run(name: str | None) -> RunStore:
    """Return a run by name, and say which it is where several have such a name."""
    from zdlab.results.store import find_run, list_runs

    store = find_run(name)
    if name not in {None, store.name} and sum(str(name) in run.name for run in list_runs()) > 1:
        say(f"several runs match {name!r}; this is the newest, {store.name}")
    return store


def _listed(store: RunStore) -> dict[str, Any] | None:
    """Return a run's row; of one that is not readable only say so."""
    try:
        description = store.description()
        done = sum(trial.state == "done" for trial in store.finished())
    except InfrastructureError as error:
        say(error.message)
        return None
    trials = f"{done}/{len(description['arms']) * description['blocks']}"
    return {
        "run": store.name,
        "experiment": description["experiment"],
        "arms": description["arms"],
        "trials": trials,
        "directory": str(store.directory),
    }


def _judged(store: RunStore) -> Outcome:
    from zdlab.experiment.run import judge_experiment
    from zdlab.topology import parse_topology

    description = store.description()
    source = parse_topology(description["topology"], description["topology_file"])
    outcome = judge_experiment(source, description["arms"], store.finished())
    if description.get("clock", "real") == "real":
        return outcome
    capsules = description["provenance"]["capsules"]
    forms = {arm: capsules[arm]["form"] for arm in outcome.arms}
    outcome = replace(outcome, clock="virtual", forms=forms, repeats=description.get("repeats", {}))
    # A trial that does not come out the same twice is no trial under this clock.
    return replace(outcome, verdict="invalid") if outcome.repeatable is False else outcome


def _resumable(experiment: str, text: str, base: Path | None) -> tuple[RunStore, dict[str, Any]]:
    """Return the newest run of a topology as it stands now."""
    from zdlab.paths import results_dir
    from zdlab.results.store import RUN, RunStore

    directory = base or results_dir()
    for path in sorted(directory.glob(f"*-{experiment}-*"), reverse=True) if directory.is_dir() else []:
        if (path / RUN).is_file():
            store = RunStore(path)
            description = store.description()
            if description["topology"] == text:
                return store, description
    raise UsageError(f"there is no run of {experiment} to go on with", hint="leave out --resume")


def _run_with_progress(runner: Any, source: Any, conduct: Any, options: Any, store: RunStore) -> Outcome:
    """Run with a progress bar on a terminal, a line for each trial elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from zdlab.cli.stopping import StoppedError, stopping
    from zdlab.paths import results_dir

    sparse = SparseProgress()
    columns = (TextColumn("{task.description}"), BarColumn(10), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def report(event: Any) -> None:
            left = f"{minutes(event.seconds_left)} left, " if event.seconds_left is not None else ""
            place = f"block {event.slot.block + 1} {event.slot.arm}"
            # What a narrow terminal cuts off comes last.
            doing = f"{left}{place}: {event.phase}"
            bar.update(task, total=event.total, completed=event.done, description=doing)
            if not err.is_terminal:
                sparse(f"[{event.done}/{event.total}] {doing}", None)
            if event.trial is not None and (event.trial.error or not err.is_terminal):
                problem = f": {event.trial.error}" if event.trial.error else ""
                say(f"[{event.done}/{event.total}] {place} {event.trial.state}{problem}")

        try:
            with stopping():
                outcome: Outcome = runner(source, conduct, options, store, report)
        except KeyboardInterrupt as stop:
            bar.stop()
            count = len(store.finished())
            home = store.directory.parent
            again = [str(source.file), *(("--results", str(home)) if home != results_dir() else ()), "--resume"]
            say(f"stopped; {count} finished trials are kept: `zdlab run {shlex.join(again)}` goes on")
            if isinstance(stop, StoppedError):
                raise typer.Exit(stop.exit_code) from None
            raise
    return outcome


def _show(outcome: Outcome, store: RunStore, output: Format) -> None:
    from zdlab.cli.report import print_outcome
    from zdlab.results.document import document

    if output is Format.JSON:
        print_json(document(outcome))
    else:
        print_outcome(out, outcome, store.directory)
    if outcome.kept_lab is not None:
        say(f"the lab {outcome.kept_lab} is still running: `zdlab status {outcome.kept_lab}`, `zdlab down` ends it")


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (run, results):
        app.command()(verb)
