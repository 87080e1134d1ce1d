"""The machine of a capsule: one instruction-counted CPU that nothing outside can hurry, hold up or speak to.

Its clock is the number of instructions it executed; an idle CPU jumps to its next timer. All it does follows from its
kernel, its initramfs, its command line and its seed. What it prints goes into files, which never make it wait.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from zdlab.capsule.wire import LIMIT, PROGRESS_PORT, RESULT_PORT, WORD
from zdlab.errors import GuestError, GuestHungError
from zdlab.guest.qemu.command import find_qemu
from zdlab.paths import cache_dir

#: Any moment will do, as long as it is always the same.
_EPOCH: Final = "2026-01-01T00:00:00"
#: An instruction is a nanosecond, and an idle CPU jumps to its next timer. That jump is made by QEMU's main thread,
#: which now and then takes the CPU for idle a moment before its last instructions are counted, and jumps too far by
#: so many nanoseconds. While QEMU records, the two take turns; the record itself is of no use here.
_ICOUNT: Final = "shift=0,sleep=off,rr=record,rrfile=/dev/null"
#: Copying with one instruction for each byte would be slow, and nothing a real CPU does.
_CPU: Final = "max,-erms,-fsrm"
#: Real seconds without a word of progress after which a capsule counts as hung.
_SILENCE: Final = 300.0
_LOOK: Final = 0.1
_TAIL: Final = 40
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_prctl = ctypes.CDLL(None).prctl

#: Takes virtual seconds since the capsule's start, and what it is doing.
Report = Callable[[float, str], None]


@dataclass(frozen=True)
class CapsuleSpec:
    """A capsule's hardware.

    :param append: further words of the kernel's command line.
    """

    kernel: Path
    initrd: Path
    memory_mib: int
    seed: int
    append: tuple[str, ...] = ()


def kernel_words(append: Sequence[str]) -> str:
    """Return a capsule's kernel command line."""
    words = ["console=ttyS0", "quiet", "panic=-1", "dummy.numdummies=0", "ifb.numifbs=0"]
    # Memory is laid out the same way every time; the seed is the only chance there is.
    words += ["nokaslr", "norandmaps", "random.trust_cpu=on"]
    # The instruction counter is the clock: nothing to calibrate, nothing to watch over, no slow device to ask.
    words += ["clocksource=tsc", "tsc=reliable", "no_timer_check", "mitigations=off"]
    return " ".join([*words, "zdlab.node=capsule", WORD, *append])


def capsule_command(spec: CapsuleSpec, directory: Path, program: str) -> list[str]:
    """Return QEMU's arguments. Pure.

    :param directory: where console, progress and result are written.
    """
    command = [program, "-name", "guest=capsule", "-machine", "q35,hpet=off", "-accel", "tcg,thread=single"]
    command += ["-icount", _ICOUNT, "-rtc", f"base={_EPOCH},clock=vm", "-seed", str(spec.seed)]
    command += ["-cpu", _CPU, "-smp", "1", "-m", f"{spec.memory_mib}M"]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    command += ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    command += ["-kernel", str(spec.kernel), "-initrd", str(spec.initrd), "-append", kernel_words(spec.append)]
    for name in ("console", "progress", "result"):
        command += ["-chardev", f"file,id={name},path={_escape(str(directory / name))}"]
    command += ["-serial", "chardev:console"]
    # Without ioeventfd a write to a port is carried out by the CPU that makes it, not by another thread some time.
    command += ["-device", "virtio-serial-pci,max_ports=3,ioeventfd=off"]
    command += ["-device", f"virtserialport,chardev=progress,name={PROGRESS_PORT}"]
    command += ["-device", f"virtserialport,chardev=result,name={RESULT_PORT}"]
    return command


def run_capsule(spec: CapsuleSpec, directory: Path, report: Report) -> bytes:
    """Run a capsule to its end and return its result.

    :param directory: a private one, where it writes.
    :param report: called many times a second; may raise, which ends the capsule.
    :raises GuestError: when it ends without a result.
    :raises GuestHungError: when it does not end.
    :raises MissingToolError: when QEMU is not installed.
    """
    command = capsule_command(spec, directory, find_qemu())
    with _own_cpu() as cpus, _started(command, cpus) as process:
        _await(process, directory, command, report)
        said = process.stderr.read(4096).decode("utf-8", "replace").strip() if process.stderr else ""
    result = _read(directory / "result")
    if process.returncode == 0 and result:
        return result
    raise GuestError(
        f"the capsule ended without a result (QEMU's status {process.returncode})" + (f": {said}" if said else ""),
        machine="capsule",
        command=command,
        exit_status=process.returncode,
        console=_console(directory),
        hint="the last lines of its console say more",
    )


@contextmanager
def _own_cpu() -> Iterator[set[int]]:
    """Yield a CPU no other capsule has, or all of them when there is none left.

    QEMU's two threads hand over to each other at every idle moment of the guest, which takes several times as long
    from one CPU to another.
    """
    allowed = os.sched_getaffinity(0)
    directory = cache_dir("capsules")
    for cpu in sorted(allowed):
        lock = FileLock(directory / f"cpu-{cpu}.lock", mode=0o600)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        try:
            yield {cpu}
        finally:
            lock.release()
        return
    yield allowed


@contextmanager
def _started(command: Sequence[str], cpus: set[int]) -> Iterator[subprocess.Popen[bytes]]:
    def prepare() -> None:
        """In the child: end with the parent, stay on the CPU, write no file larger than a result may be."""
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
        os.sched_setaffinity(0, cpus)

    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=prepare,  # noqa: PLW1509 - three system calls, looked up before the fork
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _await(process: subprocess.Popen[bytes], directory: Path, command: Sequence[str], report: Report) -> None:
    """Wait for a capsule's end and pass on what it says of its progress."""
    heard = time.monotonic()
    offset = 0
    word: Mapping[str, Any] = {}
    while True:
        try:
            process.wait(_LOOK)
        except subprocess.TimeoutExpired:
            pass
        else:
            return
        text = _read(directory / "progress", offset)
        lines, newline, _ = text.rpartition(b"\n")
        if newline:
            heard = time.monotonic()
            offset += len(lines) + 1
            word = _word(lines.splitlines()[-1])
        report(float(word.get("seconds", 0.0)), str(word.get("phase", "booting")))
        if time.monotonic() - heard > _SILENCE:
            process.kill()
            raise GuestHungError(
                f"the capsule said nothing for {_SILENCE:g} s",
                machine="capsule",
                command=command,
                console=_console(directory),
            )


def _word(line: bytes) -> Mapping[str, Any]:
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return found


def _read(path: Path, offset: int = 0) -> bytes:
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(LIMIT)
    except FileNotFoundError:
        return b""


def _console(directory: Path) -> list[str]:
    lines = _read(directory / "console").decode("utf-8", "replace").splitlines()
    return [line.rstrip() for line in lines if line.strip()][-_TAIL:]


def _escape(value: str) -> str:
    """Escape a value for QEMU's comma-separated options."""
    return value.replace(",", ",,")
