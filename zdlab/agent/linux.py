"""System calls Python's standard library lacks: namespaces, mounts, process control.

Python has ``os.unshare`` and ``os.setns`` from 3.12 on; Debian 12 ships 3.11. Numbers are from the kernel's
``sched.h``, ``mount.h``, ``prctl.h``, ``seccomp.h`` and ``if_tun.h``.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Move the calling process into new namespaces (unshare(2)).

    :raises OSError: when the kernel refuses.
    """
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """Move the calling thread into the namespace of a descriptor (setns(2)).

    :raises OSError: when the kernel refuses.
    """
    _check(_libc.setns(descriptor, kind), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount (mount(2)).

    :raises OSError: when the kernel refuses.
    """
    arguments = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _check(_libc.mount(*arguments), f"mount {kind or 'bind'} at {target}")


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send the calling process a signal when its parent dies."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl")


class _SockFprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def pretend_setgroups() -> None:
    """Have setgroups(2) of the calling process, and of what it becomes, succeed without effect where it is denied.

    A user namespace made without privileges denies it for good, even setting the groups a process has.

    :raises OSError: when the kernel refuses the filter.
    """
    with open("/proc/self/setgroups") as stream:
        if stream.read().strip() != "deny":
            return
    program = b"".join(
        struct.pack("=HBBI", *instruction)  # struct sock_filter
        for instruction in (
            (0x20, 0, 0, 4),  # the architecture in struct seccomp_data
            (0x15, 0, 3, 0xC000003E),  # AUDIT_ARCH_X86_64
            (0x20, 0, 0, 0),  # the call's number
            (0x15, 0, 1, 116),  # setgroups
            (0x06, 0, 0, 0x00050000),  # SECCOMP_RET_ERRNO with no error
            (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
        )
    )
    filters = _SockFprog(len(program) // 8, program)
    _check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filters), 0, 0), "prctl")


def loopback_up() -> None:
    """Bring ``lo`` of the calling thread's network namespace up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
