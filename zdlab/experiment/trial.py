"""One trial: a fresh lab of one arm, counters and samples around its traffic, and the end of the lab."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Final

from zdlab.errors import GuestError, GuestHungError, LabError, ZdlabError
from zdlab.experiment.model import Slot, Trial, TrialState
from zdlab.experiment.nodes import HungError
from zdlab.experiment.observe import Observation, observe
from zdlab.experiment.task import Task
from zdlab.experiment.workloads import Job, Ran, evaluated, prepare_jobs, watched_nodes
from zdlab.lab.client import Lab
from zdlab.lab.request import AcceleratorRequest, BootFiles
from zdlab.measure.counters import node_delta
from zdlab.measure.metrics import instruction_figures, trial_figures
from zdlab.measure.queues import limited_queues, observed_queues
from zdlab.measure.samples import Sample, decode_samples, peaks, sample_lines
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
    kept = False
    try:
        phase("building the lab")
        lab = Lab.start(
            task.outline,
            setup.boot,
            name=lab_name,
            topology=topology,
            accelerator=accelerator,
            attached=not keep_on_failure,
            progress=phase,
        )
        trial = evaluate(slot, setup.plan, jobs, observe(task, lab, phase))
    except ZdlabError as error:
        if isinstance(error, LabError) and error.origin:
            raise
        kept = keep_on_failure and lab is not None
        trial = broken(slot, error, lab_name if kept else None)
    finally:
        if lab is not None and not kept:
            phase("taking the lab down")
            lab.down()
    return replace(trial, seconds=time.monotonic() - started)


def broken(slot: Slot, error: ZdlabError, kept_lab: str | None = None) -> Trial:
    """Return the trial that came to nothing.

    :param kept_lab: its lab, when that was left running.
    """
    state: TrialState = "hung" if isinstance(error, HungError | GuestHungError) else "failed"
    raw: dict[str, Any] = {}
    if isinstance(error, GuestError):
        raw = {"console": list(error.console), "command": list(error.command)}
    return Trial(slot, state, error.message, kept_lab=kept_lab, raw=raw)


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


def evaluate(slot: Slot, plan: Plan, jobs: Sequence[Job], seen: Observation) -> Trial:
    """Return the trial that was observed. Pure.

    :raises ZdlabError: when what was seen says nothing: a tool failed, a counter went back.
    """
    ran = {job.name: evaluated(job, seen.ended) for job in jobs}
    samples = {name: list(decode_samples(raw.header, raw.data)) for name, raw in seen.samples.items()}
    begun = {name: int(counters["monotonic_ns"]) for name, counters in seen.before.items()}
    deltas = {name: node_delta(name, counters, seen.after[name]) for name, counters in seen.before.items()}
    longest = {name: peaks(of_node) for name, of_node in samples.items()}
    traffic = [item.figures for item in ran.values()]
    figures = trial_figures(deltas, longest, plan.kernels(), plan.outermost(), traffic)
    return Trial(
        slot,
        "done",
        figures=figures.lab | instruction_figures(*seen.effort, figures.lab.get("bytes_delivered", 0.0)),
        nodes=figures.nodes,
        lost=figures.lost,
        queues=observed_queues(limited_queues(plan), samples, begun, deltas),
        accelerators=tuple(sorted({node["accelerator"] for node in seen.status["nodes"] if "accelerator" in node})),
        raw={
            "before": seen.before,
            "after": seen.after,
            "traffic": {name: item.raw for name, item in ran.items()},
            "status": seen.status,
        },
        files=_files(seen, samples, begun, ran),
    )


def _files(
    seen: Observation,
    samples: Mapping[str, Iterable[Sample]],
    begun: Mapping[str, int],
    ran: Mapping[str, Ran],
) -> dict[str, bytes]:
    """Return what is too large for a record: the series, what the traffic tools wrote, the consoles."""
    series = (line for name, of_node in samples.items() for line in sample_lines(name, of_node, begun[name]))
    files = {"samples.jsonl.gz": _packed("\n".join(series) + "\n")}
    for work, item in ran.items():
        files |= {f"{work}.{name}.gz": _packed(text) for name, text in item.files.items()}
    return files | {f"{name}.console.gz": gzip.compress(text, 6, mtime=0) for name, text in seen.consoles.items()}


def _packed(text: str) -> bytes:
    return gzip.compress(text.encode(), 6, mtime=0)


def _flowing(jobs: Sequence[Job]) -> str:
    flows = sum(job.spec.flows for job in jobs)
    seconds = max((job.spec.seconds + job.workload.start / 1e9 for job in jobs), default=0.0)
    return f"{flows} flows for {seconds:g} s"
