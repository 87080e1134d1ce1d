"""What the agent of a machine does for nodes that live in it: namespaces, taps, and machines of the next level.

The lab drives all of it from outside. A child's agent, the monitor, console and agent of a machine are streams of
this agent's channel, so that one channel reaches every level.
"""

from __future__ import annotations

import fcntl
import os
import socket

from zdlab.agent.namespaces import DIRECTORY, netns_path, start_namespace
from zdlab.agent.processes import Process
from zdlab.agent.streams import SocketStream, Stream
from zdlab.agent.taps import Tap, make_tap

_KVM = "/dev/kvm"
_KVM_CREATE_VM = 0xAE01  # linux/kvm.h


class Hosting:
    """The nodes in this machine."""

    def __init__(self) -> None:
        self._taps: dict[tuple[str | None, str], Tap] = {}

    def namespace(self, stream: int, name: str) -> tuple[int, Stream]:
        """Make a node that is a namespace; return its process and the stream of its agent.

        :raises OSError: when the kernel refuses.
        """
        os.makedirs(DIRECTORY, exist_ok=True)
        pid, channel = start_namespace(name)
        return pid, SocketStream(stream, channel, pid)

    def tap(self, node: str | None, interface: str, *, queues: int, vhost: bool | None) -> Tap:
        """Make a tap in the namespace of a node, ``None`` for this machine's own, and keep it for its machine.

        :raises OSError: when the kernel refuses.
        """
        netns = None if node is None else netns_path(node)
        tap = make_tap(netns, interface, queues=queues, vhost=vhost)
        self._taps[node, interface] = tap
        return tap

    def machine(
        self,
        stream: int,
        request: dict,  # type: ignore[type-arg]
        channels: list[int],
        taps: list[tuple[str | None, str]],
    ) -> list[Stream]:
        """Start QEMU and return its streams: the program's own, then one for each of ``channels``.

        It inherits a socket for each channel, then the descriptors of its taps and vhosts in the taps' order.

        :raises OSError: when it does not start.
        """
        pairs = [socket.socketpair() for _ in channels]
        used = [self._taps.pop((node, interface)) for node, interface in taps]
        inherited = [theirs.fileno() for _, theirs in pairs]
        for tap in used:
            inherited += [*tap.queues, *tap.vhosts]
        try:
            program = Process(stream, request, inherited)
        except OSError:
            for ours, _ in pairs:
                ours.close()
            raise
        finally:
            for _, theirs in pairs:
                theirs.close()
            for tap in used:
                tap.close()
        return [program, *(SocketStream(number, pair[0]) for number, pair in zip(channels, pairs, strict=True))]


def kvm_problem() -> str:
    """Return why KVM cannot make a machine here, empty when it can. That one would run is not said by it."""
    try:
        descriptor = os.open(_KVM, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"{_KVM}: {error.strerror}"
    try:
        os.close(fcntl.ioctl(descriptor, _KVM_CREATE_VM, 0))
    except OSError as error:
        return f"{_KVM} makes no machine: {error.strerror}"
    finally:
        os.close(descriptor)
    return ""
