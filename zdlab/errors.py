"""The tree of errors zdlab raises, and the exit code each one ends the command line with.

::

    ZdlabError                    3  root of everything zdlab raises on purpose
    ├── UsageError                2  the request itself cannot be carried out as written
    │   └── TopologyError         2  a topology file says something impossible; carries file and line
    └── InfrastructureError       3  the request is fine, the computer or a part of the lab failed
        ├── MissingToolError      3  a program or device of the computer is not there or not usable
        ├── LabError              3  building, reaching or ending a lab failed
        │   └── ReadbackError     3  the kernel holds another value than the one that was set
        ├── GuestError            3  a guest did not boot, panicked, exited or hangs
        │   ├── GuestHungError     3  it still runs, but does not answer
        │   └── AgentLostError     3  the channel to a node's agent broke
        ├── KernelBuildError      3  a guest kernel could not be built; carries the compiler's lines
        ├── ImageError            3  a guest image could not be made
        └── TrafficError          3  the traffic tool failed or printed something unreadable

Every error carries a ``hint``: what the reader can do about it.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import ClassVar, Final

#: What is wrong is the device a file is on; every other error of writing one means that it was the wrong file to name.
_OF_DEVICES: Final = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE}


class MistakeError(ValueError):
    """A single value is written wrongly; whoever knows where it stands makes a :class:`TopologyError` of it.

    :param problem: what is wrong.
    :param hint: what would be right.
    """

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(f"{problem}: {hint}")
        self.problem = problem
        self.hint = hint


class ExitCode(IntEnum):
    """What the ``zdlab`` command ends with."""

    PASS = 0
    FAILED = 1
    USAGE = 2
    INFRASTRUCTURE = 3
    INCONCLUSIVE = 4


class ZdlabError(Exception):
    """Root of everything zdlab raises on purpose.

    :param message: what happened, and where.
    :param hint: what to do about it; may be empty.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.INFRASTRUCTURE

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(ZdlabError):
    """The request itself cannot be carried out as written."""

    exit_code = ExitCode.USAGE


class TopologyError(UsageError):
    """A topology file is wrong.

    :param message: what is wrong.
    :param hint: what would be right.
    :param file: the file's name as the user gave it.
    :param line: line of the offending value, counted from 1; ``None`` when no line can be named.
    """

    def __init__(self, message: str, *, hint: str = "", file: str = "", line: int | None = None) -> None:
        place = f"{file}:{line}: " if file and line is not None else f"{file}: " if file else ""
        super().__init__(place + message, hint=hint)
        self.problem = message
        self.file = file
        self.line = line


class InfrastructureError(ZdlabError):
    """The request is fine; the computer or a part of the lab failed."""


class MissingToolError(InfrastructureError):
    """A program or a device of the computer is not there, or may not be used."""


class LabError(InfrastructureError):
    """Building, reaching or ending a lab failed.

    :param origin: path of the value in the topology file that led to it, empty when none did.
    """

    def __init__(self, message: str, *, hint: str = "", origin: Sequence[str | int] = ()) -> None:
        super().__init__(message, hint=hint)
        self.origin = tuple(origin)


class ReadbackError(LabError):
    """The kernel holds another value than the one that was set."""


class GuestError(InfrastructureError):
    """A guest did not boot, panicked, exited or hangs.

    :param machine: the machine's name in the topology.
    :param command: QEMU's command line.
    :param exit_status: QEMU's exit status, ``None`` while it still runs.
    :param console: the last lines of the guest's console.
    """

    def __init__(
        self,
        message: str,
        *,
        machine: str = "",
        command: Sequence[str] = (),
        exit_status: int | None = None,
        console: Sequence[str] = (),
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.machine = machine
        self.command = tuple(command)
        self.exit_status = exit_status
        self.console = tuple(console)


class GuestHungError(GuestError):
    """A guest still runs, but does not answer."""


class AgentLostError(GuestError):
    """The channel to a node's agent broke while something still waited on it."""


class KernelBuildError(InfrastructureError):
    """A guest kernel could not be built.

    :param output: the lines of the compiler or of make that say why.
    """

    def __init__(self, message: str, *, output: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.output = tuple(output)


class ImageError(InfrastructureError):
    """A guest image could not be made."""


class TrafficError(InfrastructureError):
    """The traffic tool failed or printed something unreadable."""


def unwritable(path: Path, error: OSError) -> ZdlabError:
    """Return (not raise) what to raise when a file the user named cannot be written."""
    message = f"cannot write {path}: {error.strerror}"
    if error.errno in _OF_DEVICES:
        return InfrastructureError(message, hint="check the free space there")
    return UsageError(message, hint="name another file")
