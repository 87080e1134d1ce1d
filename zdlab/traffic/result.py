"""From what both ends of a run printed and wrote to one result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zdlab.errors import TrafficError
from zdlab.traffic.command import OutputFile, Side, Tool, TrafficSpec
from zdlab.traffic.flows import FlowTable, Numbers, parse_flow_summary, parse_samples
from zdlab.traffic.parse import Latency, TrafficReport, parse_report


@dataclass(frozen=True)
class Finished:
    """One end of a run that has ended.

    :param returncode: its exit status; negative for a signal, as subprocess has it.
    :param stdout: all of its standard output.
    :param stderr: all of its standard error.
    :param files: the content of the files it wrote.
    """

    returncode: int
    stdout: str
    stderr: str
    files: Mapping[OutputFile, str]


@dataclass(frozen=True)
class TrafficResult:
    """What a run delivered.

    :param throughput_bps: bit/s that arrived; ``None`` for ``tcp_rr``.
    :param transactions_per_second: ``None`` for ``tcp_stream``.
    :param transactions: ``None`` for ``tcp_stream``.
    :param latency: of ``tcp_rr``; ``None`` when no transaction was completed.
    :param bytes_delivered: bytes that arrived; ``None`` where the tool does not say (neper's).
    :param flows: how many there were to be.
    :param flows_connected: ``None`` where the tool does not say (neper's).
    :param flows_without_data: flows by which nothing arrived.
    :param flows_reset: flows that broke before the end; ``None`` where the tool does not say (neper's).
    :param jain_index: fairness of what arrived by each flow.
    :param longest_gap: seconds of the longest standstill of any flow; ``None`` where the tool does not say.
    :param flow_rates: what each flow delivered, bit/s or transactions per second; from neper without those
        flows that delivered nothing.
    :param reader: the end where the data arrives, or of ``tcp_rr`` the one that waits for responses.
    :param client: what the client printed.
    :param server: what the server printed.
    """

    throughput_bps: float | None
    transactions_per_second: float | None
    transactions: int | None
    latency: Latency | None
    bytes_delivered: int | None
    flows: int
    flows_connected: int | None
    flows_without_data: int
    flows_reset: int | None
    jain_index: float
    longest_gap: float | None
    flow_rates: Numbers
    reader: Side
    client: TrafficReport
    server: TrafficReport

    @property
    def counted(self) -> tuple[float, float] | None:
        """When the reading end counted, on its node's monotonic clock; ``None`` where the tool does not say."""
        report = self.client if self.reader == "client" else self.server
        if report.seconds is None or report.time_start is None or report.time_end is None:
            return None
        return report.time_start, report.time_end


def check_ended_well(tool: Tool, side: Side, finished: Finished) -> None:
    """Raise when one end of a run failed.

    :raises TrafficError: with the tool's own words.
    """
    if finished.returncode == 0:
        return
    lines = [line for line in finished.stderr.strip().splitlines() if line.strip()]
    said = lines[-1] if lines else "it said nothing"
    how = f"signal {-finished.returncode}" if finished.returncode < 0 else f"status {finished.returncode}"
    raise TrafficError(f"the {side} of {tool} ended with {how}: {said}")


def _reading_side(spec: TrafficSpec) -> Side:
    """Which end's figures count: where the data arrives, or where the latency is felt."""
    backwards = "-M" in spec.extra or "--enable-tcp-maerts" in spec.extra
    return "client" if spec.tool == "tcp_rr" or backwards else "server"


def _flow_table(tool: Tool, files: Mapping[OutputFile, str]) -> FlowTable:
    """Return what is known of each flow of the reading end.

    :raises TrafficError: when none of its files says, or one is unreadable.
    """
    amount = "transactions" if tool == "tcp_rr" else "bytes_read"
    for wanted, parse in (("flows", parse_flow_summary), ("samples", parse_samples)):
        for file, text in files.items():
            if file.kind == wanted:
                return parse(text, amount=amount)
    raise TrafficError(f"{tool} left no file that says what each flow did")


def _sum_of_known(*values: int | None) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def traffic_result(spec: TrafficSpec, *, client: Finished, server: Finished) -> TrafficResult:
    """Put together what both ends of a run say.

    :raises TrafficError: when an end failed, or what it left is unreadable.
    """
    check_ended_well(spec.tool, "client", client)
    check_ended_well(spec.tool, "server", server)
    reports: dict[Side, TrafficReport] = {
        "client": parse_report(spec.tool, client.stdout),
        "server": parse_report(spec.tool, server.stdout),
    }
    reader = _reading_side(spec)
    report = reports[reader]
    table = _flow_table(spec.tool, (client if reader == "client" else server).files)
    rr = spec.tool == "tcp_rr"
    return TrafficResult(
        throughput_bps=None if rr else report.local_rate,
        transactions_per_second=report.local_rate if rr else None,
        transactions=report.transactions if rr else None,
        latency=reports["client"].latency,
        bytes_delivered=report.bytes_read,
        flows=spec.flows,
        flows_connected=reports["client"].flows_connected,
        flows_without_data=table.without_data(spec.flows),
        flows_reset=_sum_of_known(reports["client"].flows_reset, reports["server"].flows_reset),
        jain_index=table.jain_index(spec.flows),
        longest_gap=report.longest_gap,
        flow_rates=table.rates(report.seconds or spec.seconds) * (1 if rr else 8),
        reader=reader,
        client=reports["client"],
        server=reports["server"],
    )
