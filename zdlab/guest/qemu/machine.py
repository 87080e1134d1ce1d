"""A running machine: start, readiness, watching, end.

Whatever ends a machine is noticed at once: QEMU's exit by its process, a panic by the console, a hang by an agent
that no longer answers. Each becomes a :class:`~zdlab.errors.GuestError` with the command line, the exit status and
the last lines of the console.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Final, Literal

from qemu.qmp import QMPClient, QMPError

from zdlab.errors import AgentLostError, GuestError, GuestHungError
from zdlab.guest.agent_client import AgentClient, Hello
from zdlab.guest.qemu.console import Console
from zdlab.guest.qemu.process import Launcher
from zdlab.guest.qemu.spec import MachineSpec

State = Literal["starting", "ready", "exited", "panicked", "hung", "stopped", "unknown"]

#: Seconds a guest may take to its agent's first word, by accelerator. Emulated, it is ready in two or three.
BOOT_DEADLINE: Final = {"kvm": 20.0, "tcg": 60.0}
#: Seconds between looks at the agent, and without an answer after which a guest counts as hung. An emulated guest
#: that handles ten thousand flows may keep its agent waiting for seconds.
_HEARTBEAT: Final = 1.0
_HUNG_AFTER: Final = 10.0


class Machine:
    """One QEMU process and the guest in it.

    :param on_change: called whenever :attr:`state` changed.
    """

    def __init__(self, spec: MachineSpec, on_change: Callable[[Machine], None] | None = None) -> None:
        self.spec = spec
        self.state: State = "starting"
        self.reason = ""
        self.command: list[str] = []
        self.exit_status: int | None = None
        self._on_change = on_change
        self._ended = asyncio.Event()
        self._gone = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, launch: Launcher) -> None:
        """Start QEMU.

        :raises MissingToolError: when QEMU cannot be run.
        """
        self._process = await launch(self.spec)
        self.command = self._process.command
        qmp, console, agent = self._process.channels
        self.console = Console(*await asyncio.open_connection(sock=console), self._panicked)
        self.agent = await AgentClient.over(agent, self.spec.name)
        self._qmp = QMPClient(self.spec.name)
        self._tasks = [
            asyncio.create_task(self._connect_qmp(qmp)),
            asyncio.create_task(self._await_exit()),
        ]

    @property
    def pid(self) -> int:
        """Process id of QEMU, on the kernel it runs on."""
        return self._process.pid

    async def wait_ready(self, deadline: float | None = None) -> Hello:
        """Return what the agent said of itself when it did; whatever else happens first is the error.

        :param deadline: seconds; by accelerator when ``None``.
        :raises GuestError: when QEMU exits, the kernel panics, or the deadline passes.
        """
        slow = self.spec.accelerator == "tcg" or self.spec.emulated_below
        limit = BOOT_DEADLINE["tcg" if slow else "kvm"] if deadline is None else deadline
        hello = asyncio.create_task(self.agent.hello())
        ended = asyncio.create_task(self._ended.wait())
        try:
            done, _ = await asyncio.wait({hello, ended}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if hello in done and hello.exception() is None:
                self._become("ready", "")
                self._tasks.append(asyncio.create_task(self._watch()))
                return hello.result()
            if not done:
                self._become("hung", f"did not get ready within {limit:g} s ({self.spec.accelerator})")
            else:
                await self.settle()
            raise self.error()
        finally:
            hello.cancel()
            ended.cancel()

    async def settle(self) -> None:
        """Wait for QEMU's exit, or a panic, to be known: the agent's channel closes a moment before."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), 1.0)

    def error(self) -> GuestError:
        """Return what to say of a machine that is not running."""
        reason = self.reason or f"is {self.state}"
        kind = GuestHungError if self.state == "hung" else GuestError
        return kind(
            f"machine {self.spec.name} {reason}",
            machine=self.spec.name,
            command=self.command,
            exit_status=self.exit_status,
            console=self.console.tail(),
            hint=self._hint(),
        )

    def _hint(self) -> str:
        said = self.console.tail()
        if any("Initramfs unpacking failed" in line for line in said):
            return f"its image does not fit into its memory: give it more than {self.spec.memory_mib}mb"
        return "the last lines of its console say more" if said else "its console stayed silent"

    async def stop(self) -> None:
        """End the machine: ask the agent, then QEMU, then kill. Leaves no process."""
        if not self._gone.is_set():
            running = self.state == "ready"
            self._become("stopped", "was stopped")
            for step in (*([self._ask_agent] if running else []), self._quit, self._kill):
                if await self._ends_after(step):
                    break
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._qmp.disconnect()
        await self.agent.close()
        await self.console.closed

    async def _ends_after(self, step: Callable[[], Awaitable[None]]) -> bool:
        with contextlib.suppress(TimeoutError, QMPError, OSError, AgentLostError):
            await asyncio.wait_for(step(), 1.0)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), 1.0)
        return self._gone.is_set()

    async def _ask_agent(self) -> None:
        await self.agent.shutdown()

    async def _quit(self) -> None:
        await self._qmp.execute("quit")

    async def _kill(self) -> None:
        await self._process.kill()

    async def _connect_qmp(self, sock: socket.socket) -> None:
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._qmp.connect(sock)

    async def _await_exit(self) -> None:
        try:
            self.exit_status, said = await self._process.wait()
        except AgentLostError as error:
            if self.state in {"starting", "ready", "hung"}:
                self._become("unknown", f"was lost with the machine it runs in: {error.message}")
            self._gone.set()
            self._ended.set()
            return
        self._gone.set()
        # What the console still holds may say that this was a panic.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.console.closed), 0.5)
        if self.state in {"starting", "ready", "hung"}:
            words = said[-4096:].decode("utf-8", "replace").strip()
            how = f"with status {self.exit_status}" if self.exit_status >= 0 else _by_signal(-self.exit_status)
            self._become("exited", f"ended: QEMU exited {how}" + (f": {words}" if words else ""))
        self._ended.set()

    def _panicked(self, words: str) -> None:
        if self.state in {"starting", "ready"}:
            self._become("panicked", f"panicked: {words}")
            self._ended.set()

    async def _watch(self) -> None:
        """Look whether the agent still answers."""
        while self.state == "ready":
            await asyncio.sleep(_HEARTBEAT)
            try:
                await self.agent.ping(_HUNG_AFTER)
            except TimeoutError:
                self._become("hung", f"hangs: its agent did not answer for {_HUNG_AFTER:g} s")
                self.agent.abandon(self.reason)
                self._ended.set()  # there is nothing more to learn of it
            except AgentLostError:
                return

    def _become(self, state: State, reason: str) -> None:
        self.state = state
        self.reason = reason
        if self._on_change is not None:
            self._on_change(self)


def _by_signal(number: int) -> str:
    return f"by signal {signal.Signals(number).name}"
