"""Exact results under the virtual clock, and what they cost.

Run as ``.venv/bin/python -m benchmarks.virtual FILE [NAME]...``: runs all cases, or those whose names begin with one of
NAME, side by side, and writes into FILE what each came to, with the hashes of all it belongs to.
``tests/expected/virtual-clock.json`` was made that way, and a test compares one of its cases. On standard error: real
and virtual seconds of each case; on standard output: the table of the whole FILE.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from zdlab.capsule.setup import prepare_capsules
from zdlab.capsule.trial import CapsuleSetup, run_capsule_trial, usual_parallel
from zdlab.experiment.model import Slot
from zdlab.topology import load_topology

_TOPOLOGIES: Final = Path(__file__).parents[1] / "topologies"
#: Seeds of each arm by topology: differences of a part in a thousand need several.
SEEDS: Final = {
    "virtual-scale": 1,
    "virtual-queues": 1,
    "virtual-hidden": 1,
    "virtual-latency": 1,
    "virtual-cost": 5,
    "nested-tbf": 1,
    "nested-pfifo": 1,
    "nested-many": 1,
    "nested-flows": 1,
}
#: What zD counts, where the kernel has it.
_ZD: Final = (
    "zd_parked",
    "zd_resumed",
    "zd_refused",
    "zd_wakes_unused",
    "zd_drops_data",
    "zd_drops_ack",
    "zd_drops_syn",
    "zd_drops_rst",
    "zd_drops_other",
    "zd_longest_park_s",
)
_DROPS: Final = ("qdisc_drops", "device_drops", "softnet_drops", "socket_drops")
_LAB: Final = (
    *_DROPS,
    "retransmits",
    "timeouts",
    "packets",
    "segments_sent",
    "bytes_delivered",
    "throughput_bps",
    "jain_index",
    "jain_workloads",
    "latency_mean_s",
    "flows_without_data",
    "backlog_max_bytes",
    *_ZD,
    "instructions",
    "instructions_per_gb",
)
_NODE: Final = (*_DROPS, "retransmits", "timeouts", *_ZD)
#: Columns of the table and the figures that are in them.
_COLUMNS: Final = {
    "drops": "qdisc_drops",
    "retransmits": "retransmits",
    "timeouts": "timeouts",
    "packets": "packets",
    "Mbit/s": "throughput_bps",
    "Jain": "jain_index",
    "latency ms": "latency_mean_s",
    "G instructions a GB": "instructions_per_gb",
}
_SCALES: Final = {"throughput_bps": 1e-6, "latency_mean_s": 1e3, "instructions_per_gb": 1e-9}


@dataclass(frozen=True)
class ExactCase:
    """One trial whose result is known beforehand."""

    topology: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the case."""
        return f"{self.topology}/{self.arm}/{self.seed}"

    @property
    def path(self) -> Path:
        """The topology file."""
        return _TOPOLOGIES / f"{self.topology}.yaml"

    def _slot(self) -> Slot:
        return Slot(0, self.seed - 1, self.arm, self.seed)

    def setup(self) -> CapsuleSetup:
        """Find or make kernel and image."""
        setups, _ = prepare_capsules(load_topology(self.path), [self.arm], progress=lambda _text, _fraction: None)
        return setups[self.arm]

    def identity(self, setup: CapsuleSetup) -> dict[str, str]:
        """Return the hashes and the version its result belongs to.

        Of the topology: what a capsule is given of it, not what is only judged outside.
        """
        case = setup.case(self._slot()).to_json()
        given = {name: case[name] for name in ("task", "boot", "append", "memory_mib", "seed")}
        return {
            "topology": hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest(),
            "kernel": setup.kernel.sha256,
            "image": setup.image.sha256,
            "qemu": setup.qemu,
        }

    def run(self, setup: CapsuleSetup) -> dict[str, Any]:
        """Run it; return counters and the result's hash.

        :raises RuntimeError: when it does not come to an end.
        """
        trial = run_capsule_trial(self._slot(), setup, lambda _seconds, _phase: None)
        if trial.state != "done":
            raise RuntimeError(f"{self.name}: {trial.error}")
        nodes = {
            node: {name: figures[name] for name in _NODE if figures.get(name)} for node, figures in trial.nodes.items()
        }
        clock: Mapping[str, Any] = trial.raw["capsule"]
        return {
            "figures": {name: trial.figures[name] for name in _LAB if name in trial.figures},
            "nodes": {node: figures for node, figures in nodes.items() if figures},
            "result": clock["result"],
            "virtual_seconds": clock["ended_ns"] / 1e9,
        }


def cases() -> list[ExactCase]:
    """Return all cases."""
    return [
        ExactCase(name, arm, seed)
        for name, seeds in SEEDS.items()
        for arm in load_topology(_TOPOLOGIES / f"{name}.yaml").arm_names()
        for seed in range(1, seeds + 1)
    ]


def _cell(figures: Mapping[str, float], name: str) -> str:
    if name not in figures:
        return ""
    value = figures[name] * _SCALES.get(name, 1)
    return f"{value:.3f}" if name == "jain_index" or name in _SCALES else f"{value:,.0f}"


def table(found: Mapping[str, Any]) -> str:
    """Return what is known as a table in Markdown."""
    lines = [f"| case | {' | '.join(_COLUMNS)} |", f"| --- |{' ---: |' * len(_COLUMNS)}"]
    for name, entry in found.items():
        cells = [_cell(entry["figures"], figure) for figure in _COLUMNS.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run cases and write what they came to."""
    path, wanted = Path(sys.argv[1]), tuple(sys.argv[2:])
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if wanted and path.exists() else {}
    setups = {case: case.setup() for case in cases() if not wanted or case.name.startswith(wanted)}
    lock = threading.Lock()

    def run(case: ExactCase) -> None:
        begun = time.perf_counter()
        found = case.run(setups[case])
        seconds = time.perf_counter() - begun
        sys.stderr.write(f"{case.name:<34} {seconds:6.1f} s real, {found['virtual_seconds']:5.2f} s virtual\n")
        with lock:
            # Each as soon as it is there: all of them take long.
            known[case.name] = {**case.identity(setups[case]), **found}
            ordered = {case.name: known[case.name] for case in cases() if case.name in known}
            path.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")

    with ThreadPoolExecutor(usual_parallel()) as pool:
        list(pool.map(run, setups))
    sys.stdout.write(table(json.loads(path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
