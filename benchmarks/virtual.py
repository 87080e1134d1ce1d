"""Exact results under the virtual clock, and what they cost: stock and zD, few flows and many, two kinds of queue.

Run as ``.venv/bin/python -m benchmarks.virtual FILE``: runs all cases, side by side, and writes into FILE what each
came to, with the hashes of all it belongs to. ``tests/expected/virtual-clock.json`` was made that way, and a test
compares one of its cases. On standard error: real and virtual seconds of each case.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from zdlab.capsule.setup import prepare_capsules
from zdlab.capsule.trial import CapsuleSetup, run_capsule_trial, usual_parallel
from zdlab.experiment.model import Slot
from zdlab.topology import parse_topology

_QUEUES: Final = {
    "tbf": "{kind: tbf, rate: 200mbit, burst: 32kb, limit: 150kb}",
    "pfifo": (
        "{kind: htb, default: 10, classes: "
        "[{id: 10, rate: 200mbit, burst: 32kb, cburst: 32kb, qdisc: {kind: pfifo, limit: 100p}}]}"
    ),
}
_FLOWS: Final = (500, 5000)
_ARMS: Final = ("stock", "zd")
_SEED: Final = 1
_TOPOLOGY: Final = """\
clock: virtual
nodes:
  a: {kind: machine, kernel: stock, memory: 1gb}
  b: {kind: host}
links:
  uplink:
    subnet: 10.0.0.0/24
    ends:
      a: {offloads: {tso: off, gso: off}, txqueuelen: 100, qdisc: QUEUE}
      b: {}
workloads:
  bulk: {tool: tcp_stream, from: a, to: b, flows: FLOWS, duration: 1s, args: ["--start-jitter", "0.1"]}
arms:
  stock:
  zd: {nodes.a.kernel: zd, nodes.a.sysctls.net.core.zd: 1}
"""
_COUNTERS: Final = (
    "qdisc_drops",
    "packets",
    "retransmits",
    "segments_sent",
    "bytes_delivered",
    "backlog_max_bytes",
    "flows_without_data",
    "instructions",
)


@dataclass(frozen=True)
class ExactCase:
    """One trial whose result is known beforehand."""

    queue: str
    flows: int
    arm: str

    @property
    def name(self) -> str:
        """Name of the case."""
        return f"{self.arm}-{self.queue}-{self.flows}"

    def topology(self) -> str:
        """Return the topology file."""
        return _TOPOLOGY.replace("QUEUE", _QUEUES[self.queue]).replace("FLOWS", str(self.flows))

    def setup(self) -> CapsuleSetup:
        """Find or make kernel and image."""
        source = parse_topology(self.topology(), self.name)
        setups, _ = prepare_capsules(source, [self.arm], progress=lambda _text, _fraction: None)
        return setups[self.arm]

    def identity(self, setup: CapsuleSetup) -> dict[str, str]:
        """Return the hashes and the version its result belongs to."""
        return {
            "topology": hashlib.sha256(self.topology().encode()).hexdigest(),
            "kernel": setup.kernel.sha256,
            "image": setup.image.sha256,
            "qemu": setup.qemu,
        }

    def run(self, setup: CapsuleSetup) -> dict[str, Any]:
        """Run it; return counters and the result's hash.

        :raises RuntimeError: when it does not come to an end.
        """
        trial = run_capsule_trial(Slot(0, 0, self.arm, _SEED), setup, lambda _seconds, _phase: None)
        if trial.state != "done":
            raise RuntimeError(f"{self.name}: {trial.error}")
        counters = {name: int(trial.figures[name]) for name in _COUNTERS}
        clock: Mapping[str, Any] = trial.raw["capsule"]
        return {"counters": counters, "result": clock["result"], "virtual_seconds": clock["ended_ns"] / 1e9}


def cases() -> list[ExactCase]:
    """Return all cases, the cheap ones first."""
    return [ExactCase(queue, flows, arm) for flows in _FLOWS for queue in _QUEUES for arm in _ARMS]


def main() -> None:
    """Run all cases and write what they came to."""
    setups = {case: case.setup() for case in cases()}

    def run(case: ExactCase) -> dict[str, Any]:
        begun = time.perf_counter()
        found = case.run(setups[case])
        seconds = time.perf_counter() - begun
        sys.stderr.write(f"{case.name:<16} {seconds:6.1f} s real, {found['virtual_seconds']:5.2f} s virtual\n")
        return {**case.identity(setups[case]), **found}

    with ThreadPoolExecutor(usual_parallel()) as pool:
        found = dict(zip([case.name for case in setups], pool.map(run, setups), strict=True))
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
