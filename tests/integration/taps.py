"""Taps that send all they can, or at a rate, each from a process of its own, as QEMU does without vhost.

``taps.py SECONDS NAME:SIZE[:RATE[:MODE]]...`` attaches to taps (``vnet_hdr``, and ``multi_queue`` where one is named
twice) and writes frames of SIZE bytes without ever blocking: after EAGAIN it polls until the tap can be written
to. A SIZE above 1514 is a GSO packet of segments of 1514. RATE is in bytes a second, 0 (the default) for all there is
room for. MODE is one of:

- ``block``: block instead.
- ``edge``: do not ask whether the tap can be written to, wait to be told that it can be again (``EPOLLET``).
- ``detach``: detach the queue and attach it again all the time.
- ``sndbuf=BYTES``: set the send buffer.
- ``vhost``: send through vhost-net, from a ring as a virtual machine has it.
- ``reset``: do so, and take the tap away from vhost-net and give it back all the time.

After SECONDS, or a SIGTERM where the count does not matter, each ends with a line of JSON: what was ``sent``,
and its ``share``, the bytes between the time when all have begun and the queue is full, and then: what is in a ring is
still waited for, and who comes first finds an empty queue and a burst's worth of tokens. A tap that is deleted
meanwhile is ``gone``, one that takes nothing for long is ``stuck``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable

TUNSETIFF = 0x400454CA
TUNSETSNDBUF, TUNSETQUEUE = 0x400454D4, 0x400454D9
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x4000, 0x0100
TUNSETVNETHDRSZ = 0x400454D8
IFF_ATTACH_QUEUE, IFF_DETACH_QUEUE = 0x0200, 0x0400
VHOST_SET_OWNER, VHOST_SET_FEATURES, VHOST_SET_MEM_TABLE = 0xAF01, 0x4008AF00, 0x4008AF03
VHOST_SET_VRING_NUM, VHOST_SET_VRING_ADDR, VHOST_SET_VRING_BASE = 0x4008AF10, 0x4028AF11, 0x4008AF12
VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL, VHOST_NET_SET_BACKEND = 0x4008AF20, 0x4008AF21, 0x4008AF30
VIRTIO_F_VERSION_1 = 1 << 32
#: To whom all frames go: nobody is known to have it, so that a bridge floods where it may.
TO = bytes.fromhex("02aabbccddee")
MSS = 1460
HEADERS = 54
#: Seconds after which a tap that cannot be written to is stuck: one that nobody wakes stays so, a turn that comes late
#: on a busy computer comes.
PATIENCE = 20.0
#: Part of the time that is over before shares are counted.
FILLING = 0.2


def attach(name: str, *, multi: bool) -> int:
    """Open a queue of a tap."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if multi else 0)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    return tap


def frame(number: int, size: int) -> bytes:
    """Return a frame of TCP, a GSO packet if it is larger than a frame can be, with its virtio-net header."""
    gso = size > MSS + HEADERS
    header = struct.pack("<BBHHHH", 1, 1, HEADERS, MSS, 34, 16) if gso else bytes(10)
    ethernet = TO + bytes([2, 0, 0, 0, 0, number + 1]) + b"\x08\x00"
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, size - 14, 0, 0x4000, 64, 6, 0, b"\x0a\x09\0\1", b"\x0a\x09\0\2")
    tcp = struct.pack(">HHIIBBHHH", 1000 + number, 2000, 0, 0, 0x50, 0x10, 1000, 0, 0)
    return header + (ethernet + ip + tcp).ljust(size, b"\0")


def prepare(tap: int, mode: str) -> None:
    """Make a tap what its mode asks for, whatever it was before."""
    fcntl.ioctl(tap, TUNSETVNETHDRSZ, struct.pack("i", 10))
    if mode == "block":
        os.set_blocking(tap, True)
    elif mode.startswith("sndbuf="):
        fcntl.ioctl(tap, TUNSETSNDBUF, struct.pack("i", int(mode.removeprefix("sndbuf="))))


def flap(tap: int) -> None:
    """Detach a queue and attach it again."""
    for flag in (IFF_DETACH_QUEUE, IFF_ATTACH_QUEUE):
        fcntl.ioctl(tap, TUNSETQUEUE, struct.pack("16sH22x", b"", flag))


