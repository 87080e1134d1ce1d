"""Nodes that are namespaces: an agent forked into namespaces of its own, on whatever kernel the caller runs.

Making the node and starting its agent are one step. The child serves its channel until that closes, and dies with
its parent in any case.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket

from zdlab.agent import linux

#: Where iproute2 looks for namespaces by name. A wire's name has a colon, which iproute2 does not mind.
DIRECTORY = "/run/netns"


def netns_path(node: str) -> str:
    """Return the file that holds a node's network namespace."""
    return f"{DIRECTORY}/{node}"


def start_namespace(name: str) -> tuple[int, socket.socket]:
    """Make the namespaces of a node and start its agent in them; return its process and our end of its channel.

    :raises OSError: when the kernel refuses; its text names the node.
    """
    ours, theirs = socket.socketpair()
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        _serve(name, theirs, done)
    theirs.close()
    os.close(done)
    with os.fdopen(ready, "rb") as stream:
        said = stream.readline().decode("utf-8", "replace").strip()
    if said != "ready":
        os.waitpid(pid, 0)
        ours.close()
        raise OSError(f"cannot make the namespace of {name}: {said or 'its agent died'}")
    os.close(os.open(netns_path(name), os.O_CREAT | os.O_CLOEXEC, 0o600))
    linux.mount(f"/proc/{pid}/ns/net", netns_path(name), flags=linux.MS_BIND)
    return pid, ours


def _serve(name: str, channel: socket.socket, done: int) -> None:
    """In the child: enter namespaces, say so, serve, end."""
    try:
        from zdlab.agent.server import serve  # noqa: PLC0415 - the server starts namespaces

        linux.die_with_parent(signal.SIGKILL)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.setsid()
        _close_others({0, 1, 2, channel.fileno(), done})
        linux.unshare(linux.CLONE_NEWNET | linux.CLONE_NEWNS | linux.CLONE_NEWUTS)
        linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
        socket.sethostname(re.sub(r"[^A-Za-z0-9-]", "-", name))
        # /sys shows the network devices of whoever mounted it.
        with contextlib.suppress(OSError):
            flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
            linux.mount("sysfs", "/sys", "sysfs", flags)
        linux.loopback_up()
        os.write(done, b"ready\n")
        os.close(done)
        serve(channel.detach())
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(done, f"{error.strerror or error}\n".encode())
    except BaseException:
        import traceback  # noqa: PLC0415 - takes an emulated guest a while

        traceback.print_exc()
    finally:
        os._exit(0)


def _close_others(kept: set[int]) -> None:
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(entry))
