"""Verbs about topology files that build nothing: validate, plan, graph, schema."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from zdlab.cli.output import Format, FormatOption, emit, out, print_json, say
from zdlab.errors import UsageError, unwritable

FileArgument = Annotated[Path, typer.Argument(help="topology file", show_default=False)]
ArmOption = Annotated[str | None, typer.Option("--arm", help="as in this arm")]


class GraphFormat(StrEnum):
    """What a graph is written as."""

    MERMAID = "mermaid"
    DOT = "dot"
    PNG = "png"
    SVG = "svg"


def validate(file: FileArgument, output: FormatOption = Format.TABLE) -> None:
    """Check a topology file, every arm of it."""
    from zdlab.topology import load_topology

    source = load_topology(file)
    found = {
        "name": source.name,
        "nodes": len(source.base.nodes),
        "links": len(source.base.links),
        "workloads": len(source.base.workloads),
        "arms": list(source.arm_names()),
        "expectations": len(source.base.expectations),
    }
    emit(output, found, {key: key for key in found}, [found])


def plan(file: FileArgument, arm: ArmOption = None, output: FormatOption = Format.TABLE) -> None:
    """List the operations that build a topology, in order."""
    from zdlab.plan.build import build_plan
    from zdlab.topology import load_topology

    source = load_topology(file)
    built = build_plan(source.arm(arm) if arm else source.base, source.name)
    if output is Format.JSON:
        print_json([operation.to_json() for operation in built.operations])
        return
    for operation in built.operations:
        out.print(operation.describe(), markup=False)


def graph(
    file: FileArgument,
    arm: ArmOption = None,
    form: Annotated[GraphFormat, typer.Option("--format", "-f", help="mermaid, dot, png or svg")] = GraphFormat.MERMAID,
    to: Annotated[Path | None, typer.Option("--to", help="write here; standard output when left out or -")] = None,
) -> None:
    """Draw a topology."""
    import sys

    from zdlab.plan.build import build_plan
    from zdlab.plan.graph import to_dot, to_image, to_mermaid
    from zdlab.topology import load_topology

    source = load_topology(file)
    built = build_plan(source.arm(arm) if arm else source.base, source.name)
    if form in {GraphFormat.PNG, GraphFormat.SVG}:
        data = to_image(built, form.value)
    else:
        data = (to_mermaid(built) if form is GraphFormat.MERMAID else to_dot(built)).encode()
    if to is None or str(to) == "-":
        if form is GraphFormat.PNG and sys.stdout.isatty():
            raise UsageError("a PNG is nothing for a terminal", hint="--to FILE.png")
        sys.stdout.buffer.write(data)
        return
    try:
        to.write_bytes(data)
    except OSError as error:
        raise unwritable(to, error) from error
    say(f"wrote {to}")


def schema() -> None:
    """Print the JSON Schema of topology files, for editors."""
    from zdlab.topology import json_schema

    print_json(json_schema())


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (validate, plan, graph, schema):
        app.command()(verb)
