"""Carrying out a trial in a lab that is up: counters and samples around its traffic.

What is seen is returned as it is, and made into figures elsewhere: this half also runs inside a capsule, where every
import and every computation is paid for in every trial.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zdlab.experiment.nodes import Nodes
from zdlab.experiment.task import Task
from zdlab.experiment.traffic import Ended, collect, run_works
from zdlab.experiment.watch import STALL_SECONDS, Watch
from zdlab.guest.agent_client import RawSamples
from zdlab.lab.client import Lab


@dataclass(frozen=True)
class Observation:
    """All that was seen of a trial.

    :param before: all counters of each node before the traffic, ``after`` those after it.
    :param ended: how the ends of each workload ended, by workload and side.
    :param consoles: what each machine printed.
    :param effort: what the meter showed just before the traffic began, and just after it ended.
    """

    before: Mapping[str, Mapping[str, Any]]
    after: Mapping[str, Mapping[str, Any]]
    samples: Mapping[str, RawSamples]
    ended: Mapping[tuple[str, str], Ended]
    status: Mapping[str, Any]
    consoles: Mapping[str, bytes]
    effort: tuple[Mapping[str, int], Mapping[str, int]] = ({}, {})


def _no_meter() -> Mapping[str, int]:
    return {}


def observe(
    task: Task, lab: Lab, phase: Callable[[str], None], meter: Callable[[], Mapping[str, int]] = _no_meter
) -> Observation:
    """Run the traffic of a trial in its lab, which is up, and return what was seen.

    :param meter: read around the traffic.
    :raises HungError: when nothing moves any more.
    :raises ZdlabError: when the lab or a traffic tool breaks.
    """
    nodes = Nodes(lab)
    before = {name: nodes.counters(name) for name in task.intervals}
    for name, interval in task.intervals.items():
        nodes.start_sampling(name, interval)
    phase(task.saying)
    watch = Watch(nodes, task.watched, STALL_SECONDS)
    started = meter()
    exited = run_works(nodes, task.works, watch.look)
    stopped = meter()
    phase("collecting counters")
    ended = collect(nodes, task.works, exited)
    samples = {name: nodes.stop_sampling(name) for name in task.intervals}
    after = {name: nodes.counters(name) for name in task.intervals}
    status = nodes.status()
    consoles = {name: nodes.console_log(name) for name in task.consoles}
    return Observation(before, after, samples, ended, status, consoles, (started, stopped))
