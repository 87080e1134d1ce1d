"""A trial in a capsule with all that decides it: what is kept to repeat it, here or elsewhere."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from zdlab.capsule.machine import CapsuleSpec, Report, capsule_command, run_capsule
from zdlab.capsule.scratch import scratch
from zdlab.capsule.wire import REQUEST, WireError, packed, unpacked
from zdlab.errors import GuestError, GuestHungError, InfrastructureError
from zdlab.experiment.task import Task
from zdlab.guest.image import cpio

#: Changes whenever a case written before would not be run the same way.
FORMAT: Final = 2
#: MiB; no computer has more.
_MOST_MEMORY: Final = 1 << 20
#: What plain values that are not what they should be are noticed by.
NONSENSE: Final = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class Case:
    """Everything that decides a trial in a capsule, apart from the files and QEMU itself, which are named.

    :param kernel: SHA-256 of the kernel's file, ``image`` that of the image's.
    :param release: of the kernel.
    :param qemu: what QEMU says of its version.
    :param memory_mib: of the capsule.
    :param append: further words of the kernel's command line.
    :param command: QEMU's arguments, with words in capitals in place of paths; they are compared, never run.
    :param task: as :meth:`Task.to_json` writes it.
    :param boot: what the capsule's guests boot from: paths in its image, and the kernel's release.
    """

    kernel: str
    release: str
    image: str
    qemu: str
    memory_mib: int
    seed: int
    append: tuple[str, ...]
    command: tuple[str, ...]
    task: Mapping[str, Any]
    boot: Mapping[str, tuple[str, str, str]]

    def to_json(self) -> dict[str, Any]:
        """Return the case as plain values."""
        boot = {name: list(files) for name, files in self.boot.items()}
        return {
            "format": FORMAT,
            **asdict(self),
            "append": list(self.append),
            "command": list(self.command),
            "boot": boot,
        }

    @classmethod
    def from_json(cls, value: Any) -> Case:
        """Return the case that :meth:`to_json` wrote.

        :raises InfrastructureError: when the value is none, or of another version of zdlab.
        """
        try:
            if value["format"] != FORMAT:
                raise ValueError(f"its format is {value['format']!r}, not {FORMAT}")
            Task.from_json(value["task"])
            return cls(
                kernel=text(value["kernel"]),
                release=text(value["release"]),
                image=text(value["image"]),
                qemu=text(value["qemu"]),
                memory_mib=natural(value["memory_mib"], _MOST_MEMORY),
                seed=natural(value["seed"]),
                append=tuple(map(text, value["append"])),
                command=tuple(map(text, value["command"])),
                task=value["task"],
                boot={text(name): _three(files) for name, files in value["boot"].items()},
            )
        except NONSENSE as error:
            raise InfrastructureError(f"what decides this trial is not readable: {error}") from error


def command_of(case: Case) -> tuple[str, ...]:
    """Return the arguments this zdlab would give QEMU for a case."""
    spec = CapsuleSpec(Path("KERNEL"), Path("INITRD"), case.memory_mib, case.seed, case.append)
    return tuple(capsule_command(spec, Path("DIRECTORY"), "QEMU"))


def text(value: Any) -> str:
    """Return a value that is a printable text of sensible length.

    :raises ValueError: when it is not.
    """
    if not isinstance(value, str) or len(value) > 4096 or not value.isprintable():
        raise ValueError(f"{str(value)[:60]!r} is no text")
    return value


def _three(value: Any) -> tuple[str, str, str]:
    kernel, initrd, release = map(text, value)
    return kernel, initrd, release


def natural(value: Any, most: int = (1 << 32) - 1) -> int:
    """Return a value that is a number, from 0 to the largest.

    :raises ValueError: when it is not.
    """
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{str(value)[:60]!r} is no number")
    return value


def run_case(case: Case, kernel: Path, image: Path, report: Report) -> bytes:
    """Run a trial and return its result, which is whole.

    :param kernel: the kernel's file, ``image`` the image's; the caller has seen to it that they are those of the case.
    :raises GuestError: when the capsule ends without a result.
    """
    with scratch("capsule") as directory:
        initrd = directory / "initrd"
        _write_initrd(initrd, image, {"task": case.task, "boot": case.boot})
        spec = CapsuleSpec(kernel, initrd, case.memory_mib, case.seed, case.append)
        result = run_capsule(spec, directory, report)
    try:
        unpacked(result)
    except WireError as error:
        raise GuestError(str(error), machine="capsule", hint="the capsule was killed, or the disk is full") from error
    return result


def none_came_out(error: GuestError) -> bytes:
    """Return the result of a capsule that came to none: what was seen of its end from outside."""
    kind = "hung" if isinstance(error, GuestHungError) else "failed"
    said = {"message": error.message, "hint": error.hint, "kind": kind, "origin": []}
    return packed({"error": said, "outside": True}, {"console": "\n".join(error.console).encode()})


def _write_initrd(target: Path, image: Path, asked: Mapping[str, Any]) -> None:
    """Write the image with the request behind it: the kernel unpacks one archive after the other."""
    request = json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()
    base = image.read_bytes()
    extra = gzip.compress(cpio.archive({REQUEST: cpio.file(request)}), 1, mtime=0)
    try:
        target.write_bytes(base + bytes(-len(base) % 4) + extra)
    except OSError as error:
        raise InfrastructureError(f"cannot write {target}: {error.strerror}", hint="check the free space") from error
