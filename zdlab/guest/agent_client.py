"""The lab's side of the channel to a node's agent, in asyncio.

The same client speaks to an agent in a guest and to one in a namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from zdlab.agent import frames
from zdlab.errors import AgentLostError, LabError

_PIECE: Final = 256 << 10

#: Takes a piece of a program's output; the program may send more once it returned.
OutputHandler = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True)
class Hello:
    """What an agent says of itself: its kernel's release, uptime in seconds and jiffy in nanoseconds, its process."""

    kernel: str
    uptime: float
    jiffy_ns: int
    pid: int


@dataclass(frozen=True)
class Completed:
    """How a program ended: exit status (negative: the signal it died of) and output."""

    returncode: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True)
class RawSamples:
    """Samples as the agent took them; ``zdlab.measure`` decodes them."""

    header: Mapping[str, Any]
    data: bytes


class AgentProcess:
    """A program an agent runs, or another stream of bytes it passes on.

    :param stream: its number on the channel.
    """

    def __init__(self, client: AgentClient, stream: int, handlers: Mapping[int, OutputHandler | None]) -> None:
        self._client = client
        self.number = stream
        self._handlers = handlers
        self._room = frames.WINDOW
        self._room_changed = asyncio.Event()
        self._output: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._pump = asyncio.create_task(self._deliver())

    async def write_stdin(self, data: bytes) -> None:
        """Pass input on, waiting while the program does not take it.

        :raises AgentLostError: when the channel breaks.
        """
        while data:
            while self._room <= 0 and not self._status.done():
                self._room_changed.clear()
                await self._room_changed.wait()
            if self._status.done():
                return
            piece = data[: min(self._room, frames.CHUNK)]
            data = data[len(piece) :]
            self._room -= len(piece)
            await self._client.send(frames.pack(frames.STDIN, self.number, piece))

    async def close_stdin(self) -> None:
        """End the program's input."""
        if not self._status.done():
            await self._client.send(frames.pack(frames.STDIN, self.number))

    async def signal(self, number: int) -> None:
        """Send a signal to the program's process group."""
        await self._client.call("signal", {"stream": self.number, "signal": number})

    async def resize(self, rows: int, columns: int) -> None:
        """Tell the program's terminal its size."""
        await self._client.call("resize", {"stream": self.number, "size": [rows, columns]})

    async def wait(self) -> int:
        """Return the exit status once the program ended and all its output was delivered.

        :raises AgentLostError: when the channel breaks first.
        """
        status = await asyncio.shield(self._status)
        await self._pump
        return status

    def _feed(self, kind: int, payload: bytes) -> None:
        if kind in {frames.STDOUT, frames.STDERR}:
            self._output.put_nowait((kind, payload))
        elif kind == frames.CREDIT:
            self._room += frames.unpack_message(payload)[0]["bytes"]
            self._room_changed.set()
        elif kind == frames.EXIT and not self._status.done():
            self._status.set_result(int(frames.unpack_message(payload)[0]["status"]))
            self._room_changed.set()
            self._output.put_nowait(None)

    def _fail(self, error: AgentLostError) -> None:
        if not self._status.done():
            self._status.set_exception(error)
            self._status.exception()  # a caller who never waits is no fault of its own
        self._room_changed.set()
        self._output.put_nowait(None)

    async def _deliver(self) -> None:
        while (item := await self._output.get()) is not None:
            kind, data = item
            handler = self._handlers.get(kind)
            if handler is not None:
                await handler(data)
            credit = frames.pack_message(frames.CREDIT, self.number, {"kind": kind, "bytes": len(data)})
            with contextlib.suppress(AgentLostError):
                await self._client.send(credit)


