"""Verbs about whole labs: up, down, ps, status, stats, gc."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated, Any

import typer

from zdlab.cli.output import Format, FormatOption, emit, err, out, progress_line, say
from zdlab.cli.topologies import FileArgument
from zdlab.errors import GuestError

LabOption = Annotated[str | None, typer.Option("--lab", help="name of the lab; the only one when left out")]


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
    from zdlab.experiment.setup import guest_programs
    from zdlab.lab.client import Lab
    from zdlab.lab.resources import boot_files, located
    from zdlab.plan.build import build_plan
    from zdlab.topology import load_topology
    from zdlab.traffic import traffic_tools

    source = load_topology(file)
    chosen = arm or source.base.control_arm()
    built = build_plan(source.arm(chosen) if chosen else source.base, source.name)
    with progress_line() as show:
        programs = guest_programs(traffic_tools()) if built.machine_kernels() else {}
        boot, _, _ = boot_files(built, source, programs, arm=chosen, progress=show)
        with located(source, chosen):
            lab = Lab.start(
                built.outline(),
                boot,
                name=name,
                topology=str(file.resolve()),
                accelerator=accel.value if accel else None,
                attached=False,
                progress=lambda text: show(text, None),
            )
    warn_of_tcg(lab.status())
    say(f"lab {lab.name} is up: {len(built.topology.nodes)} nodes; `zdlab down {lab.name}` ends it")


def warn_of_tcg(status: dict[str, Any]) -> None:
    """Say aloud that guests are emulated where nobody asked for it."""
    reasons = {node.get("accelerator_reason", "") for node in status["nodes"] if node.get("accelerator") == "tcg"}
    for reason in sorted(reasons - {"asked for", ""}):
        err.print(f"[bold yellow]warning:[/] guests are emulated (TCG), which is slow: {reason}")


def down(
    name: Annotated[str | None, typer.Argument(help="name of the lab; the only one when left out")] = None,
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
    name: Annotated[str | None, typer.Argument(help="name of the lab; the only one when left out")] = None,
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


def stats(
    lab: LabOption = None,
    interval: Annotated[float, typer.Option("--interval", "-i", min=0.1, help="seconds between looks")] = 1.0,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="looks to take; 0: until Ctrl-C")] = 0,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show every qdisc of a lab, again and again: totals, and rates since the last look."""
    from rich.live import Live
    from rich.table import Table

    from zdlab.lab.client import Lab

    attached = Lab.attach(lab)
    if output is Format.JSON:
        emit(output, _qdisc_rows(attached), {})
        return
    looks = count or (0 if out.is_terminal else 1)
    old: dict[tuple[str, ...], dict[str, Any]] = {}
    with Live(Table(), console=out, auto_refresh=False) as live:
        taken = 0
        while True:
            rows = _qdisc_rows(attached)
            live.update(_stats_table(rows, old, interval), refresh=True)
            old = {_key(row): row for row in rows}
            taken += 1
            if looks and taken >= looks:
                return
            time.sleep(interval)


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return (row["node"], row["interface"], str(row["handle"]), str(row["parent"]))


def _qdisc_rows(lab: Any) -> list[dict[str, Any]]:
    rows = []
    for node in lab.info.nodes:
        try:
            found = lab.counters(node)["qdiscs"]
        except GuestError as error:
            say(error.message)
            continue
        rows += [{"node": node, **row} for row in found if row["interface"] != "lo"]
    return rows


def _stats_table(rows: list[dict[str, Any]], old: dict[tuple[str, ...], dict[str, Any]], seconds: float) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("NODE", "IF", "QDISC", "PACKETS", "DROPS", "DROPS/s", "OVERLIMITS", "REQUEUES", "QLEN", "BACKLOG"):
        table.add_column(heading, justify="left" if heading in {"NODE", "IF", "QDISC"} else "right")
    for row in rows:
        before = old.get(_key(row), row)
        rate = (row["drops"] - before["drops"]) / seconds
        name = f"{row['kind']} {row['handle'] >> 16:x}:"
        values = (row["packets"], row["drops"], f"{rate:.0f}", row["overlimits"], row["requeues"], row["qlen"])
        table.add_row(row["node"], row["interface"], name, *map(str, values), str(row["backlog"]))
    return table


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
    for verb in (up, down, ps, status, stats, gc):
        app.command()(verb)
