"""The labs of this user: one private directory each below the runtime directory, locked while the lab lives."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zdlab.errors import LabError, UsageError
from zdlab.lab.shepherd import INFO, LOCK
from zdlab.paths import runtime_dir

#: Seconds between making a directory and locking it are far fewer.
_GRACE = 60.0
#: Characters of a name at most: it is a host name too.
NAME_LENGTH: Final = 63
_NAME = re.compile(rf"[A-Za-z][A-Za-z0-9_.-]{{0,{NAME_LENGTH - 1}}}")


@dataclass(frozen=True)
class LabInfo:
    """A running lab.

    :param pid: of its supervisor.
    :param topology: the file it was made from.
    :param since: when it was started, ISO 8601.
    """

    name: str
    pid: int
    topology: str
    nodes: tuple[str, ...]
    since: str


def claim(name: str) -> tuple[Path, int]:
    """Make a lab's directory and lock it; return both, the lock as a descriptor.

    :raises UsageError: when the name is no name, or a lab of that name runs.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a lab", hint="letters, digits, dot, dash and underscore, first a letter"
        )
    directory = runtime_dir() / name
    for _ in range(2):
        # Made under another name and locked before it gets its own: nobody ever sees it without an owner.
        try:
            partial = Path(tempfile.mkdtemp(prefix=".", dir=directory.parent))
        except OSError as error:
            raise _unwritable(directory, error) from error
        try:
            lock = os.open(partial / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            partial.rename(directory)  # fails when there is one that is not empty
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise _unwritable(directory, error) from error
            os.close(lock)
        else:
            return directory, lock
        if not _remove_if_dead(directory):
            raise UsageError(
                f"a lab named {name} is running", hint=f"zdlab down {name}, or choose another name with --name"
            )
    raise LabError(f"cannot make {directory}", hint="another process makes a lab of the same name")


def _unwritable(directory: Path, error: OSError) -> LabError:
    return LabError(f"cannot write to {directory}: {error.strerror}", hint="check the free space and inodes there")


def list_labs() -> list[LabInfo]:
    """Return the running labs by name; what dead ones left is removed."""
    found = []
    for directory in sorted(runtime_dir().iterdir()):
        if directory.name.startswith(".") or not directory.is_dir() or _remove_if_dead(directory):
            continue
        try:
            info = json.loads((directory / INFO).read_text())
            found.append(LabInfo(info["name"], info["pid"], info["topology"], tuple(info["nodes"]), info["since"]))
        except (OSError, ValueError, KeyError):
            continue  # it is just being made, or just going
    return found


def find_lab(name: str | None) -> LabInfo:
    """Return the lab of a name, or the only one that runs.

    :raises UsageError: when there is none, or several and no name.
    """
    labs = list_labs()
    if name is None and len(labs) == 1:
        return labs[0]
    for lab in labs:
        if lab.name == name:
            return lab
    if not labs:
        raise UsageError("no lab is running" if name is None else f"no lab {name} is running", hint="zdlab up FILE")
    names = ", ".join(lab.name for lab in labs)
    raise UsageError(f"there is no lab {name!r}" if name else "several labs are running", hint=f"name one of: {names}")


def collect_dead() -> list[str]:
    """Remove what dead labs left and return their names."""
    directories = [path for path in sorted(runtime_dir().iterdir()) if path.is_dir()]
    return [directory.name for directory in directories if _remove_if_dead(directory)]


def _remove_if_dead(directory: Path) -> bool:
    """Remove a lab's directory when nobody holds its lock; tell whether it is gone."""
    try:
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        # Left by a process that died before it locked it, unless it was made a moment ago.
        with contextlib.suppress(OSError):
            if time.time() - directory.stat().st_mtime > _GRACE:
                directory.rmdir()
        return not directory.exists()
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return not directory.exists()
