"""What the traffic tools print and write, from a run over loopback of 4 flows and 2 threads, and broken forms of it."""

from __future__ import annotations

import contextlib
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdlab.errors import TrafficError, UsageError
from zdlab.traffic.command import OutputFile, Side, Tool, TrafficSpec, assign_ports, traffic_commands
from zdlab.traffic.flows import FlowTable, parse_flow_summary, parse_samples
from zdlab.traffic.parse import parse_report, parse_values
from zdlab.traffic.result import Finished, traffic_result

GOLDEN = Path(__file__).parent / "golden"
PROGRAMS: dict[Side, PurePosixPath] = {"client": PurePosixPath("/c"), "server": PurePosixPath("/s")}


def _golden(name: str) -> str:
    return (GOLDEN / name).read_text(encoding="utf-8")


STREAM_SERVER = _golden("tcp_stream.server.txt")
RR_CLIENT = _golden("tcp_rr.client.txt")
FLOWS = _golden("tcp_stream.server.flows.csv")
SAMPLES = _golden("tcp_stream.server.samples.csv")


def _finished(tool: Tool, side: Side, kind: str = "flows") -> Finished:
    file = OutputFile(side, "flows" if kind == "flows" else "samples", f"/run/zdlab/{tool}.{side}.{kind}.csv")
    return Finished(0, _golden(f"{tool}.{side}.txt"), "", {file: _golden(f"{tool}.{side}.{kind}.csv")})


def test_the_report_of_a_stream_is_read() -> None:
    report = parse_report("tcp_stream", STREAM_SERVER)

    assert report.local_rate == 22677881727
    assert report.remote_rate == 0
    assert report.bytes_read == 1417625600
    assert (report.flows_connected, report.flows_without_data, report.flows_reset) == (4, 0, 0)
    assert (report.jain_index, report.longest_gap) == (0.973523, 0.007561)
    assert report.seconds == pytest.approx(0.500091, abs=1e-6)
    assert (report.latency, report.transactions, report.error) == (None, None, None)
    assert 8 * report.bytes_read / report.local_rate == pytest.approx(report.seconds, rel=1e-5)


def test_the_report_of_requests_is_read_with_its_latencies() -> None:
    report = parse_report("tcp_rr", RR_CLIENT)

    assert report.transactions == 62686
    assert report.latency is not None
    assert report.latency.percentiles == {50: 0.000031424, 90: 0.000042368, 99: 0.000056448, 99.9: 0.000094464}
    assert (report.latency.minimum, report.latency.mean, report.latency.maximum) == (
        0.000019018,
        0.000031868,
        0.001792129,
    )
    assert report.latency.minimum <= report.latency.mean <= report.latency.maximum


def test_a_report_of_nepers_own_says_less() -> None:
    report = parse_report("tcp_stream", "local_throughput=100\nremote_throughput=0\n")

    assert report.local_rate == 100
    assert (report.bytes_read, report.flows_connected, report.time_start, report.seconds) == (None, None, None, None)


def test_other_lines_are_passed_over_and_the_last_value_counts() -> None:
    assert parse_values("a=1\nnoise\n b=2\nc d=3\n=4\na=5 \nx.y[0]=6=7\n") == {"a": "5", "x.y[0]": "6=7"}


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("local_throughput=", "local_thruput=", "printed no result, its last lines"),
        ("local_throughput=22677881727", "local_throughput=", "is not a number"),
        ("local_throughput=22677881727", "local_throughput=fast", "is not a number"),
        ("local_throughput=22677881727", "local_throughput=nan", "is not a number"),
        ("local_throughput=22677881727", "local_throughput=1e999", "is not a number"),
        ("local_throughput=22677881727", "local_throughput=-1", "cannot be negative"),
        ("bytes_read=1417625600", "bytes_read=1.5", "is not a count"),
        ("bytes_read=1417625600", "bytes_read=-1", "is not a count"),
        ("bytes_read=1417625600", "bytes_read=٣", "is not a count"),
        ("bytes_read=1417625600", "bytes_read=" + "9" * 5000, "is not a count"),
        ("time_start=", "time_start=x", "is not a number"),
    ],
)
def test_a_broken_report_is_refused_with_the_line_at_fault(old: str, new: str, problem: str) -> None:
    assert old in STREAM_SERVER
    with pytest.raises(TrafficError, match=problem) as caught:
        parse_report("tcp_stream", STREAM_SERVER.replace(old, new))

    assert "tcp_stream" in str(caught.value)


def test_silence_is_refused() -> None:
    with pytest.raises(TrafficError, match="nothing at all"):
        parse_report("tcp_rr", "")


def test_latencies_come_all_together() -> None:
    with pytest.raises(TrafficError, match="without latency_min, latency_stddev"):
        parse_report("tcp_rr", RR_CLIENT.replace("latency_min=", "x=").replace("latency_stddev=", "y="))


