"""A trial in a capsule with all that decides it: what is kept to repeat it, here or elsewhere."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from zdlab.capsule.machine import CapsuleSpec, Report, run_capsule
from zdlab.capsule.scratch import scratch
from zdlab.capsule.wire import REQUEST, WireError, unpacked
from zdlab.errors import GuestError, InfrastructureError
from zdlab.experiment.task import Task
from zdlab.guest.image import cpio

#: Changes whenever a case written before would not be run the same way.
FORMAT: Final = 1


@dataclass(frozen=True)
class Case:
    """Everything that decides a trial in a capsule, apart from the files and QEMU itself, which are named.

    :param kernel: SHA-256 of the kernel's file, ``image`` that of the image's.
    :param release: of the kernel.
    :param qemu: what QEMU says of its version.
    :param memory_mib: of the capsule.
    :param append: further words of the kernel's command line.
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
    task: Mapping[str, Any]
    boot: Mapping[str, tuple[str, str, str]]

    def to_json(self) -> dict[str, Any]:
        """Return the case as plain values."""
        boot = {name: list(files) for name, files in self.boot.items()}
        return {"format": FORMAT, **asdict(self), "append": list(self.append), "boot": boot}

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
                kernel=_text(value["kernel"]),
                release=_text(value["release"]),
                image=_text(value["image"]),
                qemu=_text(value["qemu"]),
                memory_mib=_number(value["memory_mib"]),
                seed=_number(value["seed"]),
                append=tuple(map(_text, value["append"])),
                task=value["task"],
                boot={_text(name): _three(files) for name, files in value["boot"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InfrastructureError(f"what decides this trial is not readable: {error}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 4096 or not value.isprintable():
        raise ValueError(f"{str(value)[:60]!r} is no text")
    return value


def _three(value: Any) -> tuple[str, str, str]:
    kernel, initrd, release = map(_text, value)
    return kernel, initrd, release


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 32:
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


def _write_initrd(target: Path, image: Path, asked: Mapping[str, Any]) -> None:
    """Write the image with the request behind it: the kernel unpacks one archive after the other."""
    request = json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()
    base = image.read_bytes()
    extra = gzip.compress(cpio.archive({REQUEST: cpio.file(request)}), 1, mtime=0)
    try:
        target.write_bytes(base + bytes(-len(base) % 4) + extra)
    except OSError as error:
        raise InfrastructureError(f"cannot write {target}: {error.strerror}", hint="check the free space") from error