def asked(tap: int) -> Callable[[], bool]:
    """Return what waits until a tap can be written to, looking first whether it can."""
    poller = select.poll()
    poller.register(tap, select.POLLOUT)
    return lambda: bool(poller.poll(PATIENCE * 1000))


def told(tap: int) -> Callable[[], bool]:
    """Return what waits until it is told that a tap can be written to again."""
    edges = select.epoll()
    edges.register(tap, select.EPOLLOUT | select.EPOLLET)
    # It can be written to now.
    edges.poll(0)
    return lambda: bool(edges.poll(PATIENCE))


def write(tap: int, number: int, size: int, rate: float, seconds: float, mode: str) -> dict[str, float]:
    """Write until the time is over."""
    data = frame(number, size)
    prepare(tap, mode)
    wait = told if mode == "edge" else asked
    ready = wait(tap)
    sent = early = refused = spurious = 0
    stuck = gone = polled = False
    begun = now = time.monotonic()
    last, longest = begun, 0.0

    # A function of its own: Python may raise what a signal's handler raises between the lines of a loop, at an
    # instruction that a `with` around the loop does not cover. What covers the call covers all of it.
    def go_on() -> None:
        nonlocal sent, early, refused, spurious, stuck, gone, polled, now, last, longest
        while now < begun + seconds:
            if rate and sent * size > rate * (now - begun):
                time.sleep(0.001)
                now = time.monotonic()
                last = now if not polled else last
                continue
            try:
                os.write(tap, data)
            except BlockingIOError:
                refused += 1
                # It was said to be writable, and nothing was written since.
                spurious += polled
                polled = True
                if mode == "detach":
                    flap(tap)
                elif not ready():
                    stuck = True
                    break
            except OSError as error:
                # Its device is gone, or down.
                gone = error.errno == errno.EBADFD
                if gone:
                    break
                time.sleep(0.01)
            else:
                sent += 1
                if now < begun + FILLING * seconds:
                    early = sent
                polled = False
                longest = max(longest, time.monotonic() - last)
                last = time.monotonic()
            now = time.monotonic()

    with contextlib.suppress(OverError):
        go_on()
    return {
        "sent": sent,
        "bytes": sent * size,
        "share": (sent - early) * size,
        "refused": refused,
        "spurious": spurious,
        "longest": longest,
        "stuck": stuck,
        "gone": gone,
        "seconds": now - begun,
    }


class OverError(Exception):
    """The time is over before it is."""


def over(_signal: int, _frame: object) -> None:
    """End what a writer is doing."""
    raise OverError


