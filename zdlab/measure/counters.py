"""Differences of a node's counters over a trial, and where packets were lost.

A classful qdisc counts what its children drop as its own (``qdisc_tree_reduce_backlog`` in net/sched/sch_api.c and
each ``enqueue`` see to that), so drops are counted at roots and at ingress only; adding the children would count
them twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from zdlab.errors import InfrastructureError

#: Parents of what is counted: ``TC_H_ROOT`` and ``TC_H_INGRESS`` (linux/pkt_sched.h).
ROOT: Final = 0xFFFFFFFF
INGRESS: Final = 0xFFFFFFF1
#: Packets TCP itself throws away (linux/snmp.h, net/ipv4/proc.c).
_SOCKET_DROPS: Final = (
    "TCPBacklogDrop",
    "TCPRcvQDrop",
    "TCPOFODrop",
    "RcvPruned",
    "PFMemallocDrop",
    "TCPMinTTLDrop",
    "TCPZeroWindowDrop",
    "TCPReqQFullDrop",
    "ListenDrops",
)
#: Counters of a kernel with zD that become figures: ``zd_`` and the name.
_ZD: Final = (
    "parked",
    "resumed",
    "refused",
    "wakes_unused",
    "drops_data",
    "drops_ack",
    "drops_syn",
    "drops_rst",
    "drops_other",
)
#: Counters the kernel keeps, or hands out, with 32 bits only: qdisc drops (struct gnet_stats_queue), packets of
#: kernels without TCA_STATS_PKT64, a CPU's line of softnet_stat.
_NARROW: Final = 1 << 32

Snapshot = Mapping[str, Any]
_QdiscKey = tuple[str, int, int]


@dataclass(frozen=True)
class NodeDelta:
    """What a node counted during a trial.

    :param values: by the names of ``zdlab.topology.metrics``; those of zD where the kernel has it.
    :param lost: packets lost by the place, like ``qdisc eth0 1: tbf`` or ``socket TCPBacklogDrop``; each packet
        stands at one place only, so they add up.
    :param qdisc_drops: by interface and handle, for every qdisc: a parent's hold its children's.
    """

    values: dict[str, float]
    lost: dict[str, int] = field(default_factory=dict)
    qdisc_drops: dict[tuple[str, int], int] = field(default_factory=dict)


def node_delta(node: str, before: Snapshot, after: Snapshot) -> NodeDelta:
    """Return what a node counted between two snapshots.

    :raises InfrastructureError: when an interface or qdisc vanished or a counter went back: what was counted until
        then is not known, so that nothing can be said of the trial.
    """
    lost: dict[str, int] = {}
    drops = _qdisc_differences(node, before, after, "drops")
    packets = _qdisc_differences(node, before, after, "packets")
    kinds = {key: row["kind"] for key, row in _qdiscs(after).items()}
    for key, count in drops.items():
        if key[2] in {ROOT, INGRESS} and count:
            lost[f"qdisc {key[0]} {handle_text(key[1])} {kinds[key]}"] = count
    values: dict[str, float] = {
        "qdisc_drops": sum(count for key, count in drops.items() if key[2] in {ROOT, INGRESS}),
        "packets": sum(count for key, count in packets.items() if key[2] == ROOT),
        "device_drops": _summed(_device_drops(node, before, after), lost),
        "softnet_drops": _summed(_softnet_drops(node, before, after), lost),
        "socket_drops": _summed(_socket_drops(node, before, after), lost),
        "retransmits": _tcp(node, before, after, "snmp", "Tcp", "RetransSegs"),
        "segments_sent": _tcp(node, before, after, "snmp", "Tcp", "OutSegs"),
        "timeouts": _tcp(node, before, after, "netstat", "TcpExt", "TCPTimeouts"),
        "cpu_seconds": _cpu_seconds(node, before, after),
        **_zd(node, before["zd"], after["zd"]),
    }
    return NodeDelta(values, lost, {(key[0], key[1]): count for key, count in drops.items()})


def handle_text(handle: int) -> str:
    """Write a qdisc's handle as ``tc`` does."""
    return f"{handle >> 16:x}:"