def test_the_sums_of_flows_are_read_in_the_order_of_their_numbers() -> None:
    header, *rows = FLOWS.splitlines()
    shuffled = "\n".join([header, *reversed(rows)])
    table = parse_flow_summary(shuffled, amount="bytes_read")

    assert table.flow.tolist() == [0, 1, 2, 3]
    assert table.amount.tolist() == [326926336, 419217408, 272449536, 399032320]
    assert table.longest_gap is not None
    assert table.longest_gap.tolist() == [0.006482, 0.007561, 0.006544, 0.006894]
    assert int(table.amount.sum()) == parse_report("tcp_stream", STREAM_SERVER).bytes_read
    assert table.jain_index(4) == pytest.approx(0.973523, abs=1e-6)


def test_samples_give_the_same_amounts_as_the_sums() -> None:
    samples = parse_samples(SAMPLES, amount="bytes_read")
    sums = parse_flow_summary(FLOWS, amount="bytes_read")

    assert sorted(samples.amount.tolist()) == sorted(sums.amount.tolist())
    assert samples.longest_gap is None


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("flow_id,tid", "flow,tid", "no column flow_id"),
        ("bytes_read,", "", "no column bytes_read"),
        ("326926336", "-326926336", "negative count"),
        ("326926336", "much", "not a count"),
        ("326926336", "1.5", "not a count"),
        ("326926336", "9" * 30, "not a count"),
        ("0.006482", "long", "not a number"),
        ("326926336,0,", "326926336,", "line 2 of the sums of the flows has 10 values, not 11"),
        ("\n1,1,", "\n0,1,", "name a flow twice"),
        ("326926336", "326926336\r0", "not a table"),
        ("326926336", "9" * 200_000, "not a table"),
    ],
)
def test_broken_sums_of_flows_are_refused(old: str, new: str, problem: str) -> None:
    assert old in FLOWS
    with pytest.raises(TrafficError, match=problem):
        parse_flow_summary(FLOWS.replace(old, new, 1), amount="bytes_read")


def test_flows_without_a_row_moved_nothing() -> None:
    table = FlowTable(np.array([0, 1, 2]), np.array([5, 0, 5]))

    assert table.without_data(3) == 1
    assert table.without_data(10) == 8


@given(st.integers(1, 50), st.integers(1, 10**12))
def test_fairness_is_one_for_equal_shares_and_falls_to_one_of_n(flows: int, amount: int) -> None:
    equal = FlowTable(np.arange(flows), np.full(flows, amount))
    alone = FlowTable(np.arange(1), np.array([amount]))

    assert equal.jain_index(flows) == pytest.approx(1)
    assert alone.jain_index(flows) == pytest.approx(1 / flows)
    assert FlowTable(np.arange(flows), np.zeros(flows, dtype=np.int64)).jain_index(flows) == 0


def test_rates_are_amounts_over_time() -> None:
    assert FlowTable(np.arange(2), np.array([10, 30])).rates(0.5).tolist() == [20, 60]


def test_a_streams_result_is_what_the_server_read() -> None:
    spec = TrafficSpec("tcp_stream", "127.0.0.1", flows=4, threads=2, seconds=0.5)
    result = traffic_result(spec, client=_finished("tcp_stream", "client"), server=_finished("tcp_stream", "server"))

    assert (result.throughput_bps, result.bytes_delivered) == (22677881727, 1417625600)
    assert (result.transactions_per_second, result.latency) == (None, None)
    assert (result.flows, result.flows_connected, result.flows_without_data, result.flows_reset) == (4, 4, 0, 0)
    assert result.flow_rates.sum() == pytest.approx(result.throughput_bps, rel=1e-5)
    assert result.counted == (3798.149488121, 3798.649579132)


def test_a_stream_backwards_is_what_the_client_read() -> None:
    spec = TrafficSpec("tcp_stream", "127.0.0.1", flows=4, threads=2, seconds=0.5, extra=("-M",))
    # Both ends print the same keys: the server's files stand for a client that reads.
    result = traffic_result(spec, client=_finished("tcp_stream", "server"), server=_finished("tcp_stream", "client"))

    assert result.bytes_delivered == 1417625600


def test_requests_result_is_what_the_client_felt() -> None:
    spec = TrafficSpec("tcp_rr", "127.0.0.1", flows=4, threads=2, seconds=0.5)
    result = traffic_result(spec, client=_finished("tcp_rr", "client"), server=_finished("tcp_rr", "server"))

    assert (result.throughput_bps, result.transactions, result.transactions_per_second) == (None, 62686, 125293)
    assert result.latency is not None
    assert result.latency.percentiles[99] == 0.000056448
    assert result.jain_index == pytest.approx(0.993853, abs=1e-6)
    assert result.flow_rates.sum() == pytest.approx(125293, rel=1e-3)
    assert result.counted == (3798.656221353, 3799.156535657)


def test_samples_alone_serve_as_sums() -> None:
    spec = TrafficSpec("tcp_stream", "127.0.0.1", flows=5, threads=2, seconds=0.5)
    result = traffic_result(
        spec, client=_finished("tcp_stream", "client"), server=_finished("tcp_stream", "server", "samples")
    )

    assert result.flows_without_data == 1


