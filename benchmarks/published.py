"""The tables of the README and the cover letter that come from the record of exact results.

Run as ``.venv/bin/python -m benchmarks.published`` after the record was made anew (``benchmarks.virtual``): each table
is found by its heading and written again. A test checks that what is published is what the record says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Final

_ROOT: Final = Path(__file__).parents[1]
RECORD: Final = _ROOT / "tests" / "expected" / "virtual-clock.json"

Record = Mapping[str, Mapping[str, Any]]
"""What each case came to, by its name."""


@dataclass(frozen=True)
class _Column:
    """One figure of each arm."""

    title: str
    value: Callable[[Mapping[str, Any]], float]
    digits: int = 0

    def cell(self, entries: list[Mapping[str, Any]]) -> str:
        return f"{mean(self.value(entry) for entry in entries):,.{self.digits}f}"


def _figure(title: str, name: str, scale: float = 1, digits: int = 0) -> _Column:
    return _Column(title, lambda entry: entry["figures"].get(name, 0) * scale, digits)


def _of_node(title: str, node: str, name: str) -> _Column:
    return _Column(title, lambda entry: entry["nodes"].get(node, {}).get(name, 0))


@dataclass(frozen=True)
class _Table:
    """A table: what its rows are called, the cases (without seed) they show, and what of these.

    :param labels: titles of the columns that say what a row is.
    :param rows: for each row its labels and the topology and arm it is of.
    :param base: also show the last column of each row against that of the row before it that is labelled so.
    """

    labels: tuple[str, ...]
    columns: tuple[_Column, ...]
    rows: tuple[tuple[tuple[str, ...], str], ...]
    base: str = ""

    def lines(self, record: Record) -> list[str]:
        """Return the table in Markdown."""
        titles = [column.title for column in self.columns] + (["against it"] if self.base else [])
        lines = [
            f"| {' | '.join([*self.labels, *titles])} |",
            f"|{'---|' * len(self.labels)}{'---:|' * len(titles)}",
        ]
        against = 0.0
        for labels, case in self.rows:
            entries = [entry for name, entry in record.items() if name.rpartition("/")[0] == case]
            cells = [*labels, *(column.cell(entries) for column in self.columns)]
            if self.base:
                value = mean(self.columns[-1].value(entry) for entry in entries)
                against = value if labels[-1] == self.base else against
                cells.append("" if labels[-1] == self.base else f"{100 * (value / against - 1):+.2f} %")
            # Nothing stands between the bars of a label that is that of the row above.
            lines.append("|" + "".join(f" {cell} |" if cell else " |" for cell in cells))
        return lines


_DROPS: Final = _figure("drops", "qdisc_drops")
_RETRANSMITS: Final = _figure("retransmits", "retransmits")
_TIMEOUTS: Final = _figure("timeouts", "timeouts")
_JAIN: Final = _figure("Jain", "jain_index", digits=3)


def _rate(digits: int) -> _Column:
    return _figure("Mbit/s", "throughput_bps", 1e-6, digits)


def _work(digits: int) -> _Column:
    return _figure("10^9 instructions a GB", "instructions_per_gb", 1e-9, digits)


def _pairs(topology: str, rows: Mapping[tuple[str, str], str]) -> list[tuple[tuple[str, ...], str]]:
    """Return for each queue a row of stock and one of zD."""
    found: list[tuple[tuple[str, ...], str]] = []
    for (queue, flows), arm in rows.items():
        found.append(((queue, flows, "stock"), f"{topology}/{arm}-stock"))
        found.append((("", "", "zD"), f"{topology}/{arm}-zd"))
    return found


_SCALE: Final = {
    (queue, f"{flows:,}"): f"{queue}-{flows}" for queue in ("pfifo", "tbf") for flows in (100, 500, 2000, 5000, 10000)
}
_QUEUES: Final = {("tbf, GSO on", "300"): "gso", ("tbf, IPv6", "300"): "ipv6", ("bfifo below tbf", "300"): "bfifo"}
_HIDDEN: Final = {
    ("tbf 100 Mbit/s behind a bridge", "200"): "bridge",
    ("tbf 100 Mbit/s behind a router", "200"): "router",
}
_SOCKETS: Final = _Table(
    ("queue", "flows", "arm"),
    (_DROPS, _RETRANSMITS, _TIMEOUTS, _rate(1), _JAIN, _work(1)),
    tuple(
        _pairs("virtual-scale", _SCALE) + _pairs("virtual-queues", _QUEUES) + _pairs("virtual-hidden", _HIDDEN),
    ),
)
_COST: Final = _Table(
    ("queue", "arm"),
    (_DROPS, _rate(1), _work(3)),
    tuple(
        (("" if arm != "stock" else queue, {"zd": "zD"}.get(arm, arm)), f"virtual-cost/{name}-{arm}")
        for name, queue in {
            "free": "never full: 100 flows, 500 Mbit/s, 4 MB",
            "full": "full: 2,000 flows, 600 Mbit/s, 150 kB",
        }.items()
        for arm in ("stock", "off", "zd")
    ),
    base="stock",
)
_LATENCY: Final = _Table(
    ("arm",),
    (
        _DROPS,
        _RETRANSMITS,
        _TIMEOUTS,
        _rate(1),
        _figure("mean latency, ms", "latency_mean_s", 1e3, 1),
        _figure("deepest queue, kB", "backlog_max_bytes", 1e-3),
        _work(1),
    ),
    tuple(
        ((label,), f"virtual-latency/{arm}")
        for arm, label in {
            "stock": "stock, 150 kB",
            "zd": "zD, 150 kB",
            "deep": "64 MB",
            "fq": "fq",
            "fq_codel": "fq_codel",
        }.items()
    ),
)
_NESTED_COLUMNS: Final = (_DROPS, _of_node("retransmits", "a", "retransmits"), _of_node("timeouts", "a", "timeouts"))
_NESTED_ARMS: Final = {
    "stock": "stock",
    "zd-vm": "zD in *a*",
    "zd-hypervisor": "zD in *A*",
    "zd-both": "zD in both",
    "sndbuf": "`sndbuf` of 100 kB",
}
_NESTED: Final = _Table(
    ("queue", "arm"),
    (*_NESTED_COLUMNS, _rate(2), _JAIN, _work(0)),
    tuple(
        ((f"{queue}{', GSO on' if gso else ''}" if arm == "stock" else "", label), f"nested-{queue}/{arm}{gso}")
        for queue in ("tbf", "pfifo")
        for gso in ("", "-gso")
        for arm, label in _NESTED_ARMS.items()
    ),
)
_MANY: Final = _Table(
    ("arm",),
    (
        _DROPS,
        _RETRANSMITS,
        _TIMEOUTS,
        _figure("MB delivered", "bytes_delivered", 1e-6, 2),
        _rate(2),
        _figure("Jain of the machines", "jain_workloads", digits=3),
    ),
    tuple(
        ((label,), f"nested-many/{arm}")
        for arm, label in {
            "stock": "stock",
            "zd-vm": "zD in the machines",
            "zd-hypervisor": "zD in *A*",
            "zd-both": "zD in all",
            "sndbuf": "`sndbuf` of 25 kB each",
            "stock-gso": "GSO on: stock",
            "zd-hypervisor-gso": "GSO on: zD in *A*",
            "zd-both-gso": "GSO on: zD in all",
            "sndbuf-gso": "GSO on: `sndbuf` of 25 kB each",
        }.items()
    ),
)
_NESTED_SHORT: Final = _Table(
    ("arm",),
    (*_NESTED_COLUMNS, _rate(2), _work(0)),
    tuple(
        ((label,), f"nested-tbf/{arm}")
        for arm, label in {
            "stock": "stock",
            "zd-vm": "zD in the guest",
            "zd-hypervisor": "zD in the hypervisor",
            "zd-both": "zD in both",
            "sndbuf": "`sndbuf` on the tap",
            "stock-gso": "the guest's GSO on: stock",
            "zd-vm-gso": "… zD in the guest",
            "zd-hypervisor-gso": "… zD in the hypervisor",
            "zd-both-gso": "… zD in both",
            "sndbuf-gso": "… `sndbuf` on the tap",
        }.items()
    ),
)
#: The tables of each file.
PUBLISHED: Final[Mapping[Path, tuple[_Table, ...]]] = {
    _ROOT / "README.md": (_NESTED_SHORT,),
    _ROOT / "images" / "kernel" / "patches" / "zd" / "COVER.md": (_SOCKETS, _COST, _LATENCY, _NESTED, _MANY),
}


def published(path: Path, record: Record) -> str:
    """Return the text of a file with its tables as the record has them.

    :raises ValueError: when the file has not each table's heading once.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    for table in PUBLISHED[path]:
        new = table.lines(record)
        if lines.count(new[0]) != 1:
            raise ValueError(f"{path} has not one table {new[0]!r}")
        begin = lines.index(new[0])
        end = next((number for number in range(begin, len(lines)) if not lines[number].startswith("|")), len(lines))
        lines[begin:end] = new
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the tables anew."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    for path in PUBLISHED:
        path.write_text(published(path, record), encoding="utf-8")


if __name__ == "__main__":
    main()
