"""The entry point: gathers the verbs, and turns every error into a message and an exit code."""

from __future__ import annotations

import signal
import sys
from typing import Annotated, Final

import typer

import zdlab
from zdlab.cli import completion, doctor, kernels, labs, nodes, replays, runs, stats, topologies
from zdlab.cli.completion import prepare_completion
from zdlab.cli.output import complain
from zdlab.cli.streams import OutputError, discard_output, prepare_streams
from zdlab.errors import ZdlabError

#: As a shell reports a program that ended because nobody reads its output any more.
_CLOSED_PIPE: Final = 128 + signal.SIGPIPE

app = typer.Typer(
    name="zdlab",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="An emulation testbed for host network stacks.\n\n"
    "Exit codes: 0 pass, 1 verdict failed, 2 usage or topology error, 3 infrastructure failure, "
    "4 inconclusive or invalid, 130 Ctrl-C (run: 143 SIGTERM, 129 SIGHUP), 141 whoever read the output has gone.",
)
for module in (labs, stats, nodes, topologies, runs, replays, kernels, doctor, completion):
    module.register(app)


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"zdlab {zdlab.__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print zdlab's version and exit")
    ] = False,
) -> None:
    """Take the options before any verb."""


def main() -> None:
    """Run the command line and end the process."""
    prepare_streams()
    prepare_completion()
    try:
        try:
            app(prog_name="zdlab")  # ends the process itself: 2 for a wrong command line, 130 at Ctrl-C
        finally:
            sys.stdout.flush()  # Python's own flush at exit would fail too late to be told
    except ZdlabError as error:
        sys.exit(_exit_code(error))


def _exit_code(error: ZdlabError) -> int:
    """Say what went wrong and return what the process ends with."""
    if isinstance(error, OutputError):
        discard_output()
        if error.closed_pipe:
            return _CLOSED_PIPE
    complain(error)
    return int(error.exit_code)


if __name__ == "__main__":
    main()
