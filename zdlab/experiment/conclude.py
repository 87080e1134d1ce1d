"""From what was seen of a trial to what is kept of it: figures or what went wrong, and always the record. Pure."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from zdlab.errors import GuestError, GuestHungError, InfrastructureError, ZdlabError
from zdlab.experiment.model import Slot, Trial, TrialState
from zdlab.experiment.nodes import HungError
from zdlab.experiment.observe import Observation
from zdlab.experiment.workloads import Job, evaluated, told, written
from zdlab.guest.agent_client import RawSamples
from zdlab.measure.counters import node_delta
from zdlab.measure.metrics import instruction_figures, trial_figures
from zdlab.measure.queues import limited_queues, observed_queues
from zdlab.measure.samples import Sample, decode_samples, peaks, sample_lines
from zdlab.plan.build import Plan

#: What is recorded of how a node was sampled.
_SAMPLING: Final = ("samples", "missed", "truncated", "interval_ns")

_Samples = Mapping[str, Sequence[Sample]]


def broken(slot: Slot, error: ZdlabError) -> Trial:
    """Return a trial that came to nothing, of which nothing was seen."""
    return _failed(Trial(slot, "failed"), error)


def concluded(slot: Slot, plan: Plan, jobs: Sequence[Job], seen: Observation) -> Trial:
    """Return the trial that was observed. What went wrong with it is in its state."""
    samples = {name: _readable(raw) for name, raw in seen.samples.items()}
    trial = Trial(
        slot,
        "done",
        accelerators=tuple(
            sorted({node["accelerator"] for node in seen.status.get("nodes", ()) if "accelerator" in node})
        ),
        raw={
            "before": seen.before,
            "after": seen.after,
            "sampling": {name: {key: raw.header[key] for key in _SAMPLING} for name, raw in seen.samples.items()},
            "traffic": {job.name: told(job, seen.ended) for job in jobs},
            "status": seen.status,
        },
        files=_files(jobs, seen, samples),
    )
    try:
        if seen.error is not None:
            raise seen.error
        return _evaluated(trial, plan, jobs, seen, samples)
    except ZdlabError as error:
        return _failed(trial, error)


def _failed(trial: Trial, error: ZdlabError) -> Trial:
    state: TrialState = "hung" if isinstance(error, HungError | GuestHungError) else "failed"
    raw = dict(trial.raw)
    if isinstance(error, GuestError):
        raw |= {"console": list(error.console), "command": list(error.command)}
    return replace(trial, state=state, error=error.message, raw=raw)


def _evaluated(trial: Trial, plan: Plan, jobs: Sequence[Job], seen: Observation, samples: _Samples) -> Trial:
    """Return the trial with its figures.

    :raises ZdlabError: when what was seen says nothing: a tool failed, a counter went back, a series is not whole.
    """
    traffic = [evaluated(job, seen.ended) for job in jobs]
    for name, raw in seen.samples.items():
        _check_whole(name, raw.header, len(samples[name]))
    deltas = {name: node_delta(name, counters, seen.after[name]) for name, counters in seen.before.items()}
    longest = {name: peaks(of_node) for name, of_node in samples.items()}
    figures = trial_figures(deltas, longest, plan.kernels(), plan.outermost(), traffic)
    return replace(
        trial,
        figures=figures.lab | instruction_figures(*seen.effort, figures.lab.get("bytes_delivered", 0.0)),
        nodes=figures.nodes,
        lost=figures.lost,
        queues=observed_queues(limited_queues(plan), samples, _begun(seen), deltas),
    )


def _check_whole(node: str, header: Mapping[str, Any], count: int) -> None:
    """See that a series goes from before the traffic to after it.

    :raises InfrastructureError: when it does not: the longest queue may have been later.
    """
    if header["truncated"]:
        raise InfrastructureError(
            f"{node}: its samples filled the {header['size'] >> 20} MiB there are for them before the traffic ended",
            hint="a shorter duration, or fewer qdiscs on one node",
        )
    if count != header["samples"]:
        raise InfrastructureError(f"{node}: {count} of its {header['samples']} samples are readable")


def _begun(seen: Observation) -> dict[str, int]:
    return {name: int(counters["monotonic_ns"]) for name, counters in seen.before.items()}


def _readable(raw: RawSamples) -> list[Sample]:
    """Return the samples up to where they are cut short, if they are."""
    samples: list[Sample] = []
    with contextlib.suppress(InfrastructureError):
        samples.extend(decode_samples(raw.header, raw.data))
    return samples


def _files(jobs: Sequence[Job], seen: Observation, samples: _Samples) -> dict[str, bytes]:
    """Return what is too large for a record: the series, what the traffic tools wrote, the consoles."""
    begun = _begun(seen)
    series = [line for name, of_node in samples.items() for line in sample_lines(name, of_node, begun[name])]
    files = {"samples.jsonl": "".join(f"{line}\n" for line in series).encode()}
    for job in jobs:
        files |= written(job, seen.ended)
    files |= {f"{name}.console": text for name, text in seen.consoles.items()}
    return {f"{name}.gz": gzip.compress(data, 6, mtime=0) for name, data in files.items()}
