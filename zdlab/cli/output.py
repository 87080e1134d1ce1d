"""What the command prints: tables or JSON on standard output, progress and errors on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zdlab.errors import GuestError, KernelBuildError, ZdlabError

#: Columns of a table that goes into a file or a pipe: nothing is folded there.
_PIPE_WIDTH = 400
#: Between lines of progress where standard error is no terminal.
_LOG_SECONDS = 30.0

#: Python has no standard output where the caller closed it.
_ON_TERMINAL = sys.stdout is not None and sys.stdout.isatty()

out = Console(highlight=False, soft_wrap=True, width=None if _ON_TERMINAL else _PIPE_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Format(StrEnum):
    """How a table is printed."""

    TABLE = "table"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--output", "-o", help="table or json")]


def emit(form: Format, data: Any, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]] | None = None) -> None:
    """Print ``data`` as JSON, or its rows as a table.

    :param columns: keys of the rows, and their headings.
    :param rows: the data itself when ``None``.
    """
    if form is Format.JSON:
        print_json(data)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns.values():
        table.add_column(heading, overflow="fold")
    for row in data if rows is None else rows:
        table.add_row(*(plain(_cell(row.get(key))) for key in columns))
    out.print(table)


def print_json(data: Any) -> None:
    """Print JSON and nothing else."""
    sys.stdout.write(json.dumps(data, indent=2) + "\n")
    sys.stdout.flush()


def plain(text: str) -> str:
    """Return a text of whatever source for a terminal: no markup of ours, and nothing a terminal would obey."""
    return escape(
        "".join(mark if mark.isprintable() or mark in "\n\t" else "\N{REPLACEMENT CHARACTER}" for mark in text)
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value)


def say(text: str) -> None:
    """Print a line for people, on standard error."""
    err.print(plain(text))


def complain(error: ZdlabError) -> None:
    """Print what happened, where, and what to do."""
    err.print(f"[bold red]error:[/] {plain(error.message)}")
    if isinstance(error, KernelBuildError):
        for line in error.output:
            err.print(f"  {plain(line)}")
    if isinstance(error, GuestError):
        if error.command:
            err.print(f"  command: {plain(' '.join(error.command))}")
        if error.exit_status is not None:
            err.print(f"  QEMU's exit status: {error.exit_status}")
        for line in error.console:
            err.print(f"  console: {plain(line)}")
    if error.hint:
        err.print(f"[bold]hint:[/] {plain(error.hint)}")


@contextmanager
def progress_line() -> Iterator[Callable[[str, float | None], None]]:
    """Show what is being done: on one line of a terminal, elsewhere with a line now and then for what takes long."""
    if not err.is_terminal:
        yield SparseProgress()
        return
    with err.status("…") as status:

        def show(text: str, fraction: float | None) -> None:
            status.update(plain(f"{text}{_percent(fraction)}"))

        yield show


class SparseProgress:
    """Prints a line of progress when the last one is long ago: for logs."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, text: str, fraction: float | None) -> None:
        """Take what is being done."""
        now = time.monotonic()
        if now - self._last >= _LOG_SECONDS:
            self._last = now
            say(f"{text}{_percent(fraction)}")


def minutes(seconds: float) -> str:
    """Return a time still to come, for people."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _percent(fraction: float | None) -> str:
    return f" {fraction:4.0%}" if fraction is not None else ""
