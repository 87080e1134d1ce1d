"""Reading what the traffic tools print: ``key=value`` lines, neper's and our own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from zdlab.errors import TrafficError
from zdlab.traffic.command import Tool

_LATENCY_PREFIX = "latency_p"
_COUNT_DIGITS = 20
"""Of the largest 64-bit number."""


@dataclass(frozen=True)
class Latency:
    """How long a request and its response took, in seconds.

    :param percentiles: by percent, as far as they were asked for.
    """

    minimum: float
    mean: float
    maximum: float
    stddev: float
    percentiles: Mapping[float, float]


@dataclass(frozen=True)
class TrafficReport:
    """What one end of a run printed. What it did not print is ``None``; neper prints less than our tool.

    :param tool: which tool it was.
    :param local_rate: what this end measured: bit/s read, or for ``tcp_rr`` transactions per second.
    :param remote_rate: what the other end measured.
    :param time_start: when data began to move, in seconds of the node's monotonic clock.
    :param time_end: when counting ended, likewise.
    :param transactions: request and response pairs, of ``tcp_rr``.
    :param latency: of ``tcp_rr``'s client, when there was at least one transaction.
    :param bytes_read: by this end.
    :param flows_connected: flows that ever connected.
    :param flows_without_data: flows that moved nothing, among them those that never connected.
    :param flows_reset: flows that broke before the end.
    :param jain_index: fairness between flows, 1 for equal shares.
    :param longest_gap: seconds without progress of the flow that stood still longest.
    :param error: why the run failed, in the tool's words.
    :param values: all the lines.
    """

    tool: Tool
    local_rate: float
    remote_rate: float | None
    time_start: float | None
    time_end: float | None
    transactions: int | None
    latency: Latency | None
    bytes_read: int | None
    flows_connected: int | None
    flows_without_data: int | None
    flows_reset: int | None
    jain_index: float | None
    longest_gap: float | None
    error: str | None
    values: Mapping[str, str]

    @property
    def seconds(self) -> float | None:
        """How long this end counted; ``None`` when it does not say, or hardly at all."""
        if self.time_start is None or self.time_end is None or self.time_end <= self.time_start:
            return None
        return self.time_end - self.time_start


def parse_values(text: str) -> dict[str, str]:
    """Return the ``key=value`` lines of ``text``; other lines are passed over, a key's last value counts."""
    values = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and key and all(c.isalnum() or c in "_.[]" for c in key):
            values[key] = value.strip()
    return values


def parse_report(tool: Tool, text: str) -> TrafficReport:
    """Read the standard output of one end of a run.

    :raises TrafficError: when it holds no result, or a value is not what it must be.
    """
    values = parse_values(text)
    if "local_throughput" not in values:
        last = text.strip().splitlines()[-3:]
        raise TrafficError(
            f"{tool} printed no result" + (", its last lines: " + " | ".join(last) if last else ", nothing at all"),
            hint="see its standard error; another program of that name may have run",
        )
    read = _Reader(tool, values)
    return TrafficReport(
        tool=tool,
        local_rate=read.number("local_throughput"),
        remote_rate=read.optional("remote_throughput"),
        time_start=read.optional("time_start"),
        time_end=read.optional("time_end"),
        transactions=read.optional_count("num_transactions"),
        latency=_latency(read, values),
        bytes_read=read.optional_count("bytes_read"),
        flows_connected=read.optional_count("flows_connected"),
        flows_without_data=read.optional_count("flows_without_data"),
        flows_reset=read.optional_count("flows_reset"),
        jain_index=read.optional("jain_index"),
        longest_gap=read.optional("longest_gap"),
        error=values.get("error"),
        values=values,
    )


class _Reader:
    """Values as numbers, with an error that names tool, key and text."""

    def __init__(self, tool: Tool, values: Mapping[str, str]) -> None:
        self._tool = tool
        self._values = values

    def number(self, key: str) -> float:
        text = self._values[key]
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise TrafficError(f"{self._tool} printed {key}={text}, which is not a number")
        if number < 0:
            raise TrafficError(f"{self._tool} printed {key}={text}, which cannot be negative")
        return number

    def optional(self, key: str) -> float | None:
        return self.number(key) if key in self._values else None

    def optional_count(self, key: str) -> int | None:
        if key not in self._values:
            return None
        text = self._values[key]
        if not (text.isascii() and text.isdigit() and len(text) <= _COUNT_DIGITS):
            raise TrafficError(f"{self._tool} printed {key}={text}, which is not a count")
        return int(text)


def _latency(read: _Reader, values: Mapping[str, str]) -> Latency | None:
    keys = ("latency_min", "latency_mean", "latency_max", "latency_stddev")
    if "latency_mean" not in values:
        return None
    missing = [key for key in keys if key not in values]
    if missing:
        raise TrafficError(f"the traffic tool printed latencies without {', '.join(missing)}")
    percentiles = {}
    for key in values:
        if key.startswith(_LATENCY_PREFIX):
            try:
                percent = float(key.removeprefix(_LATENCY_PREFIX))
            except ValueError:
                continue
            percentiles[percent] = read.number(key)
    minimum, mean, maximum, stddev = (read.number(key) for key in keys)
    return Latency(minimum, mean, maximum, stddev, dict(sorted(percentiles.items())))
