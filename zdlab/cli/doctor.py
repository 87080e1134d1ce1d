"""Verbs about zdlab and the computer: doctor, version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from zdlab.cli.output import Format, FormatOption, emit, out, plain, print_json, progress_line
from zdlab.errors import ExitCode

if TYPE_CHECKING:
    from zdlab.cli.checkup import Finding

#: The longest check is a lab of namespaces.
_CHECK_WIDTH: Final = 29


def doctor(
    guest: Annotated[bool, typer.Option(help="boot the smallest guest too")] = True,
    output: FormatOption = Format.TABLE,
) -> None:
    """Try everything zdlab needs, and say how to mend what does not work."""
    from zdlab.cli.checkup import attempts

    findings: list[Finding] = []
    if output is Format.TABLE:
        _print_line("CHECK", "RESULT", "DETAIL")
    for what, attempt in attempts(guest=guest):
        # Programs are found at once, and a lab is built while the line says so.
        with progress_line() as show:
            show(f"trying {what}", None)
            found = list(attempt())
        findings += found
        if output is Format.TABLE:
            for finding in found:
                _print_line(finding.check, "ok" if finding.good else "FAILS", finding.detail)
                if not finding.good:
                    _print_line("", "", f"fix: {finding.fix}")
    if output is Format.JSON:
        print_json([_row(finding) for finding in findings])
    if any(not finding.good and finding.needed for finding in findings):
        raise typer.Exit(int(ExitCode.INFRASTRUCTURE))


def _print_line(check: str, result: str, detail: str) -> None:
    """Print a line of a table that is not finished: its columns are as wide as what is known to come."""
    out.print(plain(f"{check:<{_CHECK_WIDTH}}  {result:<6}  {detail}"))
    out.file.flush()


def _row(finding: Finding) -> dict[str, str]:
    result, fix = ("ok", "") if finding.good else ("FAILS", finding.fix)
    return {"check": finding.check, "result": result, "detail": finding.detail, "fix": fix}


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
