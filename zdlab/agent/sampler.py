"""Taking samples at a fixed interval, in a compact binary form.

A sample is a header (monotonic time in ns, RetransSegs, OutSegs, busy and all CPU ticks, number of rows) and one
row for each qdisc. The schedule is absolute: a late sample does not delay the next, and missed ones are counted.
"""

from __future__ import annotations

import socket
import struct
import time

from zdlab.agent.counters import read_text
from zdlab.agent.netlink import QdiscReader

SAMPLE = struct.Struct("=QQQQQH")
ROW = struct.Struct("=IIIQQIIIII")
#: Bytes kept at most; sampling stops there and says so.
LIMIT = 128 << 20


def _tcp_totals() -> tuple[int, int]:
    """Return RetransSegs and OutSegs of the namespace."""
    names: list[str] = []
    for line in read_text("/proc/net/snmp").splitlines():
        if line.startswith("Tcp:"):
            if not names:
                names = line.split()
            else:
                values = dict(zip(names, line.split(), strict=False))
                return int(values["RetransSegs"]), int(values["OutSegs"])
    return 0, 0


def _cpu_totals() -> tuple[int, int]:
    """Return busy and all ticks of all CPUs; idle and iowait are not busy, guest time is within user."""
    ticks = [int(word) for word in read_text("/proc/stat").partition("\n")[0].split()[1:9]]
    total = sum(ticks)
    return total - ticks[3] - ticks[4], total


class Sampler:
    """Collects samples until it is stopped."""

    def __init__(self, interval_ns: int) -> None:
        self._reader = QdiscReader()
        self._interval = interval_ns
        self.next_ns = time.monotonic_ns()
        self.samples = 0
        self.missed = 0
        self.truncated = False
        self.names: dict[int, str] = {}
        self.kinds: dict[tuple[int, int], str] = {}
        self._data = bytearray()

    def tick(self) -> None:
        """Take a sample and set :attr:`next_ns`."""
        now = time.monotonic_ns()
        if len(self._data) < LIMIT:
            self._take(now)
        else:
            self.truncated = True
        self.next_ns += self._interval
        behind = time.monotonic_ns() - self.next_ns
        if behind > 0:
            skipped = behind // self._interval + 1
            self.missed += skipped
            self.next_ns += skipped * self._interval

    def _take(self, now: int) -> None:
        rows = self._reader.read()
        retransmits, segments = _tcp_totals()
        busy, total = _cpu_totals()
        self._data += SAMPLE.pack(now, retransmits, segments, busy, total, len(rows))
        for row in rows:
            if row[0] not in self.names:
                self.names.update(socket.if_nameindex())
            self.kinds.setdefault((row[0], row[1]), row[10])
            self._data += ROW.pack(*row[:10])
        self.samples += 1

    def header(self) -> dict[str, object]:
        """Return what goes with the data: counts, interface names, qdisc kinds."""
        return {
            "samples": self.samples,
            "missed": self.missed,
            "truncated": self.truncated,
            "interval_ns": self._interval,
            "size": len(self._data),
            "interfaces": [[index, name] for index, name in self.names.items()],
            "kinds": [[index, handle, kind] for (index, handle), kind in self.kinds.items()],
        }

    def data(self, offset: int, length: int) -> bytes:
        """Return a piece of the data."""
        return bytes(self._data[offset : offset + length])

    def close(self) -> None:
        """Release the socket; the data stays."""
        self._reader.close()
