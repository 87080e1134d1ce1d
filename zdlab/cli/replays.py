"""Verbs about repeating trials of the virtual clock: replay, bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zdlab.cli.output import Format, FormatOption, emit, progress_line, say
from zdlab.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from zdlab.capsule.machine import Report
    from zdlab.results.store import RunStore

ParallelOption = Annotated[int | None, typer.Option("--parallel", min=1, help="trials at once; as many as CPUs")]

#: A trial to repeat: its number, its arm, and what repeats it.
_Repeat = tuple[int, str, Callable[["Report"], str]]


def replay(
    what: Annotated[str, typer.Argument(metavar="RUN|BUNDLE", help="run, part of its name, or a bundle's file")],
    trial: Annotated[int | None, typer.Argument(help="number of a trial; every finished one when left out")] = None,
    parallel: ParallelOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Repeat trials of the virtual clock: they come out identical, or the first difference is shown."""
    from zdlab.capsule.repeat import side_by_side
    from zdlab.capsule.scratch import scratch
    from zdlab.capsule.trial import usual_parallel
    from zdlab.experiment.model import IDENTICAL

    with scratch("bundle") as directory, progress_line() as show:
        chosen = _of_bundle(Path(what), trial, directory) if Path(what).is_file() else _of_run(what, trial)

        def repeat(item: _Repeat) -> dict[str, Any]:
            number, arm, again = item
            found = again(lambda _seconds, phase: show(f"trial {number} {arm}: {phase}", None))
            return {"trial": number, "arm": arm, "result": found}

        rows = side_by_side(repeat, chosen, parallel or usual_parallel())
    emit(output, rows, {"trial": "TRIAL", "arm": "ARM", "result": "RESULT"})
    same = all(row["result"] == IDENTICAL for row in rows)
    raise typer.Exit(int(ExitCode.PASS if same else ExitCode.FAILED))


def _of_run(name: str, trial: int | None) -> list[_Repeat]:
    from zdlab.capsule.repeat import replay_trial
    from zdlab.results.store import find_run

    store = find_run(name)
    arms = {number: arm for number, arm in _finished(store) if trial in {None, number}}
    if trial is not None:
        arms.setdefault(trial, "")

    def again(number: int) -> Callable[[Report], str]:
        return lambda report: replay_trial(store, number, report)

    return [(number, arm, again(number)) for number, arm in arms.items()]


def _of_bundle(path: Path, trial: int | None, directory: Path) -> list[_Repeat]:
    from zdlab.capsule.bundle import Bundled, open_bundle
    from zdlab.capsule.case import run_case
    from zdlab.capsule.repeat import compare_results
    from zdlab.experiment.setup import tool_versions

    bundled = [item for item in open_bundle(path, directory) if trial in {None, item.number}]
    if not bundled:
        raise UsageError(f"the bundle {path} has no trial {trial}", hint="leave the number out to repeat what it has")
    here = tool_versions()["qemu"]
    for version in sorted({item.case.qemu for item in bundled} - {here}):
        say(f"note: made with {version}; this is {here}, which may count otherwise")

    def again(item: Bundled) -> Callable[[Report], str]:
        return lambda report: compare_results(item.result(), run_case(item.case, item.kernel, item.image, report))

    return [(item.number, item.arm, again(item)) for item in bundled]


def bundle(
    run: Annotated[str, typer.Argument(help="run, or part of its name")],
    trial: Annotated[int | None, typer.Argument(help="number of a trial; every finished one when left out")] = None,
    target: Annotated[Path | None, typer.Option("--file", "-f", help="file to write; RUN.zdlab when left out")] = None,
) -> None:
    """Write trials of the virtual clock into one file, with all it takes to repeat them on another computer."""
    from zdlab.capsule.bundle import write_bundle
    from zdlab.results.store import find_run

    store = find_run(run)
    numbers = [trial] if trial is not None else [number for number, _ in _finished(store)]
    path = target or Path(f"{store.name}.zdlab")
    with progress_line() as show:
        show("writing the bundle", None)
        write_bundle(store, numbers, path)
    say(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB; `zdlab replay {path}` repeats it anywhere")


def _finished(store: RunStore) -> list[tuple[int, str]]:
    """Return number and arm of the trials that can be repeated.

    :raises UsageError: when there is none.
    """
    if store.description().get("clock", "real") != "virtual":
        raise UsageError(
            f"{store.name} ran under the real clock: no two of its trials are alike",
            hint="zdlab run FILE --clock virtual",
        )
    done = [(trial.slot.number, trial.slot.arm) for trial in store.finished() if trial.state == "done"]
    if not done:
        raise UsageError(f"no trial of {store.name} was finished", hint="zdlab run FILE --resume")
    return done


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (replay, bundle):
        app.command()(verb)
