"""What labs could leave on a computer, looked up before them and after them: nothing of it may be new.

A network namespace lives as long as a process, a mount or a descriptor of a process holds it. Of the computer's own,
other programs make and remove some all the time, so namespaces are looked for where one's own labs can have left them:
at the processes below this one, orphans included, and among the mounts.
"""

from __future__ import annotations

import ctypes
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from zdlab.paths import runtime_dir

#: What was ended is given as long to go.
_GRACE: Final = 3.0
_PR_SET_CHILD_SUBREAPER: Final = 36


@dataclass(frozen=True)
class Remains:
    """What there is: of the computer's, all; of processes, those below this one, with all namespaces they hold.

    :param things: descriptions for people, by what tells things of a kind apart.
    """

    things: Mapping[tuple[str, str], str]

    @classmethod
    def now(cls, prefix: str) -> Remains:
        """Look.

        :param prefix: how the names of one's own labs begin; those of others come and go.
        """
        found: dict[tuple[str, str], str] = {}
        for _, name in socket.if_nameindex():
            found["interface", name] = f"interface {name}"
        for line in Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
            source, target, kind, *_ = line.split(" ")
            found["mount", f"{source} {target}"] = f"{kind} mounted at {target}"
        for path in runtime_dir().iterdir():
            if path.name.startswith((prefix, ".")):
                found["directory", path.name] = f"directory {path}"
        own = _namespace(os.getpid())
        for process in psutil.Process().children(recursive=True):
            if command := _name(process):
                where = _namespace(process.pid)
                there = f", which holds the network namespace {where}" if where not in {own, ""} else ""
                found["process", str(process.pid)] = f"process {process.pid} ({command}){there}"
        return cls(found)


def _namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:  # it ended, or is another user's
        return ""


def _name(process: psutil.Process) -> str:
    """Return a process's name, empty when it has ended."""
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else process.name()
    except psutil.Error:
        return ""


def adopt_orphans() -> None:
    """Have processes whose parents end become children of this one, where they are found, rather than of init."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def left_since(before: Remains, prefix: str) -> list[str]:
    """Return what is there now and was not before, after what was ended had time to go."""
    deadline = time.monotonic() + _GRACE
    while True:
        now = Remains.now(prefix).things
        left = [text for thing, text in now.items() if thing not in before.things]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)
