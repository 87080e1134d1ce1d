"""The figures of one trial, named in ``zdlab.topology.metrics``, from counters, samples and traffic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zdlab.measure.counters import NodeDelta
from zdlab.measure.samples import Peak
from zdlab.traffic.flows import jain_index

GB = 1e9
_SUMMED = (
    "qdisc_drops",
    "packets",
    "device_drops",
    "socket_drops",
    "retransmits",
    "segments_sent",
    "timeouts",
)


@dataclass(frozen=True)
class Counted:
    """When the end that reads counted what arrived, in seconds of the monotonic clock of a kernel.

    :param kernel: whose clock it is.
    """

    kernel: str
    start: float
    end: float


@dataclass(frozen=True)
class TrafficFigures:
    """What a workload delivered. ``None`` where the tool does not tell.

    :param seconds: of the test.
    :param ended_at: when its client had ended, on a clock all workloads of the trial share, in seconds.
    """

    tool: str
    seconds: float
    ended_at: float
    counted: Counted | None
    bytes_delivered: int | None
    throughput_bps: float | None
    transactions_per_second: float | None
    latency_mean_s: float | None
    latency_p50_s: float | None
    latency_p99_s: float | None
    jain_index: float
    flows_without_data: int
    longest_gap_s: float | None


@dataclass(frozen=True)
class TrialFigures:
    """Everything an expectation may ask of a trial."""

    lab: dict[str, float]
    nodes: dict[str, dict[str, float]]
    lost: dict[str, int]


def trial_figures(
    deltas: Mapping[str, NodeDelta],
    peaks: Mapping[str, Mapping[tuple[str, int], Peak]],
    kernels: Sequence[str],
    outermost: Sequence[str],
    traffic: Sequence[TrafficFigures],
) -> TrialFigures:
    """Return the figures of a trial.

    :param deltas: what each node counted.
    :param peaks: the longest queues of each node.
    :param kernels: one node on each kernel; a kernel counts some things for all its namespaces at once.
    :param outermost: those of ``kernels`` whose CPU time holds that of all the others.
    """
    nodes: dict[str, dict[str, float]] = {}
    for name, delta in deltas.items():
        longest = peaks.get(name, {}).values()
        nodes[name] = delta.values | {
            "lost": sum(delta.lost.values()),
            "backlog_max_packets": max((peak.packets for peak in longest), default=0),
            "backlog_max_bytes": max((peak.bytes for peak in longest), default=0),
        }
    lab = {name: sum(node[name] for node in nodes.values()) for name in _SUMMED}
    lab["softnet_drops"] = sum(nodes[name]["softnet_drops"] for name in kernels)
    lab["cpu_seconds"] = sum(nodes[name]["cpu_seconds"] for name in outermost)
    for name in ("backlog_max_packets", "backlog_max_bytes"):
        lab[name] = max((node[name] for node in nodes.values()), default=0)
    lab |= _zd(nodes)
    lab |= _traffic(traffic)
    delivered = lab.get("bytes_delivered", 0.0)
    if delivered > 0:
        for name in ("qdisc_drops", "retransmits", "cpu_seconds"):
            lab[f"{name}_per_gb"] = lab[name] / delivered * GB
    lost = {
        f"{node} {place}": count
        for node, delta in deltas.items()
        for place, count in delta.lost.items()
        if place != "softnet" or node in kernels
    }
    lab["lost"] = sum(lost.values())
    return TrialFigures(lab, nodes, lost)


def _zd(nodes: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Join what zD counted in those nodes whose kernel has it."""
    names = dict.fromkeys(name for node in nodes.values() for name in node if name.startswith("zd_"))
    return {
        name: (max if name.endswith("_s") else sum)(node[name] for node in nodes.values() if name in node)
        for name in names
    }


def instruction_figures(started: Mapping[str, int], stopped: Mapping[str, int], delivered: float) -> dict[str, float]:
    """Return what the traffic cost, where a capsule's meter was read around it: a busy nanosecond is an instruction.

    :param delivered: bytes.
    """
    if not started or not stopped:
        return {}
    passed = float(stopped["ns"] - started["ns"])
    spent = passed - (stopped["idle_ns"] - started["idle_ns"])
    figures = {"instructions": spent, "cpu_busy": spent / passed} if passed > 0 else {}
    return figures | ({"instructions_per_gb": spent / delivered * GB} if delivered > 0 else {})


def _traffic(workloads: Sequence[TrafficFigures]) -> dict[str, float]:
    """Join the workloads: rates and bytes add up, latency, gaps and fairness are the worst of them."""
    figures: dict[str, float] = {}
    delivered = [work.bytes_delivered for work in workloads]
    if delivered and None not in delivered:
        figures["bytes_delivered"] = sum(size or 0 for size in delivered)
    bulk = [work for work in workloads if work.throughput_bps is not None]
    if bulk:
        figures["throughput_bps"] = _joint_throughput(bulk)
        figures["jain_index"] = min(work.jain_index for work in bulk)
    if len(bulk) > 1 and None not in [work.bytes_delivered for work in bulk]:
        figures["jain_workloads"] = jain_index([work.bytes_delivered or 0 for work in bulk], len(bulk))
    requests = [work.transactions_per_second for work in workloads if work.transactions_per_second is not None]
    if requests:
        figures["transactions_per_second"] = sum(requests)
    for name in ("latency_mean_s", "latency_p50_s", "latency_p99_s", "longest_gap_s"):
        known = [value for work in workloads if (value := getattr(work, name)) is not None]
        if known:
            figures[name] = max(known)
    figures["flows_without_data"] = sum(work.flows_without_data for work in workloads)
    return figures


def _joint_throughput(bulk: Sequence[TrafficFigures]) -> float:
    """Return what bulk workloads delivered together, in bit/s.

    Each measures while its own data flows, and a crowded link lets some begin late: their rates do not add up. So
    several are measured over the time from the first one's beginning to the last one's end.
    """
    if len(bulk) == 1:
        return bulk[0].throughput_bps or 0.0
    return 8 * sum(work.bytes_delivered or 0 for work in bulk) / _span(bulk)


def _span(bulk: Sequence[TrafficFigures]) -> float:
    """Return the seconds from the first workload's beginning to the last one's end.

    The ends that read know them, but their clocks can only be compared on one kernel. Elsewhere it is when the clients
    ended, which takes longer: the tools then exchange results over the same crowded link.
    """
    counted = [work.counted for work in bulk if work.counted]
    if len(counted) == len(bulk) and len({one.kernel for one in counted}) == 1:
        return max(one.end for one in counted) - min(one.start for one in counted)
    return max(work.ended_at for work in bulk) - min(work.ended_at - work.seconds for work in bulk)
