"""What an image needs beside the ordinary for machines in which nodes live: tcpdump, and QEMU with its firmware."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from zdlab.errors import MissingToolError
from zdlab.guest.image.contents import system_program

_PROGRAM: Final = "qemu-system-x86_64"
#: Where QEMU looks for firmware, and the directories of the computer it is from, in Debian's layout.
_FIRMWARE: Final = Path("/usr/share/qemu")
_FIRMWARE_SOURCES: Final = (_FIRMWARE, Path("/usr/share/seabios"))
_FIRMWARE_FILES: Final = ("bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin")
#: Debian builds QEMU's emulator as a module: needed when the machine's KVM cannot be used.
_MODULES: Final = "lib/*/qemu/accel-tcg-x86_64.so"


def holder_files(*, machines: bool) -> dict[str, Path]:
    """Return files by their path in the image.

    :param machines: machines run in it, too.
    :raises MissingToolError: when one is not installed.
    """
    files = {"/usr/bin/tcpdump": system_program("tcpdump", "tcpdump")}
    if not machines:
        return files
    files[f"/usr/bin/{_PROGRAM}"] = system_program(_PROGRAM, "qemu-system-x86")
    for name in _FIRMWARE_FILES:
        found = [directory / name for directory in _FIRMWARE_SOURCES if (directory / name).is_file()]
        if not found:
            raise MissingToolError(
                f"QEMU's firmware {name} is missing", hint="apt-get install seabios qemu-system-data"
            )
        files[str(_FIRMWARE / name)] = found[0]
    return files | {str(path): path for path in Path("/usr").glob(_MODULES)}
