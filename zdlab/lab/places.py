"""Where nodes are made: in the pod, on the computer's kernel, or in a machine of the lab, through its agent."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from zdlab.agent import taps
from zdlab.agent.namespaces import netns_path
from zdlab.errors import LabError, MissingToolError
from zdlab.guest.accelerator import AcceleratorChoice, choose_accelerator, choose_nested, choose_unproven
from zdlab.guest.agent_client import AgentClient
from zdlab.guest.qemu import Launcher, in_machine, on_computer
from zdlab.guest.sockets import StreamSocket
from zdlab.lab.request import BootFiles
from zdlab.plan.operations import MakeTap

Request = Literal["auto", "kvm", "tcg"]

_DEVICES: Final = (taps.DEVICE, taps.VHOST)


@dataclass(frozen=True)
class PlacedTap:
    """A tap that was made.

    :param index: of its interface.
    :param vhost: whether vhost serves it.
    """

    operation: MakeTap
    index: int
    vhost: bool


class Place(Protocol):
    """A kernel on which nodes are made.

    :param name: of the machine, empty for the pod.
    :param nested: it is a machine of the lab.
    :param emulated: it, or a machine around it, is emulated.
    """

    name: str
    nested: bool
    emulated: bool

    async def namespace(self, node: str) -> tuple[AgentClient, int]:
        """Make a node that is a namespace; return its agent, and its process on this kernel.

        :raises LabError: when the kernel refuses.
        """

    async def tap(self, operation: MakeTap) -> PlacedTap:
        """Make a tap.

        :raises MissingToolError: when a device it needs is not usable.
        :raises LabError: when the kernel refuses it.
        """

    async def accelerator(self, request: Request, files: BootFiles) -> AcceleratorChoice:
        """Return what a machine here runs on.

        :raises MissingToolError: when ``kvm`` is asked for and does not work.
        """

    def launcher(self, used: Sequence[PlacedTap]) -> Launcher:
        """Return what starts QEMU here with taps that were made here."""


class Pod:
    """The pod.

    :param namespaces: process and channel of the nodes that were made before the event loop began.
    :param capsule: the computer is a capsule, an emulated machine.
    """

    name = ""

    def __init__(self, namespaces: Mapping[str, tuple[int, socket.socket]], *, capsule: bool = False) -> None:
        self.nested = self.emulated = capsule
        self._namespaces = namespaces
        self._taps: dict[tuple[str, str], taps.Tap] = {}

    async def namespace(self, node: str) -> tuple[AgentClient, int]:
        """Return the agent and process of a node that is there already."""
        pid, channel = self._namespaces[node]
        return await AgentClient.over(channel, node), pid

    async def tap(self, operation: MakeTap) -> PlacedTap:
        """Make a tap."""
        netns = netns_path(operation.node)
        try:
            made = taps.make_tap(netns, operation.interface, queues=operation.queues, vhost=operation.vhost)
        except OSError as error:
            raise _tap_error(operation, error.strerror or str(error), error.filename) from error
        self._taps[operation.node, operation.interface] = made
        return PlacedTap(operation, made.index, bool(made.vhosts))

    async def accelerator(self, request: Request, files: BootFiles) -> AcceleratorChoice:
        """Prove KVM by booting this kernel, unless that is known, or the machine's own boot must be proof enough."""
        if self.emulated:
            return choose_unproven(request)
        return await choose_accelerator(request, files.kernel, files.initrd)

    def launcher(self, used: Sequence[PlacedTap]) -> Launcher:
        """Return what starts QEMU on this computer."""
        made = [self._taps.pop((tap.operation.node, tap.operation.interface)) for tap in used]
        return on_computer([tap.queues for tap in made], [tap.vhosts for tap in made])


class Inside:
    """A machine of the lab in which other nodes live.

    :param agent: its agent.
    """

    nested = True

    def __init__(self, name: str, agent: AgentClient, *, emulated: bool) -> None:
        self.name = name
        self.emulated = emulated
        self._agent = agent

    async def namespace(self, node: str) -> tuple[AgentClient, int]:
        """Have the agent make a node; its channel is a stream of the agent's."""
        link = StreamSocket()
        try:
            stream, pid = await self._agent.make_namespace(node, link.take)
        except BaseException:
            link.close()
            raise
        await link.connect(stream)
        return await AgentClient.over(link.socket, node), pid

    async def tap(self, operation: MakeTap) -> PlacedTap:
        """Have the agent make a tap."""
        try:
            index, vhost = await self._agent.make_tap(
                self._node(operation), operation.interface, queues=operation.queues, vhost=operation.vhost
            )
        except LabError as error:
            missing = next((device for device in _DEVICES if device in error.message), None)
            raise _tap_error(operation, error.message, missing) from error
        return PlacedTap(operation, index, vhost)

    async def accelerator(self, request: Request, files: BootFiles) -> AcceleratorChoice:
        """Ask the machine for its KVM."""
        del files
        return await choose_nested(request, self._agent, emulated=self.emulated)

    def launcher(self, used: Sequence[PlacedTap]) -> Launcher:
        """Return what starts QEMU in the machine."""
        return in_machine(self._agent, [(self._node(tap.operation), tap.operation.interface) for tap in used])

    def _node(self, operation: MakeTap) -> str | None:
        """Return the node a tap is in, ``None`` for the machine itself: it has no namespace beside its first."""
        return None if operation.node == self.name else operation.node


def no_taps(reason: str) -> MissingToolError:
    """Return what to say where no tap devices can be made."""
    return MissingToolError(
        f"cannot make a tap device: {reason}",
        hint="a guest's network needs it: load the module tun, or as root: chmod 0666 /dev/net/tun",
    )


def _tap_error(operation: MakeTap, reason: str, device: object) -> LabError | MissingToolError:
    if device == os.fspath(taps.DEVICE):
        return no_taps(f"{device}: {reason}")
    if device == os.fspath(taps.VHOST):
        return MissingToolError(
            f"vhost is asked for and {device} cannot be opened: {reason}",
            hint="load the module vhost_net, or leave vhost at auto",
        )
    message = f"cannot make the tap {operation.interface} of {operation.node}: {reason}"
    return LabError(message, hint="write a tap its kernel can make", origin=operation.origin)
