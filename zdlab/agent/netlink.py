"""Raw netlink for the agent: pass requests through, and read qdisc statistics quickly.

Requests come encoded from the lab, which also decodes the answers. Only the qdisc dump is decoded here, with a
handful of attributes: it is taken at every sample.
"""

from __future__ import annotations

import socket
import struct

NETLINK_ROUTE = 0
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_TCMSG = struct.Struct("=BBHiIII")  # struct tcmsg
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x2, 0x4, 0x300
RTM_GETQDISC = 38
TCA_KIND, TCA_STATS, TCA_STATS2 = 1, 3, 7
TCA_STATS_BASIC, TCA_STATS_QUEUE, TCA_STATS_PKT64 = 1, 3, 8

#: ifindex, handle, parent, bytes, packets, drops, overlimits, requeues, qlen, backlog, kind
QdiscRow = tuple[int, int, int, int, int, int, int, int, int, int, str]


def open_socket(protocol: int = NETLINK_ROUTE, timeout: float = 10.0) -> socket.socket:
    """Return a bound netlink socket of the caller's network namespace."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind((0, 0))
    sock.settimeout(timeout)
    return sock


def exchange(sock: socket.socket, request: bytes) -> bytes:
    """Send a batch of requests and return everything the kernel answers.

    Each request must ask for an acknowledgement or a dump. The batch ends when each sequence number was
    acknowledged, refused or dumped to its end.

    :raises OSError: on a broken batch or a timeout.
    """
    waiting = set()
    offset = 0
    while offset + _HEADER.size <= len(request):
        length, _, flags, sequence, _ = _HEADER.unpack_from(request, offset)
        if length < _HEADER.size or not flags & (NLM_F_ACK | NLM_F_DUMP):
            raise OSError("a netlink request asks for no answer")
        waiting.add(sequence)
        offset += (length + 3) & ~3
    sock.send(request)
    replies = []
    while waiting:
        data = sock.recv(1 << 20)
        replies.append(data)
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
            if length < _HEADER.size:
                raise OSError("a netlink answer is cut short")
            if kind in {NLMSG_ERROR, NLMSG_DONE}:
                waiting.discard(sequence)
            offset += (length + 3) & ~3
    return b"".join(replies)


def _attributes(data: bytes, start: int, end: int):  # type: ignore[no-untyped-def]
    while start + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < 4:
            return
        yield kind & 0x3FFF, start + 4, start + length
        start += (length + 3) & ~3


def _statistics(data: bytes, start: int, end: int) -> tuple[int, int, int, int, int, int, int]:
    size = packets = qlen = backlog = drops = requeues = overlimits = 0
    wide = None
    for kind, first, last in _attributes(data, start, end):
        if kind == TCA_STATS_BASIC:  # struct gnet_stats_basic
            size, packets = struct.unpack_from("=QI", data, first)
        elif kind == TCA_STATS_QUEUE:  # struct gnet_stats_queue
            qlen, backlog, drops, requeues, overlimits = struct.unpack_from("=5I", data, first)
        elif kind == TCA_STATS_PKT64 and last - first == 8:
            (wide,) = struct.unpack_from("=Q", data, first)
    return size, packets if wide is None else wide, drops, overlimits, requeues, qlen, backlog


def decode_qdiscs(data: bytes) -> list[QdiscRow]:
    """Return the rows of a qdisc dump."""
    rows = []
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            break
        if kind == RTM_GETQDISC - 2:  # RTM_NEWQDISC
            body = offset + _HEADER.size
            _, _, _, index, handle, parent, _ = _TCMSG.unpack_from(data, body)
            name = ""
            statistics = old = None
            for attribute, first, last in _attributes(data, body + _TCMSG.size, offset + length):
                if attribute == TCA_KIND:
                    name = data[first : last - 1].decode("ascii", "replace")
                elif attribute == TCA_STATS2:
                    statistics = _statistics(data, first, last)
                elif attribute == TCA_STATS:  # struct tc_stats, from kernels before 2.6.11's new form
                    old = struct.unpack_from("=QIIIIIII", data, first)
            if statistics is None and old is not None:
                statistics = (old[0], old[1], old[2], old[3], 0, old[6], old[7])
            if statistics is not None:
                rows.append((index, handle, parent, *statistics, name))
        offset += (length + 3) & ~3
    return rows


class QdiscReader:
    """Dumps the qdiscs of the namespace it was made in."""

    def __init__(self) -> None:
        self._socket = open_socket()
        self._sequence = 0

    def read(self) -> list[QdiscRow]:
        """Return one row for each qdisc of each interface."""
        self._sequence += 1
        request = _HEADER.pack(_HEADER.size + _TCMSG.size, RTM_GETQDISC, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, 0)
        return decode_qdiscs(exchange(self._socket, request + _TCMSG.pack(0, 0, 0, 0, 0, 0, 0)))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
