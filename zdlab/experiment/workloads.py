"""From the workloads of a plan to command lines, and from what these left behind to figures. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from zdlab.experiment.task import End, Work
from zdlab.experiment.traffic import Ended
from zdlab.measure.metrics import TrafficFigures
from zdlab.plan.build import Plan
from zdlab.plan.operations import MakeTap
from zdlab.topology.places import LAB, around, kernel_of
from zdlab.topology.workloads import Workload
from zdlab.traffic import (
    Finished,
    OutputFile,
    Side,
    TrafficCommand,
    TrafficCommands,
    TrafficResult,
    TrafficSpec,
    TrafficTools,
    assign_ports,
    traffic_commands,
    traffic_result,
)

#: Where an image has the traffic tools, and where tools write in a node: private to the pod or guest.
GUEST_TOOLS: Final = PurePosixPath("/usr/bin")
_OUTPUT: Final = PurePosixPath("/run")


@dataclass(frozen=True)
class Job:
    """One workload with its command lines."""

    name: str
    workload: Workload
    spec: TrafficSpec
    commands: TrafficCommands
    announced: bool

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


@dataclass(frozen=True)
class Ran:
    """A workload that was run: what it delivered, what both ends said, and the files they wrote."""

    figures: TrafficFigures
    raw: dict[str, Any]
    files: dict[str, str]


def prepare_jobs(plan: Plan, tools: TrafficTools, seed: int, *, installed: PurePosixPath | None = None) -> list[Job]:
    """Return the workloads of a plan with their command lines.

    :param installed: the directory of the tools where the namespaces are; the computer's own when ``None``.
    """
    works = plan.topology.workloads
    directory = PurePosixPath(tools.directory) if installed is None else installed
    jobs = []
    for (name, work), (control, port) in zip(works.items(), assign_ports(len(works)), strict=True):
        host = plan.network.address(work.source, work.to)
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
            seed=seed,
            extra=work.args,
        )
        commands = traffic_commands(
            spec,
            programs={
                "client": GUEST_TOOLS if kernel_of(plan.topology, work.source) != LAB else directory,
                "server": GUEST_TOOLS if kernel_of(plan.topology, work.to) != LAB else directory,
            },
            directory=_OUTPUT,
            name=name,
            origin=tools.origin,
        )
        jobs.append(Job(name, work, spec, commands, announced=tools.origin == "zdlab"))
    return jobs


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


def evaluated(job: Job, ended: Mapping[tuple[str, str], Ended]) -> Ran:
    """Return what a workload delivered.

    :param ended: how the ends of all workloads ended.
    :raises TrafficError: when an end failed, or what it left is unreadable.
    """
    finished: dict[Side, Finished] = {}
    ends: tuple[tuple[Side, TrafficCommand], ...] = (
        ("client", job.commands.client),
        ("server", job.commands.server),
    )
    for side, command in ends:
        end = ended[job.name, side]
        written: dict[OutputFile, str] = {
            file: _text(end.files[file.path]) for file in command.files if file.path in end.files
        }
        finished[side] = Finished(end.returncode, _text(end.stdout), _text(end.stderr), written)
    result = traffic_result(job.spec, client=finished["client"], server=finished["server"])
    raw = {
        "spec": {"tool": job.spec.tool, "host": job.spec.host, "flows": job.spec.flows},
        "argv": {"client": list(job.commands.client.argv), "server": list(job.commands.server.argv)},
        "stdout": {side: one.stdout for side, one in finished.items()},
        "stderr": {side: one.stderr for side, one in finished.items()},
    }
    files = {f"{file.side}.{file.kind}": text for one in finished.values() for file, text in one.files.items()}
    return Ran(_figures(job, result, ended[job.name, "client"].at), raw, files)


def _figures(job: Job, result: TrafficResult, ended_at: float) -> TrafficFigures:
    percentiles: Mapping[float, float] = result.latency.percentiles if result.latency else {}
    return TrafficFigures(
        tool=job.spec.tool,
        seconds=job.spec.seconds,
        ended_at=ended_at,
        bytes_delivered=result.bytes_delivered,
        throughput_bps=result.throughput_bps,
        transactions_per_second=result.transactions_per_second,
        latency_mean_s=result.latency.mean if result.latency else None,
        latency_p50_s=percentiles.get(50.0),
        latency_p99_s=percentiles.get(99.0),
        jain_index=result.jain_index,
        flows_without_data=result.flows_without_data,
    )


def _end(node: str, command: TrafficCommand) -> End:
    return End(node, command.argv, tuple(file.path for file in command.files))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
