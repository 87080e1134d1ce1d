"""Programs the agent runs: standard streams, a terminal where asked for, inherited descriptors, exit status."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import signal
import struct
import termios
from collections.abc import Sequence

from zdlab.agent.frames import STDERR, STDOUT
from zdlab.agent.streams import Stream

#: Number of the first descriptor a program inherits beside its standard streams.
FIRST_INHERITED = 10
#: Open files a program may have, where the kernel lets its limit be raised.
MOST_FILES = 1_048_576


class Process(Stream):
    """One program with its streams.

    :param inherited: descriptors the program gets as :data:`FIRST_INHERITED` and the numbers after it.
    """

    def __init__(self, stream: int, request: dict, inherited: Sequence[int] = ()) -> None:  # type: ignore[type-arg]
        super().__init__(stream)
        terminal = request.get("terminal")
        error_reader, error_writer = os.pipe2(os.O_CLOEXEC)
        if terminal is None:
            child_in, self.stdin = os.pipe2(os.O_CLOEXEC)
            stdout, child_out = os.pipe2(os.O_CLOEXEC)
            stderr, child_err = os.pipe2(os.O_CLOEXEC)
            self.outputs = {stdout: STDOUT, stderr: STDERR}
        else:
            master, slave = os.openpty()
            _resize(master, terminal)
            child_in = child_out = child_err = slave
            self.stdin = master
            self.outputs = {master: STDOUT}
        self.terminal = terminal is not None
        self.pid = os.fork()
        if self.pid == 0:
            streams = (child_in, child_out, child_err)
            _become(request, streams, error_writer, inherited, terminal=self.terminal)
        for descriptor in {child_in, child_out, child_err, error_writer}:
            os.close(descriptor)
        with open(error_reader, "rb") as reader:
            failure = reader.read()
        if failure:
            os.waitpid(self.pid, 0)
            self.status = 127
            self.close()
            number = int(failure)
            raise OSError(number, f"{request['argv'][0]}: {os.strerror(number)}")
        for descriptor in {self.stdin, *self.outputs}:
            os.set_blocking(descriptor, False)

    def end_input(self) -> None:
        """Close the program's input, or type the end of file on its terminal."""
        if not self.terminal:
            os.close(self.stdin)
            self.stdin = -1
            return
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self.stdin, b"\x04")
        self.input_ended = False

    def resize(self, size: list[int]) -> None:
        """Tell the program's terminal its rows and columns."""
        if self.terminal and self.stdin >= 0:
            _resize(self.stdin, size)


def _resize(descriptor: int, size: list[int]) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", size[0], size[1], 0, 0))


def _become(
    request: dict,  # type: ignore[type-arg]
    streams: tuple[int, int, int],
    failure: int,
    inherited: Sequence[int],
    *,
    terminal: bool,
) -> None:
    """In the child: set streams, session, limits and directory, and become the program."""
    try:
        os.setsid()
        if terminal:
            fcntl.ioctl(streams[0], termios.TIOCSCTTY, 0)
        # First out of the way of the numbers they are to have.
        above = FIRST_INHERITED + len(inherited)
        failure = fcntl.fcntl(failure, fcntl.F_DUPFD_CLOEXEC, above)
        moved = [fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, above) for source in (*streams, *inherited)]
        targets = (0, 1, 2, *range(FIRST_INHERITED, above))
        for source, target in zip(moved, targets, strict=True):
            os.dup2(source, target)
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (MOST_FILES, MOST_FILES))
            hard = MOST_FILES
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if request.get("keep_groups"):
            from zdlab.agent import linux  # noqa: PLC0415 - takes an emulated guest a while, which never asks for it

            linux.pretend_setgroups()
        if request.get("cwd"):
            os.chdir(request["cwd"])
        os.execvpe(request["argv"][0], request["argv"], {**os.environ, **request.get("env", {})})
    except OSError as error:
        os.write(failure, str(error.errno).encode())
    except BaseException:  # noqa: BLE001, RUF100
        os.write(failure, str(errno.EINVAL).encode())
    os._exit(127)