def _since(where: str, old: int, new: int, *, narrow: bool = False) -> int:
    """Return by how much a counter grew.

    :param narrow: it may wrap at 32 bits; a lab's counters start near zero, so it does so from the upper half only.
    :raises InfrastructureError: when it went back.
    """
    if new >= old:
        return new - old
    if narrow and _NARROW // 2 <= old < _NARROW and new < _NARROW // 2:
        return new - old + _NARROW
    raise InfrastructureError(
        f"{where} went back from {old} to {new} during the trial",
        hint="something replaced or reset it while traffic flowed",
    )


def _qdiscs(snapshot: Snapshot) -> dict[_QdiscKey, Mapping[str, Any]]:
    return {(row["interface"], row["handle"], row["parent"]): row for row in snapshot["qdiscs"]}


def _qdisc_differences(node: str, before: Snapshot, after: Snapshot, counter: str) -> dict[_QdiscKey, int]:
    """Return how a counter of every qdisc grew; one that is new grew from zero."""
    old, new = _qdiscs(before), _qdiscs(after)
    gone = sorted(old.keys() - new.keys())
    if gone:
        interface, handle, _ = gone[0]
        raise InfrastructureError(
            f"{node}: the qdisc {handle_text(handle)} of {interface} vanished during the trial",
            hint="nothing may change a lab's qdiscs while traffic flows",
        )
    found = {}
    for key, row in new.items():
        where = f"{node}: {counter} of the qdisc {handle_text(key[1])} of {key[0]}"
        found[key] = _since(where, old[key][counter] if key in old else 0, row[counter], narrow=True)
    return found


def _summed(counts: Iterator[tuple[str, int]], lost: dict[str, int]) -> int:
    """Add up losses, noting those that are not zero."""
    total = 0
    for place, count in counts:
        total += count
        if count:
            lost[place] = lost.get(place, 0) + count
    return total


def _device_drops(node: str, before: Snapshot, after: Snapshot) -> Iterator[tuple[str, int]]:
    gone = sorted(before["devices"].keys() - after["devices"].keys())
    if gone:
        raise InfrastructureError(f"{node}: the interface {gone[0]} vanished during the trial")
    for interface, counters in after["devices"].items():
        for name in ("rx_dropped", "tx_dropped"):
            old = before["devices"].get(interface, {}).get(name, 0)
            yield f"device {interface} {name}", _since(f"{node}: {name} of {interface}", old, counters[name])


def _softnet_drops(node: str, before: Snapshot, after: Snapshot) -> Iterator[tuple[str, int]]:
    if len(after["softnet"]) < len(before["softnet"]):
        raise InfrastructureError(f"{node}: a CPU went offline during the trial")
    for number, row in enumerate(after["softnet"]):
        old = before["softnet"][number]["dropped"] if number < len(before["softnet"]) else 0
        yield "softnet", _since(f"{node}: softnet drops", old, row["dropped"], narrow=True)


def _socket_drops(node: str, before: Snapshot, after: Snapshot) -> Iterator[tuple[str, int]]:
    for name in _SOCKET_DROPS:
        yield f"socket {name}", _tcp(node, before, after, "netstat", "TcpExt", name)


def _tcp(node: str, before: Snapshot, after: Snapshot, table: str, group: str, name: str) -> int:
    old, new = (int(snapshot[table].get(group, {}).get(name, 0)) for snapshot in (before, after))
    return _since(f"{node}: {name}", old, new)


def _zd(node: str, before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, float]:
    """Return what zD counted: nothing on a kernel without it, whose zeros would say that it had nothing to do."""
    values: dict[str, float] = {
        f"zd_{name}": _since(f"{node}: {name} of zD", before.get(name, 0), after[name]) for name in _ZD if name in after
    }
    if "longest_park_ns" in after:
        # The longest since the namespace was made, which is made for the trial.
        values["zd_longest_park_s"] = after["longest_park_ns"] / 1e9
    return values


def _cpu_seconds(node: str, before: Snapshot, after: Snapshot) -> float:
    def busy(ticks: Sequence[int]) -> int:
        # user, nice, system, idle, iowait, irq, softirq, steal: all but idle, iowait and stolen time (proc(5))
        return sum(ticks[:3]) + sum(ticks[5:7])

    ticks = _since(f"{node}: CPU time", busy(before["cpu"]["cpu"]), busy(after["cpu"]["cpu"]))
    return ticks / int(after["cpu_hz"])
