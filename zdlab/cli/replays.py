"""Verbs about repeating trials of the virtual clock: replay, bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zdlab.cli.output import Format, FormatOption, emit, minutes, progress_line, say
from zdlab.cli.runs import named_run
from zdlab.errors import ExitCode, GuestError, UsageError

if TYPE_CHECKING:
    from zdlab.capsule.crew import Heard
    from zdlab.capsule.machine import Report
    from zdlab.capsule.repeat import Kept

ParallelOption = Annotated[int | None, typer.Option("--parallel", min=1, help="trials at once; as many as CPUs")]


def replay(
    what: Annotated[str, typer.Argument(metavar="RUN|BUNDLE", help="run, part of its name, or a bundle's file")],
    trial: Annotated[int | None, typer.Argument(help="number of a trial; every finished one when left out")] = None,
    parallel: ParallelOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Repeat trials of the virtual clock: they come out identical, or the first difference is shown."""
    from zdlab.capsule.crew import run_crew
    from zdlab.capsule.scratch import scratch
    from zdlab.capsule.trial import usual_parallel
    from zdlab.experiment.model import IDENTICAL

    lost = False

    def repeat(kept: Kept, report: Report) -> str:
        nonlocal lost
        try:
            return kept.repeat(report)
        except GuestError as error:
            lost = True
            return f"came to no result: {error.message}"

    with scratch("bundle") as directory, progress_line() as line:

        def show(kept: Kept, heard: Heard) -> None:
            line(paced(f"trial {kept.number} {kept.arm}", heard), None)

        chosen = _chosen(what, trial, directory)
        for note in dict.fromkeys(note for kept in chosen for note in kept.unlike()):
            say(f"note: {note}")
        crew = run_crew(repeat, chosen, parallel or usual_parallel(), expected=lambda kept: kept.seconds, show=show)
        found = dict(crew)
    rows = [{"trial": kept.number, "arm": kept.arm, "result": found[kept]} for kept in chosen]
    emit(output, rows, {"trial": "TRIAL", "arm": "ARM", "result": "RESULT"})
    same = all(row["result"] == IDENTICAL for row in rows)
    raise typer.Exit(int(ExitCode.INFRASTRUCTURE if lost else ExitCode.PASS if same else ExitCode.FAILED))


def _chosen(what: str, trial: int | None, directory: Path) -> list[Kept]:
    from zdlab.capsule.bundle import open_bundle
    from zdlab.capsule.repeat import kept_trials

    path = Path(what)
    if not path.is_file():
        return kept_trials(named_run(what), trial)
    found = [kept for kept in open_bundle(path, directory) if trial in {None, kept.number}]
    if not found:
        raise UsageError(f"the bundle {path} has no trial {trial}", hint="leave the number out to repeat what it has")
    return found


def paced(what: str, heard: Heard) -> str:
    """Return what a capsule is doing, for people; what a narrow terminal cuts off comes last."""
    left = f"{minutes(heard.left)} left, " if heard.left is not None else ""
    return f"{left}{heard.rate:.2f} virtual s/s, {what} at {heard.virtual:.1f}: {heard.phase}"


def bundle(
    run: Annotated[str, typer.Argument(help="run, or part of its name")],
    trial: Annotated[int | None, typer.Argument(help="number of a trial; every finished one when left out")] = None,
    target: Annotated[Path | None, typer.Option("--file", "-f", help="file to write; RUN.zdlab when left out")] = None,
) -> None:
    """Write trials of the virtual clock into one file, with all it takes to repeat them on another computer."""
    from zdlab.capsule.bundle import write_bundle
    from zdlab.capsule.repeat import kept_trials

    store = named_run(run)
    path = target or Path(f"{store.name}.zdlab")
    with progress_line() as show:
        show("writing the bundle", None)
        write_bundle(store, kept_trials(store, trial), path)
    say(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB; `zdlab replay {path}` repeats it anywhere")


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (replay, bundle):
        app.command()(verb)
