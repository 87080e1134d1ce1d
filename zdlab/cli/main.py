"""The entry point: gathers the verbs, and turns every error into a message and an exit code."""

from __future__ import annotations

import sys

import typer

from zdlab.cli import doctor, kernels, labs, nodes, replays, runs, topologies
from zdlab.cli.output import complain
from zdlab.errors import ZdlabError

app = typer.Typer(
    name="zdlab",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="An emulation testbed for host network stacks.\n\n"
    "Exit codes: 0 pass, 1 verdict failed, 2 usage or topology error, 3 infrastructure failure, "
    "4 inconclusive or invalid.",
)
for module in (labs, nodes, topologies, runs, replays, kernels, doctor):
    module.register(app)


def main() -> None:
    """Run the command line and end the process."""
    try:
        app()  # ends the process itself: 2 for a wrong command line, 130 at Ctrl-C
    except ZdlabError as error:
        sys.stdout.flush()
        complain(error)
        sys.exit(int(error.exit_code))


if __name__ == "__main__":
    main()
