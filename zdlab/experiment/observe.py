"""Carrying out a trial in a lab that is up: counters and samples around its traffic.

What is seen is returned as it is, and made into figures elsewhere: this half also runs inside a capsule, where every
import and every computation is paid for in every trial.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from zdlab.errors import GuestError, ZdlabError
from zdlab.experiment.nodes import HungError, Nodes
from zdlab.experiment.task import Task
from zdlab.experiment.traffic import Ended, Traffic
from zdlab.experiment.watch import Watch
from zdlab.guest.agent_client import RawSamples
from zdlab.lab.client import Lab

#: Seconds a node of a trial that broke may take to answer, and all of them together: some will not answer any more.
_SALVAGE_CALL: Final = 4.0
_SALVAGE_ALL: Final = 12.0

_Found = TypeVar("_Found")


@dataclass
class Observation:
    """What was seen of a trial: everything, or of one that broke what could still be had.

    :param before: all counters of each node before the traffic, ``after`` those after it.
    :param ended: how the ends of each workload ended, by workload and side.
    :param consoles: what each machine printed.
    :param effort: what the meter showed just before the traffic began, and just after it ended.
    :param error: what broke the trial.
    """

    before: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    after: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    samples: dict[str, RawSamples] = field(default_factory=dict)
    ended: dict[tuple[str, str], Ended] = field(default_factory=dict)
    status: Mapping[str, Any] = field(default_factory=dict)
    consoles: dict[str, bytes] = field(default_factory=dict)
    effort: tuple[Mapping[str, int], Mapping[str, int]] = ({}, {})
    error: ZdlabError | None = None


def _no_meter() -> Mapping[str, int]:
    return {}


def observe(
    task: Task, lab: Lab, phase: Callable[[str], None], meter: Callable[[], Mapping[str, int]] = _no_meter
) -> Observation:
    """Run the traffic of a trial in its lab, which is up, and return what was seen.

    What breaks the trial is in what was seen, not raised: nothing moves any more, or the lab or a traffic tool broke.

    :param meter: read around the traffic.
    """
    nodes = Nodes(lab)
    traffic = Traffic(nodes, task.works)
    seen = Observation()
    try:
        _carry_out(task, nodes, traffic, seen, phase, meter)
    except ZdlabError as error:
        seen.error = error
        phase("collecting what can still be had")
        _salvage(task, Nodes(lab, _SALVAGE_CALL), traffic, seen)
    finally:
        traffic.end()
    return seen


def _carry_out(
    task: Task,
    nodes: Nodes,
    traffic: Traffic,
    seen: Observation,
    phase: Callable[[str], None],
    meter: Callable[[], Mapping[str, int]],
) -> None:
    """Fill in everything.

    :raises HungError: when nothing moves any more.
    :raises ZdlabError: when the lab or a traffic tool breaks.
    """
    for name in task.intervals:
        seen.before[name] = nodes.counters(name)
    for name, interval in task.intervals.items():
        nodes.start_sampling(name, interval)
    phase(task.saying)
    watch = Watch(nodes, task.watched, seen.before)
    started = meter()
    traffic.run(watch.look)
    seen.effort = (started, meter())
    phase("collecting counters")
    for work, side in traffic.ends():
        seen.ended[work, side] = traffic.collect(nodes, work, side)
    for name in task.intervals:
        seen.samples[name] = nodes.stop_sampling(name)
    for name in task.intervals:
        seen.after[name] = nodes.counters(name)
    seen.status = nodes.status()
    for name in task.consoles:
        seen.consoles[name] = nodes.console_log(name)


def _salvage(task: Task, nodes: Nodes, traffic: Traffic, seen: Observation) -> None:
    """Fill in what is missing, as far as it can be had in a short time. A node that is silent is asked once."""
    until = time.monotonic() + _SALVAGE_ALL
    silent: set[str] = set()

    def ask(found: dict[str, _Found], name: str, question: Callable[[str], _Found]) -> None:
        if name in found or name in silent or time.monotonic() > until:
            return
        try:
            found[name] = question(name)
        except (HungError, GuestError):
            silent.add(name)
        except ZdlabError:  # it answers, but has no such thing
            return

    with contextlib.suppress(ZdlabError):
        seen.status = nodes.status()
    for name in task.intervals:
        ask(seen.samples, name, nodes.stop_sampling)
    for name in task.intervals:
        ask(seen.after, name, nodes.counters)
    for work, side in traffic.ends():
        if (work, side) not in seen.ended:
            seen.ended[work, side] = traffic.left(work, side)
    silent.clear()  # a console is kept by the lab itself
    for name in task.consoles:
        ask(seen.consoles, name, nodes.console_log)