@pytest.mark.parametrize(
    ("finished", "problem"),
    [
        (Finished(1, "", "x\nlost the server\n", {}), "ended with status 1: lost the server"),
        (Finished(-9, "", "", {}), "ended with signal 9: it said nothing"),
        (Finished(0, "", "", {}), "printed no result"),
        (Finished(0, STREAM_SERVER, "", {}), "left no file"),
    ],
)
def test_an_end_that_failed_is_told_in_the_tools_words(finished: Finished, problem: str) -> None:
    spec = TrafficSpec("tcp_stream", "127.0.0.1", flows=4)
    with pytest.raises(TrafficError, match=problem):
        traffic_result(spec, client=_finished("tcp_stream", "client"), server=finished)


@given(st.text() | st.text("abc=_.0123456789\n-").map(lambda text: f"local_throughput=1\n{text}"))
def test_no_text_of_a_tool_gives_anything_but_a_report_or_a_traffic_error(text: str) -> None:
    with contextlib.suppress(TrafficError):
        assert parse_report("tcp_rr", text).local_rate >= 0


_KEYS = ["latency_p", "latency_mean", "num_transactions", "bytes_read", "jain_index", "time_end", "latency_p99"]


@given(st.lists(st.tuples(st.sampled_from(_KEYS), st.text(max_size=12)), max_size=5))
def test_known_keys_with_any_value_give_a_report_or_a_traffic_error(lines: list[tuple[str, str]]) -> None:
    text = RR_CLIENT + "".join(f"{key}={value}\n" for key, value in lines)
    with contextlib.suppress(TrafficError):
        parse_report("tcp_rr", text)


@given(st.text() | st.text('0123456789,.-\n\r"e').map(lambda text: f"flow_id,tid,bytes_read,longest_gap\n{text}"))
def test_no_file_of_a_tool_gives_anything_but_a_table_or_a_traffic_error(text: str) -> None:
    with contextlib.suppress(TrafficError):
        parse_flow_summary(text, amount="bytes_read")
    with contextlib.suppress(TrafficError):
        assert parse_samples(text, amount="bytes_read").jain_index(10) <= 1 + 1e-9


def test_command_lines_are_nepers_with_our_flags_for_our_tools() -> None:
    spec = TrafficSpec(
        *("tcp_rr", "10.0.0.2"), flows=8, threads=2, seconds=1.5, request=1, response=2, seed=7, extra=("-D", "10ms")
    )
    common = "-F 8 -T 2 -l 1.5 -I 1 -C 12866 -P 12867 --nolog -Q 1 -R 2 -p 50,90,99,99.9"
    ours = "--connect-timeout=30 --control-timeout=30 --seed=7"
    both = traffic_commands(spec, programs=PROGRAMS, directory=PurePosixPath("/run"), name="w")

    assert " ".join(both.client.argv) == (
        f"/c/tcp_rr -c -H 10.0.0.2 {common} {ours} --flow-summary=/run/w.client.flows.csv -D 10ms"
    )
    assert " ".join(both.server.argv) == f"/s/tcp_rr {common} {ours} --flow-summary=/run/w.server.flows.csv -D 10ms"
    assert both.client.files == (OutputFile("client", "flows", "/run/w.client.flows.csv"),)


def test_nepers_programs_get_only_what_neper_has() -> None:
    spec = TrafficSpec("tcp_stream", "h", seconds=1.5, buffer=1000)
    both = traffic_commands(spec, programs=PROGRAMS, directory=PurePosixPath("/run"), name="w", origin="neper")

    assert " ".join(both.server.argv) == (
        "/s/tcp_stream -F 1 -T 1 -l 2 -I 1 -C 12866 -P 12867 --nolog -B 1000 --all-samples=/run/w.server.samples.csv"
    )


def test_many_flows_get_more_ports_and_addresses_share_them() -> None:
    assert TrafficSpec("tcp_stream", "h", flows=20_000).data_ports == 1
    assert TrafficSpec("tcp_stream", "h", flows=20_001).data_ports == 2
    assert TrafficSpec("tcp_stream", "h", flows=80_000, local_hosts=("a", "b")).data_ports == 2
    assert TrafficSpec("tcp_stream", "h", flows=80_000, num_ports=9).data_ports == 9


def test_a_run_is_given_up_only_after_everything_it_may_take() -> None:
    spec = TrafficSpec("tcp_stream", "h", seconds=10, connect_timeout=30, control_timeout=30)
    both = traffic_commands(spec, programs=PROGRAMS, directory=PurePosixPath("/run"), name="w")

    assert both.deadline > 10 + 30 + 30


@given(st.integers(1, 5000))
def test_workloads_at_once_have_ports_of_their_own(count: int) -> None:
    ports = assign_ports(count)

    assert len({port for pair in ports for port in pair}) == 2 * count
    assert all(12866 <= control < data <= 32767 for control, data in ports)


def test_more_workloads_than_ports_are_refused() -> None:
    with pytest.raises(UsageError, match="more than there are ports for"):
        assign_ports(20_000)
