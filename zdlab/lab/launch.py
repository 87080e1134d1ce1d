"""Two ways to start a lab's outermost process: as a program of its own, and forked from one that has all it needs."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Final, Protocol

from zdlab.lab import shepherd


class Shepherd(Protocol):
    """A shepherd that was started."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""


#: What the program does. It looks for modules where its caller did, and does so without a word in the environment:
#: programs in nodes inherit that, and may be of another Python.
_MAIN: Final = "import sys; sys.path[:] = sys.argv[1:]; from zdlab.lab import shepherd; shepherd.main()"

#: Starts a shepherd on a channel with the lock on the lab's directory. Both stay the caller's to close.
Launch = Callable[[socket.socket, int], Shepherd]


class ShepherdProgram:
    """A shepherd as a program of its own, which keeps nothing of the caller.

    It loads what a lab needs at once, and then waits to be given one: whoever starts it early has it ready when the
    topology is read. One that is given none ends.
    """

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _MAIN, *filter(None, sys.path)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def __enter__(self) -> ShepherdProgram:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it unless it was given a lab."""
        if self._line.fileno() >= 0:
            self._line.close()
            self._process.wait()

    def launch(self, channel: socket.socket, lock: int) -> Shepherd:
        """Give it a lab; to be called once."""
        with self._line, contextlib.suppress(BrokenPipeError):  # one that died is missed when the lab does not come
            socket.send_fds(self._line, [shepherd.GIVEN], [channel.fileno(), lock])
        return self._process


def start_shepherd(channel: socket.socket, lock: int) -> Shepherd:
    """Start a shepherd as a program of its own."""
    return ShepherdProgram().launch(channel, lock)


class _Forked:
    """A shepherd that is a copy of its parent."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, however long it takes."""
        del timeout
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


def fork_shepherd(channel: socket.socket, lock: int) -> Shepherd:
    """Fork a shepherd: nothing has to be loaded again. For a process that does little else."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = shepherd.run(channel, lock)
        finally:
            os._exit(status)
    return _Forked(pid)
