"""Whole runs under the virtual clock, kept beside the code because README and cover letter show them.

Run as ``.venv/bin/python -m benchmarks.keep_run RUN`` after ``zdlab run FILE --clock virtual --seed 1``: writes
``benchmarks/runs/EXPERIMENT.json`` with the command, the hashes of all the figures belong to, and the document that
``zdlab results RUN -o json`` prints. ``benchmarks.published`` makes the tables of it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from zdlab.experiment.model import Trial
from zdlab.results.store import find_run
from zdlab.topology import parse_topology

RUNS: Final = Path(__file__).parent / "runs"
#: What is kept of each node beside the document, which is of the whole lab.
_OF_NODES: Final = ("qdisc_drops", "retransmits", "timeouts")
#: What is kept of a run's provenance: all that decides what comes out.
_PROVENANCE: Final = ("zdlab", "revision", "qemu", "capsules")


def command(description: Mapping[str, Any]) -> str:
    """Return the command that repeats a run from the project's directory."""
    file = Path(description["topology_file"]).name
    whole = list(parse_topology(description["topology"], file).arm_names())
    arms = "" if description["arms"] == whole else f" --arms {','.join(description['arms'])}"
    return (
        f"zdlab run topologies/{file}{arms} --clock {description['clock']} "
        f"--blocks {description['blocks']} --seed {description['seed']}"
    )


def _nodes(trials: Sequence[Trial]) -> dict[str, list[float]]:
    """Return what is not zero of each node (``a.qdisc_drops``), of one arm's trials in the order of the document."""
    found = {
        f"{node}.{name}": [trial.nodes[node].get(name, 0) for trial in trials]
        for node in trials[0].nodes
        for name in _OF_NODES
    }
    return {name: values for name, values in found.items() if any(values)}


def _without_paths(value: Any) -> Any:
    """Leave out where things were: their hashes tell what they were."""
    if isinstance(value, dict):
        return {name: _without_paths(inner) for name, inner in value.items() if name != "path"}
    return value


def main() -> None:
    """Keep one run.

    :raises ValueError: when it is not of the virtual clock, and so nobody could repeat it.
    """
    store = find_run(sys.argv[1])
    description = store.description()
    if description["clock"] != "virtual":
        raise ValueError(f"{store.name} was not run under the virtual clock")
    shown = subprocess.run(
        [sys.executable, "-m", "zdlab", "results", store.name, "-o", "json"], stdout=subprocess.PIPE, check=False
    )
    document = json.loads(shown.stdout)
    trials = [trial for trial in store.finished() if trial.state == "done"]
    provenance = description["provenance"]
    kept = {
        "command": command(description),
        "provenance": {name: _without_paths(provenance[name]) for name in _PROVENANCE if name in provenance},
        "document": document,
        "nodes": {arm: _nodes([trial for trial in trials if trial.slot.arm == arm]) for arm in document["arms"]},
    }
    # Numbers of one list on one line.
    text = re.sub(r"\[[-+.,\w\s]+\]", lambda found: " ".join(found[0].split()), json.dumps(kept, indent=1))
    RUNS.mkdir(exist_ok=True)
    (RUNS / f"{description['experiment']}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
