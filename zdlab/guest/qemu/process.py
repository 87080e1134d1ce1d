"""QEMU's process, wherever it runs: on this computer, or in a machine of the level above."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from zdlab.agent.processes import FIRST_INHERITED
from zdlab.errors import AgentLostError, LabError, MissingToolError
from zdlab.guest.agent_client import AgentClient, AgentProcess
from zdlab.guest.qemu.command import Descriptors, find_qemu, qemu_command
from zdlab.guest.qemu.spec import MachineSpec
from zdlab.guest.sockets import StreamSocket

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
#: Where an image for machines that hold machines has QEMU.
GUEST_PROGRAM: Final = "/usr/bin/qemu-system-x86_64"


class QemuProcess(Protocol):
    """A running QEMU.

    :param pid: its number on the kernel it runs on.
    :param channels: sockets to its monitor, its guest's console and its guest's agent.
    """

    pid: int
    command: list[str]
    channels: tuple[socket.socket, socket.socket, socket.socket]

    async def wait(self) -> tuple[int, bytes]:
        """Wait for its end; return its status and what it had to say on standard error.

        :raises AgentLostError: when the machine it runs in is lost.
        """

    async def kill(self) -> None:
        """Kill it."""


#: Starts QEMU for a machine.
Launcher = Callable[[MachineSpec], Awaitable[QemuProcess]]


class _Local:
    def __init__(
        self, process: asyncio.subprocess.Process, command: list[str], channels: Sequence[socket.socket]
    ) -> None:
        self._process = process
        self.pid = process.pid
        self.command = command
        qmp, console, agent = channels
        self.channels = (qmp, console, agent)

    async def wait(self) -> tuple[int, bytes]:
        assert self._process.stderr is not None  # noqa: S101 - started with a pipe
        said = await self._process.stderr.read()
        return await self._process.wait(), said

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


def on_computer(taps: Sequence[Sequence[int]] = (), vhosts: Sequence[Sequence[int]] = ()) -> Launcher:
    """Return what starts QEMU on this computer.

    :param taps: descriptors for each network device, one for each queue; they are QEMU's afterwards.
    :param vhosts: the same for vhost.
    """

    async def start(spec: MachineSpec) -> QemuProcess:
        pairs = [socket.socketpair() for _ in range(3)]
        qmp, console, agent = (pair[1].fileno() for pair in pairs)
        descriptors = Descriptors(qmp, console, agent, taps, vhosts)
        command = qemu_command(spec, descriptors, find_qemu())
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=descriptors.all(),
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        except OSError as error:
            for ours, _ in pairs:
                ours.close()
            raise MissingToolError(f"cannot run {command[0]}: {error.strerror}") from error
        finally:
            for _, other in pairs:
                other.close()
            for group in (*taps, *vhosts):
                for descriptor in group:
                    os.close(descriptor)
        return _Local(process, command, [ours for ours, _ in pairs])

    return start


class _Remote:
    def __init__(
        self, program: AgentProcess, pid: int, command: list[str], sockets: Sequence[StreamSocket], said: bytearray
    ) -> None:
        self._program = program
        self._said = said
        self.pid = pid
        self.command = command
        qmp, console, agent = (item.socket for item in sockets)
        self.channels = (qmp, console, agent)

    async def wait(self) -> tuple[int, bytes]:
        return await self._program.wait(), bytes(self._said)

    async def kill(self) -> None:
        with contextlib.suppress(LabError, AgentLostError):
            await self._program.signal(signal.SIGKILL)


def in_machine(holder: AgentClient, taps: Sequence[tuple[str | None, str]]) -> Launcher:
    """Return what starts QEMU in another machine.

    :param holder: agent of the machine it runs in.
    :param taps: node and interface of each network device's tap, made there before.
    """

    async def start(spec: MachineSpec) -> QemuProcess:
        numbers = iter(range(FIRST_INHERITED, FIRST_INHERITED + 1000))
        qmp, console, agent = (next(numbers) for _ in range(3))
        tap_numbers: list[list[int]] = []
        vhost_numbers: list[list[int]] = []
        for nic in spec.nics:
            tap_numbers.append([next(numbers) for _ in range(nic.queues)])
            vhost_numbers.append([next(numbers) for _ in range(nic.queues)] if nic.vhost else [])
        descriptors = Descriptors(qmp, console, agent, tap_numbers, vhost_numbers)
        command = qemu_command(spec, descriptors, GUEST_PROGRAM)
        sockets = [StreamSocket() for _ in range(3)]
        said = bytearray()

        async def take_error(data: bytes) -> None:
            said.extend(data)

        try:
            streams, pid = await holder.start_machine(command, taps, [item.take for item in sockets], take_error)
        except LabError as error:
            for item in sockets:
                item.close()
            raise MissingToolError(f"cannot run QEMU in {holder.name}: {error.message}") from error
        for item, stream in zip(sockets, streams[1:], strict=True):
            await item.connect(stream)
        return _Remote(streams[0], pid, command, sockets, said)

    return start


def _die_with_parent() -> None:
    """In the child: let the kernel kill QEMU when its parent dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