class Ring:
    """The transmit queue of a virtual machine, with the same packet in each of its buffers."""

    SLOTS = 256
    #: How much may be waiting: as a machine's own queues do, a ring bounds what it holds.
    MOST = 512 * 1024
    _AVAILABLE, _USED, _DATA, _ALL = 4096, 8192, 16384, 16384 + 131072

    def __init__(self, tap: int, data: bytes) -> None:
        fcntl.ioctl(tap, TUNSETVNETHDRSZ, struct.pack("i", 12))
        data = data[:10] + bytes(2) + data[10:]
        self._tap = tap
        self._slots = min(self.SLOTS, max(2, self.MOST // len(data)))
        memory = mmap.mmap(-1, self._ALL)
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        memory[self._DATA : self._DATA + len(data)] = data
        for slot in range(self.SLOTS):
            struct.pack_into("<QIHH", memory, slot * 16, self._DATA, len(data), 0, 0)
            struct.pack_into("<H", memory, self._AVAILABLE + 4 + 2 * slot, slot)
        # What both sides look at is written and read in one go, as a driver does: struct goes byte by byte, and where
        # vhost sees half of a number it takes the ring for broken and waits for the next kick.
        self._available = ctypes.c_uint16.from_buffer(memory, self._AVAILABLE + 2)
        self._used_flags = ctypes.c_uint16.from_buffer(memory, self._USED)
        self._used = ctypes.c_uint16.from_buffer(memory, self._USED + 2)
        self._given = 0
        self._kick, self.call = os.eventfd(0), os.eventfd(0, os.EFD_NONBLOCK)
        self._vhost = os.open("/dev/vhost-net", os.O_RDWR)
        fcntl.ioctl(self._vhost, VHOST_SET_OWNER)
        fcntl.ioctl(self._vhost, VHOST_SET_FEATURES, struct.pack("Q", VIRTIO_F_VERSION_1))
        fcntl.ioctl(self._vhost, VHOST_SET_MEM_TABLE, struct.pack("IIQQQQ", 1, 0, 0, self._ALL, base, 0))
        fcntl.ioctl(self._vhost, VHOST_SET_VRING_NUM, struct.pack("II", 1, self.SLOTS))
        fcntl.ioctl(self._vhost, VHOST_SET_VRING_BASE, struct.pack("II", 1, 0))
        addresses = (base, base + self._USED, base + self._AVAILABLE, 0)
        fcntl.ioctl(self._vhost, VHOST_SET_VRING_ADDR, struct.pack("IIQQQQ", 1, 0, *addresses))
        fcntl.ioctl(self._vhost, VHOST_SET_VRING_KICK, struct.pack("Ii", 1, self._kick))
        fcntl.ioctl(self._vhost, VHOST_SET_VRING_CALL, struct.pack("Ii", 1, self.call))
        self.connect(on=True)

    def connect(self, *, on: bool) -> None:
        """Give the tap to vhost, or take it away."""
        fcntl.ioctl(self._vhost, VHOST_NET_SET_BACKEND, struct.pack("Ii", 1, self._tap if on else -1))

    @property
    def taken(self) -> int:
        """How many buffers vhost has given back, modulo 65536."""
        return self._used.value

    @property
    def free(self) -> int:
        """How many buffers there are that vhost does not have."""
        return self._slots - ((self._given - self.taken) & 0xFFFF)

    def give(self, count: int) -> None:
        """Give buffers to vhost, and tell it unless it said that it looks by itself."""
        self._given = (self._given + count) & 0xFFFF
        self._available.value = self._given
        # What was written is seen by others before the next is read.
        time.sleep(0)
        if not self._used_flags.value & 1:
            os.eventfd_write(self._kick, 1)


def send(tap: int, number: int, size: int, rate: float, seconds: float, mode: str) -> dict[str, float]:
    """Send through vhost until the time is over."""
    ring = Ring(tap, frame(number, size))
    poller = select.poll()
    poller.register(ring.call, select.POLLIN)
    sent = taken = early = share = 0
    stuck = False
    begun = now = last = time.monotonic()
    longest, reset = 0.0, begun
    while now < begun + seconds or sent != taken:
        count = ring.free
        if rate:
            count = min(count, max(0, int(rate * (now - begun) / size) - sent))
        if count and now < begun + seconds:
            ring.give(count)
            sent += count
        if mode == "reset" and now > reset + 0.05:
            ring.connect(on=False)
            ring.connect(on=True)
            reset = now
        if rate and sent == taken:
            time.sleep(0.001)
            last = now
        elif not poller.poll(PATIENCE * 1000):
            stuck = True
            break
        else:
            os.eventfd_read(ring.call)
        before = taken
        taken += (ring.taken - taken) & 0xFFFF
        now = time.monotonic()
        if now < begun + FILLING * seconds:
            early = taken
        if now < begun + seconds:
            share = taken - early
        if taken != before:
            longest = max(longest, now - last)
            last = now
    return {
        "sent": taken,
        "bytes": taken * size,
        "share": share * size,
        "refused": 0,
        "spurious": 0,
        "longest": longest,
        "stuck": stuck,
        "gone": False,
        "seconds": now - begun,
    }


def main() -> None:
    """Write to all that are named."""
    seconds = float(sys.argv[1])
    words = [word.split(":") for word in sys.argv[2:]]
    names = [row[0] for row in words]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    begin = time.monotonic() + 0.5
    for number, row in enumerate(words):
        tap = attach(row[0], multi=names.count(row[0]) > 1)
        if os.fork() == 0:
            # Wait for the others.
            signal.signal(signal.SIGTERM, over)
            time.sleep(max(0.0, begin - time.monotonic()))
            rate = float(row[2]) if row[2:] else 0.0
            mode = row[3] if row[3:] else ""
            work = send if mode in {"vhost", "reset"} else write
            counted = work(tap, number, int(row[1]), rate, seconds, mode)
            os.write(1, (json.dumps({"name": row[0], **counted}) + "\n").encode())
            os._exit(0)
        os.close(tap)
    for _ in words:
        os.wait()


if __name__ == "__main__":
    main()
