"""Shell completion: the verb that prints its script, and the names of labs, nodes, links, kernels and runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Final

import typer

from zdlab.errors import ZdlabError

#: What the script says to the command by: "complete this".
_VARIABLE: Final = "_ZDLAB_COMPLETE"


class Shell(StrEnum):
    """The shells there is a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def prepare_completion() -> None:
    """Have the command answer when a shell's script asks it."""
    if _VARIABLE in os.environ:
        _register_shells()


def _register_shells() -> None:
    from typer.completion import get_completion_inspect_parameters

    get_completion_inspect_parameters()  # what Typer calls for options of its own, which this verb is in place of


def completion(
    context: typer.Context, shell: Annotated[Shell, typer.Argument(help="the shell", show_default=False)]
) -> None:
    """Print the script that has a shell complete zdlab's command lines."""
    from typer.completion import shell_complete

    _register_shells()
    shell_complete(context.find_root().command, {}, "zdlab", _VARIABLE, f"source_{shell}")


def _quietly(names: Callable[[], list[str]]) -> list[str]:
    """Return names, none where they cannot be had: nobody reads errors while typing."""
    try:
        return names()
    except (ZdlabError, OSError):
        return []


def lab_names() -> list[str]:
    """Return the labs that run."""
    from zdlab.lab.registry import list_labs

    return _quietly(lambda: [lab.name for lab in list_labs()])


def node_names(context: typer.Context) -> list[str]:
    """Return the nodes of the lab that was chosen, else of all that run."""
    from zdlab.lab.registry import list_labs

    chosen = context.params.get("lab")
    return _quietly(lambda: sorted({node for lab in list_labs() if chosen in {None, lab.name} for node in lab.nodes}))


def machine_names(context: typer.Context) -> list[str]:
    """Return the machines of the lab."""
    from zdlab.lab.client import Lab

    def names() -> list[str]:
        nodes = Lab.attach(context.params.get("lab")).status()["nodes"]
        return [node["name"] for node in nodes if node["kind"] == "machine"]

    return _quietly(names)


def link_names(context: typer.Context) -> list[str]:
    """Return the links of the lab. NODE:INTERFACE is left out: to bash, these are several words."""
    from zdlab.lab.client import Lab

    return _quietly(lambda: sorted({end["link"] for end in Lab.attach(context.params.get("lab")).status()["ends"]}))


def kernel_names() -> list[str]:
    """Return the kernels of the registry."""
    from zdlab.guest.kernels.registry import recipes

    return _quietly(lambda: list(recipes()))


def run_names() -> list[str]:
    """Return the runs, the newest first."""
    from zdlab.results.store import list_runs

    return _quietly(lambda: [run.name for run in list_runs()])


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(completion)
