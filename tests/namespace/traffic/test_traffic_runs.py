"""What a run that goes well delivers: real flows between two namespaces, from command line to result."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.conftest import await_that
from zdlab.traffic.command import TrafficSpec
from zdlab.traffic.flows import parse_flow_summary, parse_samples

if TYPE_CHECKING:
    from tests.namespace.traffic.conftest import NetPair, TrafficRun

SERVER = "10.77.0.2"


def shape(pair: NetPair, *qdisc: str) -> None:
    """Limit what the client can send."""
    pair.run("client", ["tc", "qdisc", "add", "dev", "veth0", "root", *qdisc])


@pytest.mark.parametrize("host", [SERVER, "fd77::2"])
def test_bulk_data_arrives_and_adds_up(traffic: TrafficRun, host: str) -> None:
    result = traffic.result(TrafficSpec("tcp_stream", host, flows=20, threads=2, seconds=0.5))

    assert result.flows_connected == 20
    assert result.flows_without_data == 0
    assert result.flows_reset == 0
    assert result.throughput_bps is not None
    assert result.bytes_delivered is not None
    # The same bytes, counted as a rate, as a total, and flow by flow.
    assert result.server.seconds is not None
    assert result.server.seconds == pytest.approx(0.5, rel=0.2)
    assert result.throughput_bps * result.server.seconds == pytest.approx(8 * result.bytes_delivered, rel=1e-3)
    assert result.flow_rates.sum() == pytest.approx(result.throughput_bps, rel=1e-3)
    # What one end measured, the other end was told.
    assert result.client.remote_rate == result.server.local_rate
    assert result.client.local_rate == 0
    assert 0 < result.jain_index <= 1
    # The sender cannot have sent less than arrived.
    assert int(result.client.values["bytes_written"]) >= result.bytes_delivered


@pytest.mark.parametrize("host", [SERVER, "fd77::2"])
def test_transactions_are_counted_and_timed_on_both_ends(traffic: TrafficRun, host: str) -> None:
    spec = TrafficSpec("tcp_rr", host, flows=5, threads=2, seconds=0.5, request=100, response=3000)

    result = traffic.result(spec)

    assert result.transactions
    assert result.transactions_per_second == pytest.approx(result.transactions / 0.5, rel=0.2)
    assert result.bytes_delivered is not None
    # Responses are 3,000 bytes; of one for each flow only a part may have come before the end.
    assert 0 <= result.bytes_delivered - 3000 * result.transactions <= 5 * 3000
    assert result.server.transactions is not None
    assert 0 <= result.server.transactions - result.transactions <= 5
    latency = result.latency
    assert latency is not None
    times = [latency.minimum, *latency.percentiles.values(), latency.maximum]
    assert times == sorted(times)
    assert list(latency.percentiles) == [50, 90, 99, 99.9]
    # Every flow has one transaction under way all the time.
    assert latency.mean * result.transactions == pytest.approx(5 * 0.5, rel=0.2)


def test_a_message_larger_than_all_buffers_passes_in_pieces(traffic: TrafficRun) -> None:
    spec = TrafficSpec("tcp_rr", SERVER, flows=2, seconds=0.5, request=9_000_000, response=7_000_000, buffer=10_000)

    result = traffic.result(spec)

    assert result.transactions
    assert result.bytes_delivered is not None
    assert result.bytes_delivered >= 7_000_000 * result.transactions


def test_two_thousand_flows_share_a_shaped_link(traffic: TrafficRun) -> None:
    shape(traffic.pair, "tbf", "rate", "100mbit", "burst", "64kb", "limit", "2mb")

    result = traffic.result(TrafficSpec("tcp_stream", SERVER, flows=2000, threads=4, seconds=2, buffer=1024))

    assert result.flows_connected == 2000
    assert result.throughput_bps is not None
    assert 40e6 < result.throughput_bps < 105e6
    assert len(result.flow_rates) == 2000


def test_more_than_ten_thousand_flows_in_one_process(traffic: TrafficRun) -> None:
    result = traffic.result(TrafficSpec("tcp_stream", SERVER, flows=12_000, threads=2, seconds=2, buffer=1024))

    assert result.flows_connected == 12_000
    assert len(result.flow_rates) == 12_000
    assert result.flows_without_data < 1_200


def test_a_run_ends_in_order_however_congested_the_path_is(traffic: TrafficRun) -> None:
    # Two thousand flows and the control connection through a link that gives each flow a packet every 5 s.
    shape(traffic.pair, "tbf", "rate", "5mbit", "burst", "10kb", "limit", "30kb")

    result = traffic.result(TrafficSpec("tcp_stream", SERVER, flows=2000, threads=4, seconds=2, buffer=1024))

    assert result.throughput_bps is not None
    assert result.throughput_bps < 5.5e6
    assert result.flows_without_data > 0
    assert result.jain_index < 0.9
    assert result.longest_gap == pytest.approx(2, rel=0.1)


def test_a_flow_that_cannot_connect_is_reported_and_holds_up_nobody(traffic: TrafficRun) -> None:
    # The server has no way back to one of the client's two addresses.
    traffic.pair.ip("client", "address", "add", "10.77.0.9/24", "dev", "veth0")
    traffic.pair.ip("server", "route", "add", "blackhole", "10.77.0.9/32")
    spec = TrafficSpec(
        "tcp_stream",
        SERVER,
        flows=10,
        seconds=0.5,
        local_hosts=("10.77.0.1", "10.77.0.9"),
        connect_timeout=0.3,
        samples=True,
    )

    finished = traffic.finish(spec, traffic.start(spec))

    (samples,) = (text for file, text in finished["server"].files.items() if file.kind == "samples")
    assert len(parse_samples(samples, amount="bytes_read").flow) == 5
    (flows,) = (text for file, text in finished["client"].files.items() if file.kind == "flows")
    written = parse_flow_summary(flows, amount="bytes_written").amount
    assert np.flatnonzero(written).tolist() == [0, 2, 4, 6, 8]
    assert "flows_connected=5\n" in finished["client"].stdout
    assert "flows_without_data=5\n" in finished["server"].stdout


def test_samples_are_cumulative_and_end_at_the_total(traffic: TrafficRun) -> None:
    spec = TrafficSpec("tcp_stream", SERVER, flows=4, threads=2, seconds=1, interval=0.1, samples=True)

    finished = traffic.finish(spec, traffic.start(spec))

    texts = {file.kind: text for file, text in finished["server"].files.items()}
    totals = parse_flow_summary(texts["flows"], amount="bytes_read")
    assert parse_samples(texts["samples"], amount="bytes_read").amount.sum() == totals.amount.sum()
    header, *rows = (line.split(",") for line in texts["samples"].splitlines())
    assert header[:4] == ["tid", "flow_id", "time", "bytes_read"]
    # Of each flow of a thread as many; on a busy computer either thread may miss ticks.
    assert len(rows) % 2 == 0
    assert 2 * 4 <= len(rows) <= 10 * 4
    times = [float(row[2]) for row in rows]
    assert times == sorted(times)
    for flow in range(4):
        course = [int(row[3]) for row in rows if int(row[1]) == flow]
        assert course == sorted(course)
        assert course[0] < course[-1] == totals.amount[flow]
    # A client that only writes has nothing to sample.
    assert {file.kind for file in finished["client"].files} == {"flows"}


def test_the_reading_end_closes_so_that_no_reset_meets_the_congestion(traffic: TrafficRun) -> None:
    shape(traffic.pair, "tbf", "rate", "20mbit", "burst", "10kb", "limit", "50kb")

    traffic.result(TrafficSpec("tcp_stream", SERVER, flows=300, threads=2, seconds=1))

    assert traffic.pair.tcp_counter("client", "OutRsts") == 0
    assert traffic.pair.tcp_counter("server", "OutRsts") >= 300
    assert not traffic.pair.connections("client")


def test_time_wait_closes_without_resets(traffic: TrafficRun) -> None:
    spec = TrafficSpec("tcp_rr", SERVER, flows=50, seconds=0.3, extra=("--time-wait",))
    processes = {"server": traffic.pair.start("server", traffic.commands(spec).server.argv)}
    stdout = processes["server"].stdout
    assert stdout is not None
    while not stdout.readline().startswith("listening="):
        pass
    traffic.pair.run("client", traffic.commands(spec).client.argv)

    assert traffic.pair.tcp_counter("client", "OutRsts") == 0
    assert traffic.pair.tcp_counter("server", "OutRsts") == 0

    def in_time_wait() -> int:
        return len(traffic.pair.run("client", ["ss", "-Htn", "state", "time-wait"]).splitlines())

    # Each is there as soon as the server has closed its end, too, which it may do after the client has ended.
    await_that(lambda: in_time_wait() >= 50, lambda: f"{in_time_wait()} connections in TIME-WAIT")


def test_the_client_waits_for_a_server_that_starts_later(traffic: TrafficRun) -> None:
    spec = TrafficSpec("tcp_stream", SERVER, seconds=0.2)
    commands = traffic.commands(spec)
    client = traffic.pair.start("client", commands.client.argv)
    time.sleep(1)
    server = traffic.pair.start("server", commands.server.argv)

    finished = traffic.finish(spec, {"client": client, "server": server})

    assert (finished["client"].returncode, finished["server"].returncode) == (0, 0)


def test_flows_spread_over_ports_and_addresses(traffic: TrafficRun) -> None:
    traffic.pair.ip("client", "address", "add", "10.77.0.9/24", "dev", "veth0")
    spec = TrafficSpec("tcp_stream", SERVER, flows=12, seconds=3, num_ports=3, local_hosts=("10.77.0.1", "10.77.0.9"))
    traffic.start(spec)
    seen: set[tuple[str, str]] = set()
    deadline = time.monotonic() + 30
    while len(seen) < 13 and time.monotonic() < deadline:
        seen = traffic.pair.connections("server")

    lines = traffic.pair.run("server", ["ss", "-Htn", "state", "established"]).splitlines()
    ends = [(line.split()[-2].rpartition(":")[2], line.split()[-1].rpartition(":")[0]) for line in lines]
    pairs = [(port, host.removeprefix("[::ffff:").rstrip("]")) for port, host in ends if port != "12866"]
    assert sorted(set(pairs)) == [
        (port, host) for port in ("12867", "12868", "12869") for host in ("10.77.0.1", "10.77.0.9")
    ]
    assert len(pairs) == 12


def test_source_ports_follow_one_another(traffic: TrafficRun) -> None:
    spec = TrafficSpec("tcp_stream", SERVER, flows=5, seconds=3, extra=("--source-port=21000",))
    traffic.start(TrafficSpec("tcp_stream", SERVER, flows=5, seconds=3))["client"].kill()
    traffic.pair.start("client", traffic.commands(spec).client.argv)
    ports: set[int] = set()
    deadline = time.monotonic() + 30
    while len(ports) < 6 and time.monotonic() < deadline:
        ports = {int(far.rpartition(":")[2]) for _, far in traffic.pair.connections("server")}

    assert set(range(21000, 21005)) < ports


def test_pacing_limits_each_flow(traffic: TrafficRun) -> None:
    spec = TrafficSpec("tcp_stream", SERVER, flows=4, seconds=1, extra=("-m", "2mbit"))

    result = traffic.result(spec)

    assert result.throughput_bps is not None
    assert 2e6 < result.throughput_bps < 12e6


def test_a_pause_shows_as_the_longest_gap(traffic: TrafficRun) -> None:
    result = traffic.result(TrafficSpec("tcp_rr", SERVER, flows=3, seconds=1, extra=("-D", "300ms")))

    assert result.transactions in range(9, 13)
    assert result.longest_gap is not None
    assert 0.3 <= result.longest_gap < 0.9


def scramble(seed: int, index: int) -> int:
    """The splitmix64 generator, written down a second time."""
    mask = (1 << 64) - 1
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_seed_decides_when_each_flow_starts(traffic: TrafficRun, seed: int) -> None:
    extra = ("--start-jitter=0.9", "--delay=5s")
    spec = TrafficSpec("tcp_rr", SERVER, flows=6, seconds=1.5, seed=seed, extra=extra)

    finished = traffic.finish(spec, traffic.start(spec))

    (text,) = finished["client"].files.values()
    header, *rows = (line.split(",") for line in text.splitlines())
    started = [float(row[header.index("first_progress")]) for row in rows]
    planned = [(scramble(seed, flow) >> 11) / 2**53 * 0.9 for flow in range(6)]
    assert np.argsort(started).tolist() == np.argsort(planned).tolist()
    assert all(late > plan for late, plan in zip(started, planned, strict=True))


@pytest.mark.parametrize(
    ("flags", "reading", "writing"),
    [(("-M",), "client", "server"), (("-r", "-w"), "client", "server"), (("-r", "-w"), "server", "client")],
)
def test_data_flows_in_the_wanted_directions(
    traffic: TrafficRun, flags: tuple[str, ...], reading: str, writing: str
) -> None:
    spec = TrafficSpec("tcp_stream", SERVER, flows=3, seconds=0.4, extra=flags)
    result = traffic.result(spec)
    reports = {"client": result.client, "server": result.server}

    read, rate = reports[reading].bytes_read, reports[reading].local_rate
    assert read
    assert rate
    assert int(reports[writing].values["bytes_written"]) >= read
    assert rate == reports[writing].remote_rate


def test_a_stranger_at_the_control_port_disturbs_nobody(traffic: TrafficRun, tmp_path: Path) -> None:
    spec = TrafficSpec("tcp_stream", SERVER, seconds=0.2)
    commands = traffic.commands(spec)
    server = traffic.pair.start("server", commands.server.argv)
    stdout = server.stdout
    assert stdout is not None
    while not stdout.readline().startswith("listening="):
        pass
    stranger = "import socket; socket.create_connection(('10.77.0.2', 12866)).sendall(b'GET / HTTP/1.0\\n\\n')"
    traffic.pair.run("client", ["python3", "-c", stranger])
    client = traffic.pair.start("client", commands.client.argv)

    finished = traffic.finish(spec, {"client": client, "server": server})

    assert (finished["client"].returncode, finished["server"].returncode) == (0, 0)
