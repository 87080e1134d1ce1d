"""Every lost packet is counted once, and what cannot be known is not guessed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdlab.errors import InfrastructureError
from zdlab.measure.counters import INGRESS, ROOT, NodeDelta, handle_text, node_delta
from zdlab.measure.metrics import Counted, TrafficFigures, trial_figures
from zdlab.measure.samples import Peak

#: A root with a child below it, and an ingress qdisc.
TREE = [("eth0", 0x10000, ROOT, "tbf"), ("eth0", 0x20000, 0x10001, "pfifo"), ("eth0", 0xFFFF0000, INGRESS, "ingress")]


def _snapshot(
    drops: tuple[int, ...] = (0, 0, 0),
    packets: tuple[int, ...] = (0, 0, 0),
    rx_dropped: int = 0,
    softnet: tuple[int, ...] = (0, 0),
    tcp: dict[str, int] | None = None,
    ext: dict[str, int] | None = None,
    cpu: tuple[int, ...] = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    zd: dict[str, int] | None = None,
) -> dict[str, Any]:
    return {
        "qdiscs": [
            {"interface": name, "handle": handle, "parent": parent, "kind": kind, "drops": dropped, "packets": count}
            for (name, handle, parent, kind), dropped, count in zip(TREE, drops, packets, strict=True)
        ],
        "devices": {"eth0": {"rx_dropped": rx_dropped, "tx_dropped": 0}, "lo": {"rx_dropped": 0, "tx_dropped": 0}},
        "softnet": [{"dropped": count} for count in softnet],
        "snmp": {"Tcp": {"RetransSegs": 0, "OutSegs": 0} | (tcp or {})},
        "netstat": {"TcpExt": ext or {}},
        "cpu": {"cpu": list(cpu)},
        "cpu_hz": 100,
        "zd": zd or {},
    }


def test_a_parents_drops_hold_its_childrens_and_are_counted_once() -> None:
    delta = node_delta("a", _snapshot((5, 5, 1), (10, 10, 0)), _snapshot((105, 85, 4), (1010, 950, 0)))

    assert delta.values["qdisc_drops"] == 103
    assert delta.values["packets"] == 1000
    assert delta.lost == {"qdisc eth0 1: tbf": 100, "qdisc eth0 ffff: ingress": 3}
    assert delta.qdisc_drops == {("eth0", 0x10000): 100, ("eth0", 0x20000): 80, ("eth0", 0xFFFF0000): 3}


def test_losses_stand_at_one_place_each_and_add_up() -> None:
    before = _snapshot((1, 0, 0), rx_dropped=2, softnet=(1, 1), ext={"ListenDrops": 1, "TCPBacklogDrop": 0})
    after = _snapshot((4, 3, 2), rx_dropped=7, softnet=(4, 1), ext={"ListenDrops": 3, "TCPBacklogDrop": 9, "Other": 5})
    delta = node_delta("a", before, after)

    assert delta.lost == {
        "qdisc eth0 1: tbf": 3,
        "qdisc eth0 ffff: ingress": 2,
        "device eth0 rx_dropped": 5,
        "softnet": 3,
        "socket ListenDrops": 2,
        "socket TCPBacklogDrop": 9,
    }
    kinds = ("qdisc_drops", "device_drops", "softnet_drops", "socket_drops")
    assert [delta.values[kind] for kind in kinds] == [5, 5, 3, 11]
    assert sum(delta.lost.values()) == sum(delta.values[kind] for kind in kinds)


def test_tcp_and_cpu_are_differences() -> None:
    before = _snapshot(tcp={"RetransSegs": 3, "OutSegs": 100}, cpu=(10, 1, 2, 500, 50, 3, 4, 900, 0, 0))
    after = _snapshot(
        tcp={"RetransSegs": 10, "OutSegs": 300}, ext={"TCPTimeouts": 2}, cpu=(110, 2, 12, 9000, 70, 13, 24, 950, 0, 0)
    )
    values = node_delta("a", before, after).values

    assert (values["retransmits"], values["segments_sent"], values["timeouts"]) == (7, 200, 2)
    # user 100, nice 1, system 10, irq 10, softirq 20; idle, iowait and stolen time are not work
    assert values["cpu_seconds"] == pytest.approx(1.41)


def test_what_zd_counts_is_there_where_the_kernel_has_it() -> None:
    before = _snapshot(zd={"refused": 5, "drops_ack": 1, "parked_now": 3, "longest_park_ns": 0})
    after = _snapshot(zd={"refused": 25, "drops_ack": 1, "parked_now": 0, "longest_park_ns": 2_500_000_000})
    patched = node_delta("a", before, after)
    stock = node_delta("b", _snapshot(), _snapshot())

    expected = {"zd_refused": 20, "zd_drops_ack": 0, "zd_longest_park_s": 2.5}
    assert {name: value for name, value in patched.values.items() if name.startswith("zd_")} == expected
    assert not [name for name in stock.values if name.startswith("zd_")]
    # Of several kernels that have it the sum, and the longest.
    other = NodeDelta(stock.values | {"zd_refused": 1, "zd_longest_park_s": 3.0})
    lab = trial_figures({"a": patched, "b": stock, "c": other}, {}, [], [], []).lab
    assert (lab["zd_refused"], lab["zd_drops_ack"], lab["zd_longest_park_s"]) == (21, 0, 3.0)
    assert "zd_refused" not in trial_figures({"b": stock}, {}, [], [], []).lab


@given(st.integers(2**31, 2**32 - 1), st.integers(0, 2**31 - 1))
def test_a_32_bit_counter_may_wrap_once(old: int, new: int) -> None:
    delta = node_delta("a", _snapshot((old, 0, 0), softnet=(old, 0)), _snapshot((new, 0, 0), softnet=(new, 0)))

    assert delta.values["qdisc_drops"] == (new - old) % 2**32
    assert delta.values["softnet_drops"] == (new - old) % 2**32


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (_snapshot((9, 0, 0)), _snapshot((8, 0, 0))),
        (_snapshot(packets=(2**31 - 1, 0, 0)), _snapshot(packets=(0, 0, 0))),
        (_snapshot(packets=(2**32, 0, 0)), _snapshot(packets=(0, 0, 0))),
        (_snapshot(softnet=(3, 0)), _snapshot(softnet=(2, 0))),
        (_snapshot(rx_dropped=2**32 - 1), _snapshot(rx_dropped=0)),
        (_snapshot(tcp={"RetransSegs": 2**32 - 1}), _snapshot()),
        (_snapshot(ext={"TCPTimeouts": 1}), _snapshot()),
        (_snapshot(zd={"refused": 2}), _snapshot(zd={"refused": 1})),
        (_snapshot(cpu=(9,) * 10), _snapshot()),
    ],
)
def test_a_counter_that_went_back_is_refused(before: dict[str, Any], after: dict[str, Any]) -> None:
    with pytest.raises(InfrastructureError, match=r"^a: .* went back from"):
        node_delta("a", before, after)


def test_a_qdisc_that_vanished_or_was_replaced_is_refused_and_a_new_one_counts_from_zero() -> None:
    full = _snapshot((5, 4, 0))
    fewer = copy.deepcopy(full)
    del fewer["qdiscs"][1]
    with pytest.raises(InfrastructureError, match="the qdisc 2: of eth0 vanished"):
        node_delta("a", full, fewer)

    moved = copy.deepcopy(full)
    moved["qdiscs"][0]["handle"] = 0x30000
    with pytest.raises(InfrastructureError, match="the qdisc 1: of eth0 vanished"):
        node_delta("a", full, moved)

    assert node_delta("a", fewer, full).qdisc_drops["eth0", 0x20000] == 4


def test_an_interface_or_cpu_that_vanished_is_refused() -> None:
    fewer = _snapshot()
    del fewer["devices"]["lo"]
    with pytest.raises(InfrastructureError, match="the interface lo vanished"):
        node_delta("a", _snapshot(), fewer)
    with pytest.raises(InfrastructureError, match="a CPU went offline"):
        node_delta("a", _snapshot(softnet=(0, 0)), _snapshot(softnet=(0,)))


def test_handles_are_written_as_tc_does() -> None:
    assert [handle_text(handle) for handle in (0x10000, 0xA0000, 0xFFFF0000)] == ["1:", "a:", "ffff:"]


_COUNTED = (
    *("qdisc_drops", "packets", "device_drops", "softnet_drops", "socket_drops"),
    *("retransmits", "segments_sent", "timeouts", "cpu_seconds"),
)


def _delta(**values: float) -> NodeDelta:
    counted = dict.fromkeys(_COUNTED, 0.0)
    lost = {"softnet": int(values["softnet_drops"])} if "softnet_drops" in values else {}
    return NodeDelta(counted | values, lost)


def _stream(size: int | None = 10**9, seconds: float = 8.0, ended_at: float = 10.0, **others: Any) -> TrafficFigures:
    rate = None if size is None else 8 * size / seconds
    fields: dict[str, Any] = {
        "tool": "tcp_stream",
        "seconds": seconds,
        "ended_at": ended_at,
        "counted": None,
        "bytes_delivered": size,
        "throughput_bps": rate,
        "transactions_per_second": None,
        "latency_mean_s": None,
        "latency_p50_s": None,
        "latency_p99_s": None,
        "jain_index": 1.0,
        "flows_without_data": 0,
        "longest_gap_s": None,
    }
    return TrafficFigures(**(fields | others))


def _rr(rate: float, p99: float | None) -> TrafficFigures:
    return _stream(
        500, tool="tcp_rr", throughput_bps=None, transactions_per_second=rate, latency_p99_s=p99, jain_index=0.1
    )


def test_a_labs_counts_are_the_sums_of_its_nodes() -> None:
    figures = trial_figures({"a": _delta(qdisc_drops=3, retransmits=1), "b": _delta(qdisc_drops=4)}, {}, [], [], [])

    assert (figures.lab["qdisc_drops"], figures.lab["retransmits"]) == (7, 1)
    assert (figures.nodes["a"]["qdisc_drops"], figures.nodes["b"]["qdisc_drops"]) == (3, 4)


def test_what_a_kernel_counts_for_all_its_namespaces_is_counted_once() -> None:
    deltas = {
        "a": _delta(softnet_drops=5, cpu_seconds=3.0),
        "m": _delta(softnet_drops=2, cpu_seconds=1.0),
        "b": _delta(softnet_drops=5, cpu_seconds=3.0),
    }
    mixed = trial_figures(deltas, {}, ["m", "a"], ["m"], [])
    hosts = trial_figures({name: deltas[name] for name in ("a", "b")}, {}, ["a"], ["a"], [])

    assert mixed.lab["softnet_drops"] == 7
    assert mixed.lost == {"m softnet": 2, "a softnet": 5}
    assert (mixed.lab["lost"], hosts.lab["lost"]) == (7, 5)
    assert mixed.nodes["m"]["lost"] == 2
    assert mixed.lab["cpu_seconds"] == 1.0
    assert (hosts.lab["softnet_drops"], hosts.lab["cpu_seconds"]) == (5, 3.0)


def test_the_longest_queue_is_the_longest_of_any_node() -> None:
    seen = {"a": {("eth0", 1): Peak(7, 90), ("eth1", 1): Peak(3, 200)}, "b": {("eth0", 1): Peak(9, 10)}}
    figures = trial_figures({"a": _delta(), "b": _delta(), "c": _delta()}, seen, [], [], [])

    assert (figures.lab["backlog_max_packets"], figures.lab["backlog_max_bytes"]) == (9, 200)
    assert (figures.nodes["a"]["backlog_max_packets"], figures.nodes["a"]["backlog_max_bytes"]) == (7, 200)
    assert figures.nodes["c"]["backlog_max_packets"] == 0


def test_one_workloads_throughput_is_its_own() -> None:
    assert trial_figures({}, {}, [], [], [_stream(10**9, seconds=8.0)]).lab["throughput_bps"] == 1e9


def test_several_workloads_deliver_together_over_the_time_they_took_together() -> None:
    late = _stream(10**9, seconds=1.0, ended_at=11.0)
    figures = trial_figures({}, {}, [], [], [_stream(10**9, seconds=9.0, ended_at=10.0, jain_index=0.5), late]).lab

    # from 1 s, when the first began, to 11 s, when the last ended
    assert figures["throughput_bps"] == pytest.approx(8 * 2e9 / 10)
    assert figures["bytes_delivered"] == 2e9
    assert figures["jain_index"] == 0.5


def test_what_ends_clients_late_is_not_counted_where_the_readers_share_a_clock() -> None:
    """The exchange of results over a crowded link."""
    one = _stream(10**9, seconds=8.0, ended_at=18.5, counted=Counted("b", 100.0, 108.0))
    other = _stream(10**9, seconds=8.0, ended_at=19.5, counted=Counted("b", 102.0, 110.0))
    elsewhere = _stream(10**9, seconds=8.0, ended_at=19.5, counted=Counted("c", 2.0, 10.0))

    assert trial_figures({}, {}, [], [], [one, other]).lab["throughput_bps"] == pytest.approx(8 * 2e9 / 10)
    assert trial_figures({}, {}, [], [], [one, elsewhere]).lab["throughput_bps"] == pytest.approx(8 * 2e9 / 9)


def test_fairness_between_workloads_needs_two_of_them() -> None:
    even = trial_figures({}, {}, [], [], [_stream(10), _stream(10), _rr(1, 1)]).lab
    uneven = trial_figures({}, {}, [], [], [_stream(30), _stream(10)]).lab

    assert even["jain_workloads"] == 1.0
    assert uneven["jain_workloads"] == pytest.approx(1600 / 2000)
    assert "jain_workloads" not in trial_figures({}, {}, [], [], [_stream(10), _rr(1, 1)]).lab


def test_requests_add_up_latencies_are_the_worst_and_fairness_is_of_bulk_alone() -> None:
    figures = trial_figures({}, {}, [], [], [_stream(), _rr(100, 0.01), _rr(50, 0.2), _rr(1, None)]).lab

    assert figures["transactions_per_second"] == 151
    assert figures["latency_p99_s"] == 0.2
    assert figures["jain_index"] == 1.0
    assert "latency_p50_s" not in figures


def test_figures_per_gigabyte_need_delivered_bytes() -> None:
    deltas = {"a": _delta(qdisc_drops=10, retransmits=4, cpu_seconds=1.0)}
    figures = trial_figures(deltas, {}, ["a"], ["a"], [_stream(2 * 10**9)]).lab

    assert figures["qdisc_drops_per_gb"] == 5
    assert figures["retransmits_per_gb"] == 2
    assert figures["cpu_seconds_per_gb"] == 0.5
    assert "qdisc_drops_per_gb" not in trial_figures(deltas, {}, [], [], [_stream(0)]).lab
    assert "bytes_delivered" not in trial_figures(deltas, {}, [], [], [_stream(), _stream(None)]).lab


def test_flows_without_data_add_up() -> None:
    assert trial_figures({}, {}, [], [], [_stream(flows_without_data=2), _rr(1, 1)]).lab["flows_without_data"] == 2


def test_the_longest_gap_is_that_of_any_workload_that_tells() -> None:
    told = [_stream(longest_gap_s=0.5), _stream(longest_gap_s=1.5), _stream(longest_gap_s=None)]

    assert trial_figures({}, {}, [], [], told).lab["longest_gap_s"] == 1.5
    assert "longest_gap_s" not in trial_figures({}, {}, [], [], [_stream()]).lab
