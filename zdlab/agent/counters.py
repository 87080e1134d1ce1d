"""One snapshot of everything a node counts.

The same fields in a guest and in a namespace. Some files are the whole kernel's and not a namespace's
(``softnet_stat``, ``/proc/stat``): in a namespace they count what all nodes on that kernel did.
"""

from __future__ import annotations

import os
import socket
import time

from zdlab.agent.netlink import QdiscReader

QDISC_FIELDS = (
    "ifindex", "handle", "parent", "bytes", "packets", "drops", "overlimits", "requeues", "qlen", "backlog", "kind",
)  # fmt: skip


def read_text(path: str) -> str:
    """Return a file's text, empty when it is not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        parts = []
        while part := os.read(descriptor, 1 << 16):
            parts.append(part)
        return b"".join(parts).decode("ascii", "replace")
    finally:
        os.close(descriptor)


def paired_lines(text: str) -> dict[str, dict[str, int]]:
    """Read the form of ``/proc/net/snmp`` and ``netstat``: a line of names, then a line of values."""
    result: dict[str, dict[str, int]] = {}
    lines = text.splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        group, _, keys = names.partition(":")
        numbers = values.partition(":")[2].split()
        result[group] = {key: int(number) for key, number in zip(keys.split(), numbers, strict=False)}
    return result


def named_numbers(text: str) -> dict[str, int]:
    """Read lines of a name and a number, like ``/proc/net/snmp6``."""
    result = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[1].isdecimal():
            result[words[0].rstrip(":")] = int(words[1])
    return result


def devices(text: str) -> dict[str, dict[str, int]]:
    """Read ``/proc/net/dev``."""
    names = (
        "rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "rx_fifo", "rx_frame", "rx_compressed", "multicast",
        "tx_bytes", "tx_packets", "tx_errors", "tx_dropped", "tx_fifo", "collisions", "tx_carrier", "tx_compressed",
    )  # fmt: skip
    result = {}
    for line in text.splitlines()[2:]:
        interface, _, values = line.partition(":")
        result[interface.strip()] = dict(zip(names, map(int, values.split()), strict=False))
    return result


def softnet(text: str) -> list[dict[str, int]]:
    """Read ``/proc/net/softnet_stat``: one line a CPU, hexadecimal."""
    rows = []
    for line in text.splitlines():
        words = [int(word, 16) for word in line.split()]
        rows.append({"processed": words[0], "dropped": words[1], "time_squeeze": words[2]})
    return rows


def cpu_ticks(text: str) -> dict[str, list[int]]:
    """Read the ``cpu`` lines of ``/proc/stat``, in ticks of ``USER_HZ``."""
    result = {}
    for line in text.splitlines():
        if not line.startswith("cpu"):
            break
        words = line.split()
        result[words[0]] = [int(word) for word in words[1:]]
    return result


def qdiscs(reader: QdiscReader) -> list[dict[str, object]]:
    """Return the statistics of every qdisc, with interface names."""
    names = dict(socket.if_nameindex())
    rows = []
    for row in reader.read():
        entry: dict[str, object] = dict(zip(QDISC_FIELDS, row, strict=True))
        entry["interface"] = names.get(row[0], "")
        rows.append(entry)
    return rows


def snapshot(reader: QdiscReader) -> dict[str, object]:
    """Return all counters of the node."""
    return {
        "monotonic_ns": time.monotonic_ns(),
        "snmp": paired_lines(read_text("/proc/net/snmp")),
        "netstat": paired_lines(read_text("/proc/net/netstat")),
        "snmp6": named_numbers(read_text("/proc/net/snmp6")),
        "devices": devices(read_text("/proc/net/dev")),
        "softnet": softnet(read_text("/proc/net/softnet_stat")),
        "cpu": cpu_ticks(read_text("/proc/stat")),
        "cpu_hz": os.sysconf("SC_CLK_TCK"),
        "sockstat": read_text("/proc/net/sockstat"),
        "memory": named_numbers(read_text("/proc/meminfo")),
        "zd": named_numbers(read_text("/proc/net/zd")),
        "qdiscs": qdiscs(reader),
    }
