"""The process outside a pod: makes the pod's first process, waits for it, and clears up after it.

Started by :mod:`zdlab.lab.launch`; the request comes on a socket. Whatever ends the supervisor, the kernel
ends everything in the pod with it, and the shepherd removes the lab's runtime directory. When the shepherd is the
one that dies, the supervisor is told by the kernel and does the same. The lock on the directory is held by both
from before the lab is made; who finds it free knows that the lab is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Final

from zdlab.agent import linux
from zdlab.lab.request import LabRequest

LOCK: Final = "lock"
INFO: Final = "lab.json"
SOCKET: Final = "control.sock"
LOG: Final = "supervisor.log"
#: What comes with a channel and a lock.
GIVEN: Final = b"lab"


def run(channel: socket.socket, lock: int) -> int:
    """Run a lab: returns when it is gone.

    :param channel: the request comes from there.
    :param lock: the lock on the lab's directory.
    """
    with channel.makefile("rb") as stream:
        # Written by the client that started this process, through a socket pair nobody else holds.
        request: LabRequest = pickle.load(stream)  # noqa: S301
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    log = os.open(request.directory / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    try:
        _enter_namespaces()
    except OSError as error:
        _refuse(channel, error)
        _remove(request.directory, lock)
        return 1
    pid = os.fork()
    if pid == 0:
        _supervise(request, channel, lock)
    channel.close()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    _remove(request.directory, lock)
    return 0


def _remove(directory: Path, lock: int) -> None:
    """Remove the lab's directory unless that was done, and a new lab of the same name has made its own since."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(lock), (directory / LOCK).stat()):
            shutil.rmtree(directory, ignore_errors=True)


def write_info(request: LabRequest, pid: int) -> None:
    """Write what ``ps`` shows of a lab; ``pid`` is the supervisor's as the computer sees it."""
    info = {
        "name": request.name,
        "pid": pid,
        "topology": request.topology,
        "nodes": list(request.nodes),
        "since": request.since,
    }
    partial = request.directory / f"{INFO}.partial"
    partial.write_text(json.dumps(info))
    partial.rename(request.directory / INFO)


def _enter_namespaces() -> None:
    """Have the next child be PID 1 of a new PID namespace; without root, in a user namespace of its own."""
    if os.geteuid() == 0:
        linux.unshare(linux.CLONE_NEWPID)
        return
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWPID)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def _refuse(channel: socket.socket, error: OSError) -> None:
    hint = "run as root"
    if os.geteuid() != 0:
        hint = (
            "run as root, or allow user namespaces: sysctl user.max_user_namespaces above 0, and where it exists "
            "kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0"
        )
    with contextlib.suppress(OSError):
        message = {"failed": f"cannot make the lab's namespaces: {error.strerror or error}", "hint": hint}
        channel.sendall(json.dumps(message).encode() + b"\n")


def _supervise(request: LabRequest, channel: socket.socket, lock: int) -> None:
    """In the child: become the pod's first process."""
    status = 1
    try:
        from zdlab.lab import supervisor  # noqa: PLC0415 - only the child needs it, and it takes a while to load

        status = supervisor.run(request, channel, lock)
    finally:
        os._exit(status)


def main() -> None:
    """Be the program: standard input is a socket that brings the channel and the lock, or ends."""
    from zdlab.lab import supervisor  # noqa: F401, PLC0415 - loaded while its caller still looks for what to ask for

    with socket.socket(fileno=os.dup(0)) as line:
        said, descriptors, _, _ = socket.recv_fds(line, len(GIVEN), 2)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if said != GIVEN:
        return
    channel, lock = descriptors
    sys.exit(run(socket.socket(fileno=channel), lock))
