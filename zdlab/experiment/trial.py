"""One trial: a fresh lab of one arm, counters and samples around its traffic, and the end of the lab."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Final

from zdlab.errors import LabError, ZdlabError
from zdlab.experiment.conclude import broken, concluded
from zdlab.experiment.model import Slot, Trial
from zdlab.experiment.observe import observe
from zdlab.experiment.task import Task
from zdlab.experiment.workloads import Job, prepare_jobs, watched_nodes
from zdlab.lab.client import Lab
from zdlab.lab.request import AcceleratorRequest, BootFiles
from zdlab.plan.build import Plan
from zdlab.traffic import TrafficTools

#: Between samples, in namespaces and in guests, in ns.
HOST_INTERVAL: Final = 10_000_000
GUEST_INTERVAL: Final = 50_000_000

#: Takes the phase a trial is in.
Phase = Callable[[str], None]


@dataclass(frozen=True)
class ArmSetup:
    """What the trials of an arm are built from."""

    plan: Plan
    boot: Mapping[str, BootFiles]
    tools: TrafficTools


def run_trial(
    slot: Slot,
    setup: ArmSetup,
    *,
    lab_name: str,
    topology: str,
    accelerator: AcceleratorRequest | None,
    keep_on_failure: bool,
    phase: Phase,
) -> Trial:
    """Run one trial. What goes wrong with it is in its state, not raised.

    :param keep_on_failure: leave the lab of a trial that failed running, for a look.
    :raises LabError: when a kernel refuses something the topology file asks for.
    :raises KeyboardInterrupt: at Ctrl-C, after the lab was taken down.
    """
    started = time.monotonic()
    task, jobs = prepare_task(slot, setup)
    lab: Lab | None = None
    try:
        phase("building the lab")
        lab = Lab.start(
            task.outline, setup.boot, name=lab_name, topology=topology, accelerator=accelerator, progress=phase
        )
        trial = concluded(slot, setup.plan, jobs, observe(task, lab, phase))
        if keep_on_failure and trial.state != "done":
            lab.detach()
            lab, trial = None, replace(trial, kept_lab=lab_name)
    except ZdlabError as error:
        if isinstance(error, LabError) and error.origin:
            raise
        trial = broken(slot, error)
    finally:
        if lab is not None:
            phase("taking the lab down")
            lab.down()
    return replace(trial, seconds=time.monotonic() - started)


def prepare_task(
    slot: Slot,
    setup: ArmSetup,
    *,
    host_interval: int = HOST_INTERVAL,
    installed: PurePosixPath | None = None,
) -> tuple[Task, list[Job]]:
    """Return what carrying out a trial takes, and its workloads.

    :param host_interval: nanoseconds between samples of a namespace.
    :param installed: the directory of the traffic tools where the namespaces are; the computer's own when ``None``.
    """
    plan = setup.plan
    machines = plan.topology.machines()
    jobs = prepare_jobs(plan, setup.tools, slot.seed, installed=installed)
    task = Task(
        outline=plan.outline(),
        works=tuple(job.work() for job in jobs),
        intervals={name: host_interval if plan.on_computer(name) else GUEST_INTERVAL for name in plan.counted_nodes()},
        watched=watched_nodes(plan),
        consoles=tuple(machines),
        saying=_flowing(jobs),
    )
    return task, jobs


def _flowing(jobs: Sequence[Job]) -> str:
    flows = sum(job.spec.flows for job in jobs)
    seconds = max((job.spec.seconds + job.workload.start / 1e9 for job in jobs), default=0.0)
    return f"{flows} flows for {seconds:g} s"