class AgentClient:
    """Calls an agent. Any number of calls and programs may be under way at once.

    :param name: the node's name, for errors.
    """

    def __init__(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.name = name
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Future[tuple[dict[str, Any], bytes]]] = {}
        self._processes: dict[int, AgentProcess] = {}
        self._hello: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._lost: AgentLostError | None = None
        self._task = asyncio.create_task(self._receive())

    @classmethod
    async def over(cls, sock: socket.socket, name: str) -> AgentClient:
        """Return a client over a connected socket, which it owns from then on."""
        reader, writer = await asyncio.open_connection(sock=sock)
        return cls(name, reader, writer)

    async def hello(self) -> Hello:
        """Wait until the agent is there and return what it says of itself.

        :raises AgentLostError: when the channel closes first, or it speaks another protocol.
        """
        return await asyncio.shield(self._hello)

    async def call(self, verb: str, header: Mapping[str, Any], data: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """Call the agent and return its answer.

        :raises AgentLostError: when the channel breaks.
        :raises LabError: when the agent refuses; the text is the node's own.
        """
        return await self._call(next(self._numbers), verb, header, data)

    async def ping(self, timeout: float) -> None:
        """Return once the agent answers.

        :raises TimeoutError: when it does not within ``timeout`` seconds.
        """
        async with asyncio.timeout(timeout):
            await self.call("ping", {})

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        stdout: OutputHandler | None = None,
        stderr: OutputHandler | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        terminal: tuple[int, int] | None = None,
        keep_groups: bool = False,
    ) -> AgentProcess:
        """Start a program; its output goes to the handlers, or nowhere.

        :param terminal: rows and columns of a terminal of its own; all output then comes as ``stdout``.
        :param keep_groups: where the kernel denies setting groups, let the program believe that it did.
        :raises LabError: when it cannot be started.
        """
        header = {
            "argv": list(argv),
            "env": dict(env or {}),
            "cwd": cwd,
            "terminal": terminal,
            "keep_groups": keep_groups,
        }
        process = self._stream(stdout, stderr)
        await self._open([process], "exec", header)
        return process

    async def make_namespace(self, name: str, stdout: OutputHandler) -> tuple[AgentProcess, int]:
        """Make a node in this one; return the stream of its agent, and its process here.

        :raises LabError: when the kernel refuses.
        """
        channel = self._stream(stdout)
        answer = await self._open([channel], "namespace", {"name": name})
        return channel, int(answer["pid"])

    async def make_tap(self, node: str | None, interface: str, *, queues: int, vhost: bool | None) -> tuple[int, bool]:
        """Make a tap in the namespace of a node in this one; return its index, and whether vhost serves it.

        :param node: ``None`` for this node's own namespace.
        :raises LabError: when the kernel refuses.
        """
        header = {"node": node, "interface": interface, "queues": queues, "vhost": vhost}
        answer, _ = await self.call("tap", header)
        return int(answer["index"]), bool(answer["vhost"])

    async def start_machine(
        self,
        argv: Sequence[str],
        taps: Sequence[tuple[str | None, str]],
        channels: Sequence[OutputHandler],
        stderr: OutputHandler,
    ) -> tuple[list[AgentProcess], int]:
        """Start QEMU in this node; return its own stream and one for each channel, and its process there.

        :param taps: node and interface of taps made before; QEMU inherits their descriptors after its channels.
        :raises LabError: when it cannot be started.
        """
        streams = [self._stream(None, stderr), *(self._stream(handler) for handler in channels)]
        numbers = [stream.number for stream in streams[1:]]
        answer = await self._open(streams, "machine", {"argv": list(argv), "taps": list(taps), "channels": numbers})
        return streams, int(answer["pid"])

    async def kvm_problem(self) -> str:
        """Return why the node's KVM can make no machine, empty when it can."""
        return str((await self.call("kvm", {}))[0]["problem"])

    def _stream(self, stdout: OutputHandler | None, stderr: OutputHandler | None = None) -> AgentProcess:
        number = next(self._numbers)
        stream = AgentProcess(self, number, {frames.STDOUT: stdout, frames.STDERR: stderr})
        self._processes[number] = stream
        return stream

    async def _open(self, streams: Sequence[AgentProcess], verb: str, header: Mapping[str, Any]) -> dict[str, Any]:
        """Call a verb that opens streams; the first one's number is the call's."""
        try:
            return (await self._call(streams[0].number, verb, header, b""))[0]
        except BaseException:
            for stream in streams:
                self._processes.pop(stream.number, None)
                stream._fail(AgentLostError("it did not start", machine=self.name))
            raise

    async def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",  # noqa: A002 - as in subprocess.run
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Completed:
        """Run a program to its end.

        :raises LabError: when it cannot be started.
        """
        collected: dict[str, list[bytes]] = {"out": [], "err": []}

        async def out(data: bytes) -> None:
            collected["out"].append(data)

        async def err(data: bytes) -> None:
            collected["err"].append(data)

        process = await self.spawn(argv, stdout=out, stderr=err, env=env, cwd=cwd)
        await process.write_stdin(input)
        await process.close_stdin()
        status = await process.wait()
        return Completed(status, b"".join(collected["out"]), b"".join(collected["err"]))

    async def put_file(self, path: str, data: bytes, mode: int = 0o600) -> None:
        """Write a file in the node; a reader sees the old one or the whole new one.

        :raises LabError: when it cannot be written.
        """
        partial = f"{path}.partial"
        for offset in range(0, max(len(data), 1), _PIECE):
            header = {"path": partial, "offset": offset, "mode": mode}
            await self.call("put", header, data[offset : offset + _PIECE])
        done = await self.run(["mv", "--", partial, path])
        if done.returncode:
            raise LabError(f"{self.name}: {done.stderr.decode(errors='replace').strip()}")

    async def get_file(self, path: str) -> bytes:
        """Read a file of the node.

        :raises LabError: when it cannot be read.
        """
        parts: list[bytes] = []
        offset = 0
        while True:
            _, piece = await self.call("get", {"path": path, "offset": offset, "length": _PIECE})
            if not piece:
                return b"".join(parts)
            parts.append(piece)
            offset += len(piece)

    async def netlink(self, protocol: int, request: bytes) -> bytes:
        """Send a batch of netlink requests in the node and return all the kernel answers."""
        return (await self.call("netlink", {"protocol": protocol}, request))[1]

    async def set_sysctls(self, values: Sequence[tuple[str, str]]) -> dict[str, str | None]:
        """Set sysctls and return what stands there afterwards, ``None`` where the kernel has no such one."""
        answer, _ = await self.call("sysctl", {"values": list(values)})
        return dict(answer["values"])

    async def interface_names(self) -> list[tuple[int, str]]:
        """Return index and name of the node's interfaces."""
        answer, _ = await self.call("names", {})
        return [(int(index), str(name)) for index, name in answer["names"]]

    async def counters(self) -> dict[str, Any]:
        """Return one snapshot of all the node counts (``zdlab.agent.counters``)."""
        return (await self.call("counters", {}))[0]

    async def start_sampling(self, interval_ns: int) -> None:
        """Begin to take samples."""
        await self.call("sample", {"interval_ns": interval_ns})

    async def stop_sampling(self) -> RawSamples:
        """End sampling and return the samples."""
        header, _ = await self.call("samples", {})
        parts: list[bytes] = []
        for offset in range(0, header["size"], _PIECE):
            _, piece = await self.call("samples_data", {"offset": offset, "length": _PIECE})
            parts.append(piece)
        return RawSamples(header, b"".join(parts))

    async def shutdown(self) -> None:
        """Ask the agent to end; a guest then powers off."""
        with contextlib.suppress(AgentLostError):
            await self.call("shutdown", {})

    def abandon(self, reason: str) -> None:
        """Give the agent up: whatever waits for it fails, and so does whatever asks it from now on."""
        self._lose(reason)

    async def close(self) -> None:
        """Close the channel."""
        self._task.cancel()
        self._lose("the channel was closed")
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def send(self, data: bytes) -> None:
        """Send a frame.

        :raises AgentLostError: when the channel is broken.
        """
        if self._lost is not None:
            raise self._lost
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise self._lose(f"the channel broke: {error.strerror or error}") from error

    async def _call(
        self, number: int, verb: str, header: Mapping[str, Any], data: bytes
    ) -> tuple[dict[str, Any], bytes]:
        future: asyncio.Future[tuple[dict[str, Any], bytes]] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        try:
            await self.send(frames.pack_message(frames.CALL, number, {"verb": verb, **header}, data))
            answer, reply = await future
        finally:
            self._calls.pop(number, None)
        if "error" in answer:
            path = f": {answer['path']}" if answer.get("path") else ""
            raise LabError(f"{self.name}: {answer['error']}{path}")
        return answer, reply

    async def _receive(self) -> None:
        decoder = frames.Decoder()
        try:
            while data := await self._reader.read(1 << 18):
                for kind, stream, payload in decoder.feed(data):
                    self._dispatch(kind, stream, payload)
            self._lose("the agent closed its channel")
        except (OSError, frames.FrameError) as error:
            self._lose(f"the channel broke: {error}")

    def _dispatch(self, kind: int, stream: int, payload: bytes) -> None:
        if kind == frames.HELLO:
            header, _ = frames.unpack_message(payload)
            if header.get("protocol") != frames.PROTOCOL:
                raise frames.FrameError(f"the agent speaks protocol {header.get('protocol')}, not {frames.PROTOCOL}")
            if not self._hello.done():
                self._hello.set_result(Hello(header["kernel"], header["uptime"], header["jiffy_ns"], header["pid"]))
        elif kind == frames.REPLY:
            future = self._calls.get(stream)
            if future is not None and not future.done():
                future.set_result(frames.unpack_message(payload))
        elif (process := self._processes.get(stream)) is not None:
            process._feed(kind, payload)
            if kind == frames.EXIT:
                del self._processes[stream]

    def _lose(self, reason: str) -> AgentLostError:
        if self._lost is not None:
            return self._lost
        self._lost = AgentLostError(f"{self.name}: {reason}", machine=self.name)
        futures: list[asyncio.Future[Any]] = [*self._calls.values(), self._hello]
        for future in futures:
            if not future.done():
                future.set_exception(self._lost)
                future.exception()
        for process in self._processes.values():
            process._fail(self._lost)
        return self._lost
