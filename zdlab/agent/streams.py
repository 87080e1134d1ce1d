"""Streams of bytes between a descriptor and the channel, each under its windows."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket

from zdlab.agent.frames import CHUNK, STDERR, STDOUT, WINDOW


class Stream:
    """Something with descriptors: what it says goes to the lab, what the lab says goes to it.

    ``outputs`` maps the descriptors that are read to the frame type of what comes out of them.

    :param stream: its number on the channel.
    """

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.pid = 0
        #: Exit status; what has no process ends with its descriptors.
        self.status: int | None = None
        self.window = {STDOUT: WINDOW, STDERR: WINDOW}
        self.pending_input = bytearray()
        self.input_ended = False
        self.stdin = -1
        self.outputs: dict[int, int] = {}

    def read(self, descriptor: int) -> bytes | None:
        """Return output within the window; ``b""`` at its end, ``None`` when none is there."""
        room = min(self.window[self.outputs[descriptor]], CHUNK)
        try:
            data = os.read(descriptor, room)
        except BlockingIOError:
            return None
        except OSError as error:
            # EIO is what a terminal's master reads once all slaves are closed.
            if error.errno not in {errno.EIO, errno.ECONNRESET}:
                raise
            data = b""
        if not data:
            del self.outputs[descriptor]
            if descriptor == self.stdin:
                self.stdin = -1
            os.close(descriptor)
        return data

    def write(self) -> int:
        """Pass waiting input on; return how many bytes were taken (or will never be)."""
        if self.stdin < 0:
            taken = len(self.pending_input)
            self.pending_input.clear()
            return taken
        taken = 0
        try:
            while self.pending_input:
                count = os.write(self.stdin, self.pending_input[:CHUNK])
                del self.pending_input[:count]
                taken += count
        except BlockingIOError:
            return taken
        except OSError:  # the other side closed its input: what is left goes nowhere, as in a pipe
            taken += len(self.pending_input)
            self.pending_input.clear()
            self.input_ended = True
        if self.input_ended:
            self.end_input()
        return taken

    def end_input(self) -> None:
        """Tell the other side that no more input comes."""
        raise NotImplementedError

    def signal(self, number: int) -> None:
        """Send a signal to the process group behind the stream."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def resize(self, size: list[int]) -> None:
        """Tell a terminal its rows and columns; everything else has none."""

    def close(self) -> None:
        """Close all descriptors and kill what is left of the process group."""
        self.signal(signal.SIGKILL)
        for descriptor in {self.stdin, *self.outputs} - {-1}:
            os.close(descriptor)
        self.outputs = {}
        self.stdin = -1


class SocketStream(Stream):
    """A socket whose other end something in this node holds.

    :param pid: leader of the process group at the other end, 0 when that is watched by another stream.
    """

    def __init__(self, stream: int, sock: socket.socket, pid: int = 0) -> None:
        super().__init__(stream)
        self.pid = pid
        self.status = None if pid else 0
        sock.setblocking(False)
        self.stdin = sock.detach()
        self.outputs = {self.stdin: STDOUT}

    def end_input(self) -> None:
        """Shut the sending half; the other side's answers still come."""
        self.input_ended = False
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self.stdin)) as sock:
            sock.shutdown(socket.SHUT_WR)
