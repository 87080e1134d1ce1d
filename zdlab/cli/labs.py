"""Verbs about whole labs: up, down, ps, status, gc."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zdlab.cli.completion import lab_names
from zdlab.cli.output import Format, FormatOption, emit, err, progress_line, say
from zdlab.cli.topologies import FileArgument

if TYPE_CHECKING:
    from zdlab.lab.client import Lab
    from zdlab.lab.launch import Launch

LabOption = Annotated[
    str | None,
    typer.Option("--lab", help="name of the lab; the only one when left out", autocompletion=lab_names),
]
LabArgument = Annotated[
    str | None, typer.Argument(help="name of the lab; the only one when left out", autocompletion=lab_names)
]


class Accelerator(StrEnum):
    """What guests run on."""

    KVM = "kvm"
    TCG = "tcg"


AccelOption = Annotated[Accelerator | None, typer.Option("--accel", help="force kvm or tcg for all machines")]


def up(
    file: FileArgument,
    name: Annotated[str | None, typer.Option("--name", help="name of the lab; the topology's when left out")] = None,
    arm: Annotated[str | None, typer.Option("--arm", help="build this arm; the control arm when left out")] = None,
    accel: AccelOption = None,
) -> None:
    """Build a lab and leave it running."""
    from zdlab.lab.launch import ShepherdProgram

    with ShepherdProgram() as shepherd:  # has loaded what it needs when the topology is read
        lab = _built(file, name, arm, accel, shepherd.launch)
    warn_of_tcg(lab.status())
    say(f"lab {lab.name} is up: {len(lab.info.nodes)} nodes; `zdlab down {lab.name}` ends it")


def _built(file: Path, name: str | None, arm: str | None, accel: Accelerator | None, launch: Launch) -> Lab:
    """Build a lab of an arm, which outlives this process."""
    from zdlab.lab.client import Lab
    from zdlab.lab.nested import suited_to_computer
    from zdlab.lab.resources import boot_files, located
    from zdlab.plan.build import build_plan
    from zdlab.topology import load_topology
    from zdlab.traffic import guest_programs, traffic_tools

    source = load_topology(file)
    chosen = source.base.control_arm() if arm is None else arm
    plan = build_plan(source.base if chosen is None else source.arm(chosen), source.name)
    with progress_line() as show:
        programs = guest_programs(traffic_tools()) if plan.machine_kernels() else {}
        boot, _, _ = boot_files(plan, source, programs, arm=chosen, progress=show)
        with located(source, chosen):
            lab = Lab.start(
                suited_to_computer(plan, boot, accel.value if accel else None).outline(),
                boot,
                name=name,
                topology=str(file),
                accelerator=accel.value if accel else None,
                progress=lambda text: show(text, None),
                launch=launch,
            )
        lab.detach()
    return lab


def warn_of_tcg(status: dict[str, Any]) -> None:
    """Say aloud that guests are emulated where nobody asked for it."""
    reasons = {node.get("accelerator_reason", "") for node in status["nodes"] if node.get("accelerator") == "tcg"}
    for reason in sorted(reasons - {"asked for", ""}):
        err.print(f"[bold yellow]warning:[/] guests are emulated (TCG), which is slow: {reason}")


def down(
    name: LabArgument = None,
    every: Annotated[bool, typer.Option("--all", help="end all labs")] = False,
) -> None:
    """End a lab. Fine when it is gone already."""
    from zdlab.lab.client import Lab
    from zdlab.lab.registry import find_lab, list_labs

    labs = list_labs()
    if not every and name is None and len(labs) > 1:
        find_lab(None)  # says which there are
    chosen = [lab for lab in labs if every or name in {None, lab.name}]
    for info in chosen:
        Lab(info).down()
        say(f"lab {info.name} is down")
    if not chosen:
        say(f"no lab {name} is running" if name else "no lab is running")


def ps(output: FormatOption = Format.TABLE) -> None:
    """List the running labs."""
    from zdlab.lab.registry import list_labs

    rows = [
        {"name": lab.name, "pid": lab.pid, "topology": lab.topology, "nodes": list(lab.nodes), "since": lab.since}
        for lab in list_labs()
    ]
    emit(output, rows, {"name": "NAME", "pid": "PID", "topology": "TOPOLOGY", "nodes": "NODES", "since": "SINCE"})


def status(
    name: LabArgument = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show the nodes of a lab."""
    from zdlab.lab.client import Lab

    found = Lab.attach(name).status()
    rows = []
    for node in found["nodes"]:
        addresses = [f"{end['name']} {' '.join(end['addresses'])}".strip() for end in node["interfaces"]]
        rows.append({**node, "interfaces": ", ".join(addresses)})
    columns = {"name": "NODE", "kind": "KIND", "state": "STATE", "kernel": "KERNEL", "accelerator": "ACCEL"}
    if any(node["in"] for node in found["nodes"]):
        columns = {"name": "NODE", "in": "IN"} | columns
    emit(output, found, columns | {"interfaces": "INTERFACES"}, rows)
    if output is Format.TABLE:
        warn_of_tcg(found)


def gc() -> None:
    """Remove what dead labs left, and cached kernels and images nothing has used for long."""
    from zdlab.guest.garbage import collect_garbage
    from zdlab.lab.registry import collect_dead

    removed = [f"what was left of lab {name}" for name in collect_dead()]
    removed += collect_garbage()
    for thing in removed:
        say(f"removed {thing}")
    if not removed:
        say("there is nothing to remove")


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (up, down, ps, status, gc):
        app.command()(verb)
