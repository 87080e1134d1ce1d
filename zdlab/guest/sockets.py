"""A stream of a node's agent as a socket, for those who speak to sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from zdlab.errors import AgentLostError
from zdlab.guest.agent_client import AgentProcess


class StreamSocket:
    """A pair of sockets with a stream behind one of them.

    :meth:`take` is the handler of the stream's output; :meth:`connect` gives it the stream once that is open.
    """

    def __init__(self) -> None:
        self.socket, self._inner = socket.socketpair()
        self._pump: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._ready = asyncio.Event()

    async def connect(self, stream: AgentProcess) -> None:
        """Begin to pass bytes on."""
        reader, self._writer = await asyncio.open_connection(sock=self._inner)
        self._ready.set()
        self._pump = asyncio.create_task(self._run(reader, self._writer, stream))

    async def take(self, data: bytes) -> None:
        """Pass what the stream said on to the socket."""
        await self._ready.wait()
        assert self._writer is not None  # noqa: S101 - set before the event
        with contextlib.suppress(OSError):
            self._writer.write(data)
            await self._writer.drain()

    def close(self) -> None:
        """Close both sockets of a stream that was never opened."""
        self.socket.close()
        self._inner.close()

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: AgentProcess) -> None:
        """Pass what is written to the socket on to the stream, until either ends."""
        ended = asyncio.create_task(self._end_with(stream, writer))
        try:
            while data := await reader.read(1 << 16):
                await stream.write_stdin(data)
            await stream.close_stdin()
        except (OSError, AgentLostError):
            pass
        await ended

    @staticmethod
    async def _end_with(stream: AgentProcess, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(AgentLostError):
            await stream.wait()
        writer.close()
