"""Verbs about zdlab and the computer: doctor, version."""

from __future__ import annotations

from typing import Annotated

import typer

from zdlab.cli.output import Format, FormatOption, emit
from zdlab.errors import ExitCode


def doctor(
    guest: Annotated[bool, typer.Option(help="boot the smallest guest too")] = True,
    output: FormatOption = Format.TABLE,
) -> None:
    """Try everything zdlab needs, and say how to mend what does not work."""
    from zdlab.cli.checkup import examine

    findings = list(examine(guest=guest))
    rows = [
        {"check": f.check, "result": "ok" if f.good else "FAILS", "detail": f.detail, "fix": f.fix} for f in findings
    ]
    emit(output, rows, {"check": "CHECK", "result": "RESULT", "detail": "DETAIL", "fix": "FIX"})
    if any(not finding.good and finding.needed for finding in findings):
        raise typer.Exit(int(ExitCode.INFRASTRUCTURE))


def version(output: FormatOption = Format.TABLE) -> None:
    """Print zdlab's version and those of what it works with."""
    import platform

    import zdlab
    from zdlab.experiment.setup import tool_versions

    found = {"zdlab": zdlab.__version__, "python": platform.python_version(), **tool_versions()}
    emit(output, found, {"name": "", "version": ""}, [{"name": k, "version": v} for k, v in found.items()])


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (doctor, version):
        app.command()(verb)
