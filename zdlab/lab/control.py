"""The control socket: one connection for each request, in the frames the agents speak.

The first frame is a call with a verb; answers and streams follow. A connection that closes takes with it whatever
runs for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import socket
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from zdlab.agent import frames
from zdlab.errors import AgentLostError, LabError, UsageError, ZdlabError
from zdlab.guest.agent_client import AgentClient, AgentProcess

if TYPE_CHECKING:
    from zdlab.lab.supervisor import Supervisor

_STREAM: Final = 1


class ControlServer:
    """Answers the clients of a lab."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this as a task
        self._tasks.add(task)
        try:
            if _peer_uid(writer) in {0, os.geteuid()}:
                await _Connection(self._supervisor, reader, writer).serve()
        except (OSError, frames.FrameError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def end(self) -> None:
        """End all connections."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _directory(header: Mapping[str, Any]) -> str | None:
    """Return the directory a program starts in: its caller's, which the pod may not have, or the one that is asked."""
    caller = header.get("caller_cwd")
    if caller is None:
        return header.get("cwd")
    return str(caller) if os.path.isdir(caller) else "/"  # noqa: PTH112 - False where one may not look


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    sock = writer.get_extra_info("socket")
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


class _Connection:
    def __init__(self, supervisor: Supervisor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._supervisor = supervisor
        self._reader = reader
        self._writer = writer
        self._decoder = frames.Decoder()
        self._frames: list[tuple[int, int, bytes]] = []

    async def serve(self) -> None:
        frame = await self._next()
        if frame is None:
            return
        header, data = frames.unpack_message(frame[2])
        try:
            await self._reported(header, data)
        except ZdlabError as error:
            await self._send_message(frames.REPLY, {"error": _pickled(error)})
        except (KeyError, TypeError, ValueError) as error:
            await self._send_message(frames.REPLY, {"error": _pickled(LabError(f"a request is malformed: {error!r}"))})

    async def _reported(self, header: Mapping[str, Any], data: bytes) -> None:
        """Carry a verb out; of a node that was lost meanwhile, say what became of its machine.

        :raises ZdlabError: when it fails.
        """
        try:
            await self._verb(header, data)
        except AgentLostError as error:
            node = header.get("node", "")
            await self._supervisor.machines.settle(node)
            self._supervisor.machines.check(node)
            raise LabError(f"{node} was lost: {error.message}") from error

    async def _verb(self, header: Mapping[str, Any], data: bytes) -> None:
        handler = getattr(self, f"_verb_{header['verb']}", None)
        if handler is None:
            raise LabError(f"the lab knows no verb {header['verb']!r}")
        await handler(header, data)

    async def _verb_status(self, header: Mapping[str, Any], data: bytes) -> None:
        await self._send_message(frames.REPLY, self._supervisor.status())

    async def _verb_down(self, header: Mapping[str, Any], data: bytes) -> None:
        await self._send_message(frames.REPLY, {})
        self._supervisor.end()

    async def _verb_detach(self, header: Mapping[str, Any], data: bytes) -> None:
        self._supervisor.attached = False
        await self._send_message(frames.REPLY, {})

    async def _verb_counters(self, header: Mapping[str, Any], data: bytes) -> None:
        await self._send_message(frames.REPLY, await self._agent(header).counters())

    async def _verb_sample(self, header: Mapping[str, Any], data: bytes) -> None:
        await self._agent(header).start_sampling(header["interval_ns"])
        await self._send_message(frames.REPLY, {})

    async def _verb_samples(self, header: Mapping[str, Any], data: bytes) -> None:
        samples = await self._agent(header).stop_sampling()
        await self._send_message(frames.REPLY, {"header": dict(samples.header)})
        await self._send_bytes(samples.data)

    async def _verb_put(self, header: Mapping[str, Any], data: bytes) -> None:
        await self._agent(header).put_file(header["path"], data, header["mode"])
        await self._send_message(frames.REPLY, {})

    async def _verb_get(self, header: Mapping[str, Any], data: bytes) -> None:
        content = await self._agent(header).get_file(header["path"])
        await self._send_message(frames.REPLY, {})
        await self._send_bytes(content)

    async def _verb_logs(self, header: Mapping[str, Any], data: bytes) -> None:
        machine = self._supervisor.machines.running.get(header["node"])
        if machine is None:
            self._agent(header)
            raise UsageError(f"{header['node']} is no machine: it has no console", hint="name a machine")
        await self._send_message(frames.REPLY, {})
        await self._send_bytes(machine.console.log())

    async def _verb_console(self, header: Mapping[str, Any], data: bytes) -> None:
        machine = self._supervisor.machines.running.get(header["node"])
        if machine is None:
            raise UsageError(f"{header['node']} is no machine: it has no console", hint="name a machine")
        await self._send_message(frames.REPLY, {})

        async def show() -> None:
            async for piece in machine.console.listen():
                await self._send(frames.STDOUT, piece)

        shower = asyncio.create_task(show())
        try:
            while (frame := await self._next_or(shower)) is not None:
                if frame[0] == frames.STDIN and frame[2]:
                    await machine.console.write(frame[2])
        finally:
            shower.cancel()
        await self._send_message(frames.EXIT, {"status": 0})

    async def _verb_exec(self, header: Mapping[str, Any], data: bytes) -> None:
        agent = self._agent(header)
        terminal = header.get("terminal")

        async def out(piece: bytes) -> None:
            await self._send(frames.STDOUT, piece)

        async def err(piece: bytes) -> None:
            await self._send(frames.STDERR, piece)

        process = await agent.spawn(
            header["argv"],
            stdout=out,
            stderr=err,
            env=header.get("env"),
            cwd=_directory(header),
            terminal=tuple(terminal) if terminal else None,
            keep_groups=header.get("keep_groups", False),
        )
        await self._send_message(frames.REPLY, {})
        await self._attend(process)

    async def _attend(self, process: AgentProcess) -> None:
        """Pass the client's input on until the program ends; end the program when the client goes."""
        ended = asyncio.create_task(process.wait())
        try:
            while (frame := await self._next_or(ended)) is not None:
                await self._pass_on(process, frame)
            if ended.done():
                await self._send_message(frames.EXIT, {"status": ended.result()})
                return
        finally:
            if not ended.done():
                with contextlib.suppress(ZdlabError):
                    await process.signal(signal.SIGKILL)
            ended.cancel()

    async def _pass_on(self, process: AgentProcess, frame: tuple[int, int, bytes]) -> None:
        kind, _, payload = frame
        if kind == frames.STDIN:
            if payload:
                await process.write_stdin(payload)
            else:
                await process.close_stdin()
        elif kind == frames.CALL:
            header, _ = frames.unpack_message(payload)
            if header["verb"] == "signal":
                await process.signal(header["signal"])
            elif header["verb"] == "resize":
                await process.resize(*header["size"])

    def _agent(self, header: Mapping[str, Any]) -> AgentClient:
        return self._supervisor.agent(header["node"])

    async def _next(self) -> tuple[int, int, bytes] | None:
        """Return the client's next frame, ``None`` when it closed the connection."""
        while not self._frames:
            data = await self._reader.read(1 << 18)
            if not data:
                return None
            self._frames = self._decoder.feed(data)
        return self._frames.pop(0)

    async def _next_or(self, other: asyncio.Task[Any]) -> tuple[int, int, bytes] | None:
        """Return the client's next frame, ``None`` when it is gone or ``other`` is done."""
        if self._frames:
            return self._frames.pop(0)
        frame = asyncio.create_task(self._next())
        await asyncio.wait({frame, other}, return_when=asyncio.FIRST_COMPLETED)
        if frame.done():
            return frame.result()
        frame.cancel()
        return None

    async def _send(self, kind: int, payload: bytes) -> None:
        self._writer.write(frames.pack(kind, _STREAM, payload))
        await self._writer.drain()

    async def _send_message(self, kind: int, header: Mapping[str, Any]) -> None:
        self._writer.write(frames.pack_message(kind, _STREAM, dict(header)))
        await self._writer.drain()

    async def _send_bytes(self, data: bytes) -> None:
        for offset in range(0, len(data), 1 << 20):
            await self._send(frames.STDOUT, data[offset : offset + (1 << 20)])
        await self._send_message(frames.EXIT, {"status": 0})


def _pickled(error: ZdlabError) -> str:
    return pickle.dumps((type(error), error.__dict__, error.args)).hex()
