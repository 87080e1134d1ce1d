"""The figures an expectation may speak of: names, units and what they mean.

``measure`` computes them per trial; here they are only named, so that a topology can be checked without
running anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True)
class Metric:
    """One figure of a trial.

    :param unit: unit of the value, empty for a plain count.
    :param better: which direction is better.
    :param per_node: whether it can be asked of one node (``arm.node.metric``).
    :param count: whether it counts what befalls packets, so that none among so many bounds how often it does.
    """

    name: str
    unit: str
    better: Literal["lower", "higher"]
    meaning: str
    per_node: bool = False
    count: bool = False


_ALL = (
    Metric(
        "qdisc_drops",
        "",
        "lower",
        "packets dropped by qdiscs, counted once at each root and ingress",
        per_node=True,
        count=True,
    ),
    Metric(
        "device_drops",
        "",
        "lower",
        "packets dropped by interfaces, receiving and sending, beyond their qdiscs",
        per_node=True,
        count=True,
    ),
    Metric(
        "softnet_drops",
        "",
        "lower",
        "packets dropped because a CPU's backlog was full",
        per_node=True,
        count=True,
    ),
    Metric(
        "socket_drops",
        "",
        "lower",
        "packets TCP itself threw away: full backlogs, full receive and listen queues",
        per_node=True,
        count=True,
    ),
    Metric("lost", "", "lower", "packets lost at any place that is counted, those above", per_node=True, count=True),
    Metric("retransmits", "", "lower", "TCP segments sent again (RetransSegs)", per_node=True, count=True),
    Metric("timeouts", "", "lower", "TCP retransmission timeouts (TCPTimeouts)", per_node=True, count=True),
    Metric("segments_sent", "", "lower", "TCP segments handed down (OutSegs), attempts included", per_node=True),
    Metric("packets", "", "higher", "packets that left through qdiscs", per_node=True),
    Metric("zd_parked", "", "lower", "zD: times a socket or tap was made to wait", per_node=True, count=True),
    Metric("zd_resumed", "", "lower", "zD: times a socket or tap that waited had its turn", per_node=True, count=True),
    Metric("zd_refused", "", "lower", "zD: packets handed back to their socket", per_node=True, count=True),
    Metric("zd_wakes_unused", "", "lower", "zD: turns of which nothing was sent", per_node=True, count=True),
    *(
        Metric(
            f"zd_drops_{kind}",
            "",
            "lower",
            f"zD: {what} that a queue had no room for all the same",
            per_node=True,
            count=True,
        )
        for kind, what in {
            "data": "packets with data",
            "ack": "acknowledgments without data",
            "syn": "connection requests",
            "rst": "resets",
            "other": "packets of other protocols than TCP",
        }.items()
    ),
    Metric("zd_longest_park_s", "s", "lower", "zD: longest time a socket or tap waited for its turn", per_node=True),
    Metric("bytes_delivered", "B", "higher", "bytes the receiving applications read"),
    Metric("throughput_bps", "bit/s", "higher", "bytes the receivers read, over the test's time"),
    Metric("transactions_per_second", "1/s", "higher", "tcp_rr: request and response pairs"),
    Metric("latency_mean_s", "s", "lower", "tcp_rr: mean time of a transaction"),
    Metric("latency_p50_s", "s", "lower", "tcp_rr: median time of a transaction"),
    Metric("latency_p99_s", "s", "lower", "tcp_rr: time 99 % of transactions stay under"),
    Metric("jain_index", "", "higher", "Jain's fairness index over the flows' bytes, 1 is even"),
    Metric("jain_workloads", "", "higher", "Jain's index over what several tcp_stream workloads delivered, 1 is even"),
    Metric("longest_gap_s", "s", "lower", "longest time in which any flow moved no byte, or no transaction"),
    Metric("flows_without_data", "", "lower", "flows that moved no byte"),
    Metric("backlog_max_packets", "packets", "lower", "longest queue seen in any qdisc", per_node=True),
    Metric("backlog_max_bytes", "B", "lower", "largest queue seen in any qdisc", per_node=True),
    Metric("cpu_seconds", "s", "lower", "CPU time guests were busy; the computer's without guests", per_node=True),
    Metric("qdisc_drops_per_gb", "1/GB", "lower", "qdisc_drops per 10^9 bytes delivered"),
    Metric("retransmits_per_gb", "1/GB", "lower", "retransmits per 10^9 bytes delivered"),
    Metric("cpu_seconds_per_gb", "s/GB", "lower", "CPU time per 10^9 bytes delivered"),
    Metric("instructions", "", "lower", "virtual clock: instructions executed while the traffic ran"),
    Metric("cpu_busy", "", "lower", "virtual clock: part of the test's time in which the only CPU was busy, 0 to 1"),
    Metric("instructions_per_gb", "1/GB", "lower", "virtual clock: instructions per 10^9 bytes delivered"),
)

METRICS: Final[dict[str, Metric]] = {metric.name: metric for metric in _ALL}
