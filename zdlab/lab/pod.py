"""The pod: namespaces of a lab's own for network, mounts, host name and IPC, around its first process."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from zdlab.agent import linux
from zdlab.agent.namespaces import DIRECTORY

_SYSCTLS: Final = "/proc/sys"


def enter(name: str, *, capsule: bool = False) -> None:
    """Move the calling process, PID 1 of its PID namespace, into the rest of a pod.

    ``/proc`` and ``/run`` are the pod's own; the rest of the file system is the computer's. Of the sysctls only those
    of the network namespaces can be written.

    :param capsule: the kernel is the lab's own, and all its sysctls may be set.
    :raises OSError: when the kernel refuses.
    """
    linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC)
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount("proc", "/proc", "proc", flags)
    if not capsule:
        # A lab must not change the kernel it shares with everything else on the computer.
        linux.mount(_SYSCTLS, _SYSCTLS, flags=linux.MS_BIND)
        linux.mount(f"{_SYSCTLS}/net", f"{_SYSCTLS}/net", flags=linux.MS_BIND)
        linux.mount("none", _SYSCTLS, flags=linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | flags)
    linux.mount("tmpfs", "/run", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=0755")
    Path(DIRECTORY).mkdir()
    with contextlib.suppress(OSError):
        socket.sethostname(name)
    linux.loopback_up()


def write_hosts(addresses: Mapping[str, str]) -> None:
    """Give the pod an ``/etc/hosts`` of its own with the nodes' names."""
    lines = ["127.0.0.1 localhost", "::1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
    hosts = Path("/run/hosts")
    hosts.write_text("\n".join(lines) + "\n")
    with contextlib.suppress(OSError):  # a computer without /etc/hosts has nothing to cover
        linux.mount(str(hosts), "/etc/hosts", flags=linux.MS_BIND)


def reap(kept: set[int]) -> None:
    """Collect orphans that became children of the first process, leaving those others wait for."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in kept:
            return
        with contextlib.suppress(ChildProcessError):
            os.waitpid(found.si_pid, 0)
