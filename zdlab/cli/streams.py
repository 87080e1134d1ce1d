"""The command's own standard streams: all three are there, and an output that cannot be written is an error."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, Final

from zdlab.errors import InfrastructureError

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2

#: What stands in for a descriptor the caller closed. The one of standard output cannot be written to: who closed it
#: is told that, rather than that all went well.
_STAND_INS: Final = {STDIN: os.O_RDONLY, STDOUT: os.O_RDONLY, STDERR: os.O_WRONLY}


class OutputError(InfrastructureError):
    """Standard output, or a program's standard error, cannot be written to.

    ``closed_pipe``: whoever read it has gone, as ``head`` does; nothing is wrong.
    """

    def __init__(self, descriptor: int, cause: OSError) -> None:
        stream = "standard output" if descriptor == STDOUT else "standard error"
        super().__init__(
            f"cannot write to {stream}: {cause.strerror}", hint="check free space, or send the output elsewhere"
        )
        self.closed_pipe = cause.errno == errno.EPIPE


class _Output(io.FileIO):
    """Standard output.

    Its errors are no ``OSError``: Typer and Rich would end the command for these on their own, with exit code 1.
    """

    def write(self, data: Any) -> int:
        """Write; raise :class:`OutputError` when that fails."""
        try:
            return super().write(data)
        except OSError as error:
            raise OutputError(STDOUT, error) from error


class _Messages(io.FileIO):
    """Standard error. A message nobody can be told changes nothing about what is done, nor the exit code."""

    def write(self, data: Any) -> int:
        """Write, or lose the message."""
        try:
            return super().write(data)
        except OSError:
            return len(data)


def prepare_streams() -> None:
    """Open descriptors 0, 1 and 2 where they are closed, and watch over writing to them.

    Otherwise the next file or socket that is opened would become standard input, output or error.
    """
    for descriptor, flags in _STAND_INS.items():
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)  # the lowest free number: this very descriptor
    if sys.stdin is None:  # Python's sign for a descriptor that was closed
        sys.stdin = open(STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115 - stays open, has no path
    sys.stdout = _text(_Output(STDOUT, "w", closefd=False), sys.stdout, "strict")
    sys.stderr = _text(_Messages(STDERR, "w", closefd=False), sys.stderr, "backslashreplace")


def _text(raw: io.FileIO, old: Any, errors: str) -> io.TextIOWrapper:
    """Return a stream of text on a descriptor, set up like the one Python made."""
    stream = io.BufferedWriter(raw)
    if old is None:
        return io.TextIOWrapper(stream, encoding="utf-8", errors=errors)
    return io.TextIOWrapper(stream, encoding=old.encoding, errors=old.errors, line_buffering=old.line_buffering)


def discard_output() -> None:
    """Let what is still to be written to standard output go nowhere, what Python writes at exit included."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDOUT)
    os.close(nowhere)


def pass_on(descriptor: int, data: bytes) -> None:
    """Write all of the data to a descriptor, past Python's buffers.

    :raises OutputError: when that is standard output or error and cannot be written to.
    :raises OSError: when another one cannot.
    """
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        if descriptor in _STAND_INS:
            raise OutputError(descriptor, error) from error
        raise
