"""What each flow of a run did: from our tool's line for each flow, or from the samples of either tool."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zdlab.errors import TrafficError

Counts = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]


def jain_index(amounts: npt.ArrayLike, sharers: int) -> float:
    """Jain's fairness index: 1 for equal shares, 1/n when one of n has all, 0 when nothing was shared.

    R. Jain, D. Chiu, W. Hawe, "A Quantitative Measure of Fairness", DEC-TR-301, 1984.

    :param amounts: what each had; who is missing had nothing.
    :param sharers: how many there are.
    """
    shares = np.asarray(amounts, dtype=np.float64)
    squares = float(np.square(shares).sum())
    return float(shares.sum()) ** 2 / (sharers * squares) if squares else 0.0


@dataclass(frozen=True)
class FlowTable:
    """One row for each flow that is known, in ascending order of the flows' numbers.

    :param flow: the flow's number.
    :param amount: what it moved: bytes, or for ``tcp_rr`` transactions.
    :param longest_gap: seconds of its longest standstill; ``None`` where only samples are known.
    """

    flow: Counts
    amount: Counts
    longest_gap: Numbers | None = None

    def without_data(self, flows: int) -> int:
        """How many of ``flows`` flows moved nothing; a flow without a row did not."""
        return flows - int(np.count_nonzero(self.amount))

    def jain_index(self, flows: int) -> float:
        """Jain's fairness index over ``flows`` flows: 1 for equal shares, 0 when none moved anything."""
        return jain_index(self.amount, flows)

    def rates(self, seconds: float) -> Numbers:
        """What each flow moved per second, in the table's order."""
        return self.amount / seconds


def _read(text: str, wanted: Sequence[str], what: str) -> dict[str, list[str]]:
    """Return the columns ``wanted`` of a CSV text with a header."""
    try:
        return _columns(text, wanted, what)
    except csv.Error as error:
        raise TrafficError(f"the {what} are not a table: {error}") from error


def _columns(text: str, wanted: Sequence[str], what: str) -> dict[str, list[str]]:
    rows = csv.reader(io.StringIO(text))
    header = next(rows, [])
    missing = [name for name in wanted if name not in header]
    if missing:
        raise TrafficError(f"the {what} have no column {' and no '.join(missing)}; their header is {header}")
    places = [header.index(name) for name in wanted]
    columns: dict[str, list[str]] = {name: [] for name in wanted}
    for row in rows:
        if len(row) != len(header):
            raise TrafficError(f"line {rows.line_num} of the {what} has {len(row)} values, not {len(header)}")
        for name, place in zip(wanted, places, strict=True):
            columns[name].append(row[place])
    return columns


def _counts(values: list[str], what: str) -> Counts:
    try:
        array = np.array(values, dtype=np.int64) if values else np.empty(0, dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise TrafficError(f"the {what} hold something that is not a count: {error}") from error
    if np.any(array < 0):
        raise TrafficError(f"the {what} hold a negative count")
    return array


def parse_flow_summary(text: str, *, amount: str) -> FlowTable:
    """Read the file of ``--flow-summary``.

    :param amount: the column of what a flow moved: ``bytes_read``, ``bytes_written``, ``transactions``.
    :raises TrafficError: when it is unreadable.
    """
    what = "sums of the flows"
    columns = _read(text, ("flow_id", amount, "longest_gap"), what)
    try:
        gaps = np.array(columns["longest_gap"], dtype=np.float64)
    except ValueError as error:
        raise TrafficError(f"the {what} hold a gap that is not a number: {error}") from error
    flow = _counts(columns["flow_id"], what)
    if np.unique(flow).size != flow.size:
        raise TrafficError(f"the {what} name a flow twice")
    order = np.argsort(flow)
    return FlowTable(flow[order], _counts(columns[amount], what)[order], gaps[order])


def parse_samples(text: str, *, amount: str) -> FlowTable:
    """Read the file of ``--all-samples``, neper's or ours; amounts in it are cumulative.

    neper counts a thread's flows from 0 in some versions and all flows in others, so thread and flow together
    name a flow here; the table numbers them anew.

    :param amount: ``bytes_read``, or for ``tcp_rr`` ``transactions``.
    :raises TrafficError: when it is unreadable.
    """
    what = "samples"
    columns = _read(text, ("tid", "flow_id", amount), what)
    keys = np.stack([_counts(columns["tid"], what), _counts(columns["flow_id"], what)], axis=1)
    amounts = _counts(columns[amount], what)
    if not keys.size:
        return FlowTable(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    names, place = np.unique(keys, axis=0, return_inverse=True)
    last = np.zeros(len(names), dtype=np.int64)
    np.maximum.at(last, place.reshape(-1), amounts)
    return FlowTable(np.arange(len(names), dtype=np.int64), last)
