"""What README and cover letter show of exact results: tables and verdicts, from the record and from whole runs.

Run as ``.venv/bin/python -m benchmarks.published`` after the record was made anew (``benchmarks.virtual``) or a run was
kept (``benchmarks.keep_run``): each table is found by its heading and written again. A test checks that what is
published is what these say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Final

from benchmarks.keep_run import RUNS

_ROOT: Final = Path(__file__).parents[1]
RECORD: Final = _ROOT / "tests" / "expected" / "virtual-clock.json"

Figures = Mapping[str, float]
"""The metrics of one trial, those of a node as ``br.qdisc_drops``."""


@dataclass(frozen=True)
class Source:
    """What is published.

    :param trials: by topology and arm (``nested-tbf/stock``) the figures of each trial.
    :param runs: whole runs by their topology, as ``benchmarks.keep_run`` wrote them.
    """

    trials: Mapping[str, list[Figures]]
    runs: Mapping[str, Mapping[str, Any]]


def combined(record: Mapping[str, Mapping[str, Any]], runs: Mapping[str, Mapping[str, Any]]) -> Source:
    """Bring both together: of an arm that a run has, the run's trials count, not the few in the record."""
    trials: dict[str, list[Figures]] = {}
    for name, entry in record.items():
        topology, arm, _seed = name.split("/")
        if topology not in runs or arm not in runs[topology]["document"]["arms"]:
            of_nodes = {f"{node}.{name}": value for node, row in entry["nodes"].items() for name, value in row.items()}
            trials.setdefault(f"{topology}/{arm}", []).append({**entry["figures"], **of_nodes})
    for topology, run in runs.items():
        for arm, lists in run["document"]["arms"].items():
            columns = {name: values for name, values in lists.items() if isinstance(values, list) and name != "errors"}
            columns |= run["nodes"][arm]
            trials[f"{topology}/{arm}"] = [
                {name: values[number] for name, values in columns.items() if values[number] is not None}
                for number in range(lists["trials"])
            ]
    return Source(trials, runs)


def stored() -> Source:
    """Return what is in the files."""
    runs = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RUNS.glob("*.json"))}
    return combined(json.loads(RECORD.read_text(encoding="utf-8")), runs)


@dataclass(frozen=True)
class _Column:
    """One figure of each arm: its mean over the trials."""

    title: str
    metric: str
    scale: float = 1
    digits: int = 0

    def mean(self, trials: list[Figures]) -> float:
        # The record has of nodes what is not zero.
        values = [trial.get(self.metric, 0) if "." in self.metric else trial[self.metric] for trial in trials]
        return mean(values) * self.scale

    def cell(self, trials: list[Figures]) -> str:
        value = self.mean(trials)
        # A drop in one of many trials is not none.
        digits = self.digits if value == 0 or round(value, self.digits) else self.digits + 2
        return f"{value:,.{digits}f}"


@dataclass(frozen=True)
class _Table:
    """A table: what its rows are called, the cases (without seed) they show, and what of these.

    :param labels: titles of the columns that say what a row is.
    :param rows: for each row its labels, and the topology and arm it is of.
    :param base: also show the last column of each row against that of the row before it that is labelled so.
    :param seeds: show how many trials a row is of.
    """

    labels: tuple[str, ...]
    columns: tuple[_Column, ...]
    rows: tuple[tuple[tuple[str, ...], str], ...]
    base: str = ""
    seeds: bool = False

    def lines(self, source: Source) -> list[str]:
        """Return the table in Markdown."""
        titles = ["seeds"] * self.seeds + [column.title for column in self.columns] + ["against it"] * bool(self.base)
        lines = [
            f"| {' | '.join([*self.labels, *titles])} |",
            f"|{'---|' * len(self.labels)}{'---:|' * len(titles)}",
        ]
        against = 0.0
        for labels, case in self.rows:
            trials = source.trials[case]
            cells = [*labels, *[str(len(trials))] * self.seeds, *(column.cell(trials) for column in self.columns)]
            if self.base:
                value = self.columns[-1].mean(trials)
                against = value if labels[-1] == self.base else against
                cells.append("" if labels[-1] == self.base else f"{100 * (value / against - 1):+.2f} %")
            # Nothing stands between the bars of a label that is that of the row above.
            lines.append("|" + "".join(f" {cell} |" if cell else " |" for cell in cells))
        return lines


@dataclass(frozen=True)
class _Verdicts:
    """A table of what whole runs answered.

    :param asked: by topology the arms of which the answers are shown; all arms where there are none.
    """

    asked: Mapping[str, tuple[str, ...]]

    def lines(self, source: Source) -> list[str]:
        """Return the table in Markdown."""
        lines = ["| run | asked | verdict | because |", "|---|---|---|---|"]
        for topology, arms in self.asked.items():
            label = topology
            for answer in source.runs[topology]["document"]["expectations"]:
                if not arms or answer["text"].partition(".")[0] in arms:
                    cells = [label, f"`{answer['text']}`", answer["verdict"], answer["reason"]]
                    lines.append("|" + "".join(f" {cell} |" if cell else " |" for cell in cells))
                    label = ""
        return lines


