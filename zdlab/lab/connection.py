"""The client's side of the control socket: blocking calls, and programs with streams."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from zdlab.agent import frames
from zdlab.errors import LabError, UsageError, ZdlabError

_STREAM: Final = 1


@dataclass(frozen=True)
class Completed:
    """How a program ended: exit status (negative: the signal it died of) and output."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Connection:
    """One request to a lab.

    :raises UsageError: when the lab is not there.
    """

    def __init__(self, path: Path, verb: str, header: Mapping[str, Any], data: bytes = b"") -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._decoder = frames.Decoder()
        self._frames: list[tuple[int, int, bytes]] = []
        try:
            self._connect(path)
            self.send_message(verb, header, data)
        except OSError as error:
            self.close()
            raise UsageError(
                f"the lab {path.parent.name} does not answer: {error.strerror}", hint="zdlab ps"
            ) from error

    def _connect(self, path: Path) -> None:
        # Through a descriptor of the directory: socket paths end at 107 bytes.
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._socket.connect(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)

    def __enter__(self) -> Connection:
        """Return the connection."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    def fileno(self) -> int:
        """Return the socket's descriptor, for select."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the connection; whatever runs for it ends."""
        self._socket.close()

    def send(self, kind: int, payload: bytes) -> None:
        """Send a frame."""
        self._socket.sendall(frames.pack(kind, _STREAM, payload))

    def send_message(self, verb: str, header: Mapping[str, Any], data: bytes = b"") -> None:
        """Send a call."""
        self._socket.sendall(frames.pack_message(frames.CALL, _STREAM, {"verb": verb, **header}, data))

    def receive(self, deadline: float | None = None) -> tuple[int, bytes]:
        """Return the next frame's type and payload.

        :param deadline: ``time.monotonic()`` to wait until.
        :raises TimeoutError: when nothing came until then.
        :raises LabError: when the lab closed the connection.
        """
        while not self._frames:
            if deadline is not None:
                ready, _, _ = select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise TimeoutError
            self._read()
        kind, _, payload = self._frames.pop(0)
        return kind, payload

    def pending(self) -> bool:
        """Tell whether a frame is there without reading from the socket."""
        return bool(self._frames)

    def _read(self) -> None:
        try:
            data = self._socket.recv(1 << 18)
        except OSError as error:
            raise LabError(f"the lab broke off: {error.strerror}", hint="zdlab ps") from error
        if not data:
            raise LabError("the lab ended", hint="zdlab ps shows what runs")
        self._frames = self._decoder.feed(data)

    def reply(self, deadline: float | None = None) -> dict[str, Any]:
        """Return the answer to the call.

        :raises ZdlabError: what the lab raised.
        """
        kind, payload = self.receive(deadline)
        header, _ = frames.unpack_message(payload)
        if "error" in header:
            raise restored(header["error"])
        if kind != frames.REPLY:
            raise LabError("the lab answered out of turn")
        return header

    def all_bytes(self) -> bytes:
        """Return the bytes that follow an answer."""
        parts: list[bytes] = []
        while True:
            kind, payload = self.receive()
            if kind == frames.EXIT:
                return b"".join(parts)
            parts.append(payload)


class LabProcess:
    """A program in a node. Its output is collected while somebody waits for it."""

    def __init__(self, connection: Connection, on_stdout: Callable[[bytes], None] | None = None) -> None:
        self._connection = connection
        self._on_stdout = on_stdout
        self._stdout: list[bytes] = []
        self._stderr: list[bytes] = []
        self.returncode: int | None = None
        connection.reply()

    def write(self, data: bytes) -> None:
        """Pass input on; what a program that has ended does not take is lost, as in a pipe."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for offset in range(0, len(data), frames.CHUNK):
                self._connection.send(frames.STDIN, data[offset : offset + frames.CHUNK])

    def close_stdin(self) -> None:
        """End the program's input."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send(frames.STDIN, b"")

    def signal(self, number: int) -> None:
        """Send a signal to the program's process group."""
        self._connection.send_message("signal", {"signal": number})

    def wait(self, timeout: float | None = None) -> Completed:
        """Return how the program ended.

        :param timeout: seconds to wait at most.
        :raises TimeoutError: when it still runs then.
        :raises ZdlabError: when its node is lost.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            self._take(*self._connection.receive(deadline))
        return Completed(self.returncode, b"".join(self._stdout), b"".join(self._stderr))

    def output(self) -> tuple[bytes, bytes]:
        """Return what was collected so far of both streams."""
        return b"".join(self._stdout), b"".join(self._stderr)

    def kill(self) -> None:
        """End the program by closing its connection."""
        self._connection.close()

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == frames.STDOUT:
            self._stdout.append(payload)
            if self._on_stdout is not None:
                self._on_stdout(payload)
        elif kind == frames.STDERR:
            self._stderr.append(payload)
        elif kind == frames.EXIT:
            self.returncode = int(frames.unpack_message(payload)[0]["status"])
            self._connection.close()
        elif kind == frames.REPLY:
            header, _ = frames.unpack_message(payload)
            if "error" in header:
                raise restored(header["error"])


def restored(text: str) -> ZdlabError:
    """Return an error the supervisor sent. It runs as the same user, behind a socket only that user opens."""
    kind, attributes, arguments = pickle.loads(bytes.fromhex(text))  # noqa: S301
    error: ZdlabError = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(attributes)
    return error
