"""Tap devices: made in the namespace of the node at the other end of the link, handed to QEMU as descriptors.

They outlive QEMU: the node at the other end keeps its interface, without a carrier, as it would keep its card when
the computer it is wired to is switched off. They go with their namespace, in which nobody else can make use of them.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from zdlab.agent import linux

DEVICE = "/dev/net/tun"
VHOST = "/dev/vhost-net"
_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_MULTI_QUEUE = 0x0100
_SIOCGIFINDEX = 0x8933


class Tap:
    """A tap device: a descriptor for each queue, the same number for vhost or none, its interface index."""

    # Not a dataclass: loading what makes one takes an emulated guest a while.
    def __init__(self, queues: tuple[int, ...], vhosts: tuple[int, ...], index: int) -> None:
        self.queues = queues
        self.vhosts = vhosts
        self.index = index

    def close(self) -> None:
        """Close its descriptors."""
        for descriptor in (*self.queues, *self.vhosts):
            os.close(descriptor)


@contextmanager
def inside(netns: str | None) -> Iterator[None]:
    """Run a short piece of code, without awaiting anything, in another network namespace; ``None`` is this one."""
    if netns is None:
        yield
        return
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        linux.setns(there, linux.CLONE_NEWNET)
        try:
            yield
        finally:
            linux.setns(home, linux.CLONE_NEWNET)
    finally:
        os.close(there)
        os.close(home)


def tun_problem() -> str:
    """Return why tap devices cannot be made here, empty when they can be."""
    if not os.path.exists(DEVICE):
        return f"there is no {DEVICE}"
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{DEVICE}: {error.strerror}"
    return ""


def make_tap(netns: str | None, interface: str, *, queues: int, vhost: bool | None) -> Tap:
    """Make a tap device.

    :param netns: file of the namespace it is made in; ``None`` for the caller's.
    :param vhost: ``None`` takes vhost-net when there is one.
    :raises OSError: when the kernel refuses; ``filename`` is the device that is missing or not usable.
    """
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if queues > 1 else 0)
    made: list[int] = []
    try:
        with inside(netns):
            for _ in range(queues):
                made.append(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
                fcntl.ioctl(made[-1], _TUNSETIFF, struct.pack("16sH22x", interface.encode(), flags))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                answer = fcntl.ioctl(sock, _SIOCGIFINDEX, struct.pack("16si20x", interface.encode(), 0))
        (index,) = struct.unpack_from("i", answer, 16)
        tap = Tap(tuple(made), _vhosts(queues, vhost), index)
        fcntl.ioctl(made[0], _TUNSETPERSIST, 1)  # last: what fails before leaves nothing
        return tap
    except OSError:
        for descriptor in made:
            os.close(descriptor)
        raise


def _vhosts(queues: int, vhost: bool | None) -> tuple[int, ...]:
    if vhost is False:
        return ()
    opened: list[int] = []
    try:
        for _ in range(queues):
            opened.append(os.open(VHOST, os.O_RDWR | os.O_CLOEXEC))  # noqa: PERF401 - closed one by one on failure
    except OSError:
        for descriptor in opened:
            os.close(descriptor)
        if vhost:
            raise
        return ()
    return tuple(opened)