_DROPS: Final = _Column("drops", "qdisc_drops")
_RETRANSMITS: Final = _Column("retransmits", "retransmits")
_TIMEOUTS: Final = _Column("timeouts", "timeouts")
_JAIN: Final = _Column("Jain", "jain_index", digits=3)


def _rate(digits: int) -> _Column:
    return _Column("Mbit/s", "throughput_bps", 1e-6, digits)


def _work(digits: int) -> _Column:
    return _Column("10^9 instructions a GB", "instructions_per_gb", 1e-9, digits)


def _arms(topology: str, labels: Mapping[str, str]) -> tuple[tuple[tuple[str, ...], str], ...]:
    """Return a row for each arm, by its label."""
    return tuple(((label,), f"{topology}/{arm}") for arm, label in labels.items())


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
        _Column("mean latency, ms", "latency_mean_s", 1e3, 1),
        _Column("deepest queue, kB", "backlog_max_bytes", 1e-3),
        _work(1),
    ),
    _arms(
        "virtual-latency",
        {
            "stock": "stock, 150 kB",
            "zd": "zD, 150 kB",
            "deep": "64 MB",
            "fq": "fq",
            "fq_codel": "fq_codel",
        },
    ),
)
_NESTED_COLUMNS: Final = (_DROPS, _RETRANSMITS, _TIMEOUTS)
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
    seeds=True,
)
_MANY: Final = _Table(
    ("arm",),
    (
        _DROPS,
        _RETRANSMITS,
        _TIMEOUTS,
        _Column("MB delivered", "bytes_delivered", 1e-6, 2),
        _rate(2),
        _Column("Jain of the machines", "jain_workloads", digits=3),
    ),
    _arms(
        "nested-many",
        {
            "stock": "stock",
            "zd-vm": "zD in the machines",
            "zd-hypervisor": "zD in *A*",
            "zd-both": "zD in all",
            "sndbuf": "`sndbuf` of 25 kB each",
            "stock-gso": "GSO on: stock",
            "zd-hypervisor-gso": "GSO on: zD in *A*",
            "zd-both-gso": "GSO on: zD in all",
            "sndbuf-gso": "GSO on: `sndbuf` of 25 kB each",
        },
    ),
    seeds=True,
)
_NESTED_SHORT: Final = _Table(
    ("arm",),
    (*_NESTED_COLUMNS, _rate(2), _work(0)),
    _arms(
        "nested-tbf",
        {
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
        },
    ),
    seeds=True,
)
_FLOWS: Final = _Table(
    ("arm",),
    (
        _Column("drops in the hypervisor", "br.qdisc_drops"),
        _Column("drops in the guest", "a.qdisc_drops"),
        *(_RETRANSMITS, _TIMEOUTS, _rate(2), _JAIN),
    ),
    _arms(
        "nested-flows",
        {
            "stock": "stock",
            "zd-vm": "zD in the guest",
            "zd-hypervisor": "zD in the hypervisor",
            "zd-both": "zD in both",
            "stock-2000": "2,000 flows: stock",
            "zd-both-2000": "2,000 flows: zD in both",
        },
    ),
    seeds=True,
)
#: The tables of each file.
PUBLISHED: Final[Mapping[Path, tuple[_Table | _Verdicts, ...]]] = {
    _ROOT / "README.md": (
        _NESTED_SHORT,
        _FLOWS,
        _Verdicts({"nested-tbf": ("zd-both", "zd-both-gso"), "nested-flows": ()}),
    ),
    _ROOT / "images" / "kernel" / "patches" / "zd" / "COVER.md": (
        *(_SOCKETS, _COST, _LATENCY, _NESTED, _FLOWS, _MANY),
        _Verdicts({"nested-tbf": (), "nested-flows": ()}),
    ),
}


def published(path: Path, source: Source) -> str:
    """Return the text of a file with its tables as the source has them.

    :raises ValueError: when the file has not each table's heading once.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    for table in PUBLISHED[path]:
        new = table.lines(source)
        if lines.count(new[0]) != 1:
            raise ValueError(f"{path} has not one table {new[0]!r}")
        begin = lines.index(new[0])
        end = next((number for number in range(begin, len(lines)) if not lines[number].startswith("|")), len(lines))
        lines[begin:end] = new
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the tables anew."""
    for path in PUBLISHED:
        path.write_text(published(path, stored()), encoding="utf-8")


if __name__ == "__main__":
    main()
