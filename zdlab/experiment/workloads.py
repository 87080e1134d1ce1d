"""From the workloads of a plan to command lines, and from what these left behind to figures. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from zdlab.errors import TrafficError
from zdlab.experiment.task import End, Work
from zdlab.experiment.traffic import Ended
from zdlab.measure.metrics import Counted, TrafficFigures
from zdlab.plan.build import Plan
from zdlab.plan.operations import MakeTap
from zdlab.topology.places import LAB, around, kernel_of
from zdlab.topology.workloads import Workload
from zdlab.traffic import (
    GUEST_TOOLS,
    OutputFile,
    Side,
    TrafficCommand,
    TrafficCommands,
    TrafficSpec,
    TrafficTools,
    assign_ports,
    traffic_commands,
)
from zdlab.traffic.result import Finished, TrafficResult, traffic_result

#: Where tools write in a node: private to the pod or guest.
_OUTPUT: Final = PurePosixPath("/run")


@dataclass(frozen=True)
class Job:
    """One workload with its command lines.

    :param announced: its server says when it listens.
    :param kernels: whose kernel each end is on.
    """

    name: str
    workload: Workload
    spec: TrafficSpec
    commands: TrafficCommands
    announced: bool
    kernels: Mapping[Side, str]

    def ends(self) -> tuple[tuple[Side, TrafficCommand], ...]:
        """Return both ends with their command lines."""
        return ("client", self.commands.client), ("server", self.commands.server)

    def work(self) -> Work:
        """Return what running it takes."""
        return Work(
            name=self.name,
            client=_end(self.workload.source, self.commands.client),
            server=_end(self.workload.to, self.commands.server),
            start=self.workload.start / 1e9,
            deadline=self.commands.deadline,
            announced=self.announced,
        )


def prepare_jobs(plan: Plan, tools: TrafficTools, seed: int, *, installed: PurePosixPath | None = None) -> list[Job]:
    """Return the workloads of a plan with their command lines.

    :param seed: of the trial's block.
    :param installed: the directory of the tools where the namespaces are; the computer's own when ``None``.
    """
    works = plan.topology.workloads
    directory = PurePosixPath(tools.directory) if installed is None else installed
    jobs = []
    for (name, work), (control, port) in zip(works.items(), assign_ports(len(works)), strict=True):
        host = plan.network.address(work.source, work.to, work.family)
        kernels: dict[Side, str] = {
            "client": kernel_of(plan.topology, work.source),
            "server": kernel_of(plan.topology, work.to),
        }
        spec = TrafficSpec(
            tool=work.tool,
            host=host or "",
            flows=work.flows,
            threads=work.threads,
            seconds=work.duration / 1e9,
            buffer=work.buffer,
            request=work.request,
            response=work.response,
            control_port=control,
            port=port,
            seed=workload_seed(seed, name),
            extra=work.args,
        )
        commands = traffic_commands(
            spec,
            programs={side: GUEST_TOOLS if kernel != LAB else directory for side, kernel in kernels.items()},
            directory=_OUTPUT,
            name=name,
            origin=tools.origin,
        )
        jobs.append(Job(name, work, spec, commands, tools.origin == "zdlab", kernels))
    return jobs


def workload_seed(seed: int, name: str) -> int:
    """Return the seed of a workload: its own, so that workloads do not begin in step, and the same in every arm.

    :param seed: of the trial's block.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "big")


def watched_nodes(plan: Plan) -> tuple[str, ...]:
    """Return the namespaces all traffic of a plan's workloads goes through where it begins.

    A machine is watched at its taps, and what is in it at the taps of the outermost machine the traffic leaves: a
    guest busy with thousands of flows is not asked for anything.
    """
    taps: dict[str, list[str]] = {}
    for operation in plan.operations:
        if isinstance(operation, MakeTap):
            taps.setdefault(operation.machine, []).append(operation.node)
    nodes: list[str] = []
    for work in plan.topology.workloads.values():
        shared = {work.to, *around(plan.topology, work.to)}
        left = [name for name in (work.source, *around(plan.topology, work.source)) if name not in shared]
        nodes += next((taps[name] for name in reversed(left) if name in taps), [work.source])
    return tuple(dict.fromkeys(nodes))


def evaluated(job: Job, ended: Mapping[tuple[str, str], Ended]) -> TrafficFigures:
    """Return what a workload delivered.

    :param ended: how the ends of all workloads ended.
    :raises TrafficError: when an end failed, or what it left is unreadable.
    """
    finished: dict[Side, Finished] = {}
    for side, command in job.ends():
        end = ended[job.name, side]
        if end.returncode is None:
            raise TrafficError(f"the {side} of {job.name} did not end")
        written: dict[OutputFile, str] = {
            file: _text(end.files[file.path]) for file in command.files if file.path in end.files
        }
        finished[side] = Finished(end.returncode, _text(end.stdout), _text(end.stderr), written)
    result = traffic_result(job.spec, client=finished["client"], server=finished["server"])
    return _figures(job, result, ended[job.name, "client"].at)


def told(job: Job, ended: Mapping[tuple[str, str], Ended]) -> dict[str, Any]:
    """Return what is recorded of a workload, as far as it came: command lines, and what its ends said."""
    known = {side: ended[job.name, side] for side, _ in job.ends() if (job.name, side) in ended}
    return {
        "spec": {"tool": job.spec.tool, "host": job.spec.host, "flows": job.spec.flows},
        "argv": {side: list(command.argv) for side, command in job.ends()},
        "returncode": {side: end.returncode for side, end in known.items()},
        "stdout": {side: _text(end.stdout) for side, end in known.items()},
        "stderr": {side: _text(end.stderr) for side, end in known.items()},
    }


def written(job: Job, ended: Mapping[tuple[str, str], Ended]) -> dict[str, bytes]:
    """Return the files the ends of a workload left behind, by the names they are kept under."""
    return {
        f"{job.name}.{side}.{file.kind}": ended[job.name, side].files[file.path]
        for side, command in job.ends()
        if (job.name, side) in ended
        for file in command.files
        if file.path in ended[job.name, side].files
    }


def _figures(job: Job, result: TrafficResult, ended_at: float) -> TrafficFigures:
    counted = Counted(job.kernels[result.reader], *result.counted) if result.counted else None
    percentiles: Mapping[float, float] = result.latency.percentiles if result.latency else {}
    return TrafficFigures(
        tool=job.spec.tool,
        seconds=job.spec.seconds,
        ended_at=ended_at,
        counted=counted,
        bytes_delivered=result.bytes_delivered,
        throughput_bps=result.throughput_bps,
        transactions_per_second=result.transactions_per_second,
        latency_mean_s=result.latency.mean if result.latency else None,
        latency_p50_s=percentiles.get(50.0),
        latency_p99_s=percentiles.get(99.0),
        jain_index=result.jain_index,
        flows_without_data=result.flows_without_data,
        longest_gap_s=result.longest_gap,
    )


def _end(node: str, command: TrafficCommand) -> End:
    return End(node, command.argv, tuple(file.path for file in command.files))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
