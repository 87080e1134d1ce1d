"""The verb stats: every qdisc of a lab, live."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from zdlab.cli.labs import LabOption
from zdlab.cli.output import Format, FormatOption, out, plain, print_json, say
from zdlab.errors import GuestError

if TYPE_CHECKING:
    from rich.table import Table

    from zdlab.lab.client import Lab

_HEADINGS: Final = ("NODE", "IF", "QDISC", "PACKETS", "DROPS", "DROPS/s", "OVERLIMITS", "REQUEUES", "QLEN", "BACKLOG")
_TEXTS: Final = _HEADINGS[:3]


@dataclass(frozen=True)
class _Look:
    """What all qdiscs had counted when they were looked at.

    :param taken: when each node was, by its own clock in ns.
    """

    rows: list[dict[str, Any]]
    taken: dict[str, int]

    def drops(self) -> dict[tuple[str, ...], int]:
        """Return the drops of each qdisc."""
        return {_key(row): row["drops"] for row in self.rows}


def stats(
    lab: LabOption = None,
    interval: Annotated[float, typer.Option("--interval", "-i", min=0.1, help="seconds between looks")] = 1.0,
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=0, help="looks to take, 0: until Ctrl-C; elsewhere than on a terminal 1"),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show every qdisc of a lab, again and again: totals, and rates since the last look."""
    from zdlab.lab.client import Lab

    attached = Lab.attach(lab)
    live = output is Format.TABLE and out.is_terminal
    if count is None:
        count = 0 if live else 1
    looks = _looks(attached, interval, count)
    if live:
        _show_live(looks)
    elif output is Format.TABLE:
        _print_tables(looks)
    elif count == 1:
        print_json(next(looks).rows)
    else:
        for look in looks:
            sys.stdout.write(json.dumps({"time": time.time(), "qdiscs": look.rows}) + "\n")
            sys.stdout.flush()


def _looks(lab: Lab, interval: float, count: int) -> Iterator[_Look]:
    """Look again and again, ``count`` times when that is not 0."""
    status = lab.status()
    # Two machines' taps are joined on a wire, a hidden node, whose queues are counted like all others.
    nodes = dict.fromkeys([*lab.info.nodes, *(end["capture_node"] for end in status["ends"])])
    due = time.monotonic()
    for number in itertools.count(1):
        yield _look(lab, list(nodes))
        if number == count:
            return
        due += interval
        time.sleep(max(0.0, due - time.monotonic()))


def _look(lab: Lab, nodes: list[str]) -> _Look:
    look = _Look([], {})
    for node in nodes:
        try:
            found = lab.counters(node)
        except GuestError as error:
            say(error.message)
            continue
        look.taken[node] = found["monotonic_ns"]
        look.rows.extend({"node": node, **row} for row in found["qdiscs"] if row["interface"] != "lo")
    return look


def _show_live(looks: Iterator[_Look]) -> None:
    """Draw one table over the other."""
    from rich.live import Live

    old = None
    with Live(console=out, auto_refresh=False) as live:
        for look in looks:
            live.update(_table(look, old), refresh=True)
            old = look


def _print_tables(looks: Iterator[_Look]) -> None:
    """Print one table after the other, an empty line between them."""
    old = None
    for look in looks:
        if old is not None:
            out.print()
        out.print(_table(look, old))
        out.file.flush()
        old = look


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return (row["node"], row["interface"], str(row["handle"]), str(row["parent"]))


def _table(look: _Look, old: _Look | None) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading in _TEXTS else "right")
    before = old.drops() if old is not None else {}
    for row in look.rows:
        node = row["node"]
        seconds = (look.taken[node] - old.taken[node]) / 1e9 if old is not None and node in old.taken else 0.0
        rate = drop_rate(row["drops"], before.get(_key(row)), seconds)
        name = f"{row['kind']} {row['handle'] >> 16:x}:"
        values = (row["packets"], row["drops"], rate, row["overlimits"], row["requeues"], row["qlen"], row["backlog"])
        table.add_row(plain(node), plain(row["interface"]), name, *map(str, values))
    return table


def drop_rate(drops: int, before: int | None, seconds: float) -> str:
    """Return the drops a second since the last look, for the table; a dash where there was none.

    :param before: what had been dropped then.
    :param seconds: how long ago that really was, by the clock of the node.
    """
    if before is None or seconds <= 0:
        return "-"
    return f"{(drops - before) / seconds:.0f}"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(stats)
