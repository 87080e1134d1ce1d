"""The version of the computer's QEMU: some faults and abilities are told by nothing else."""

from __future__ import annotations

import re
import subprocess
from functools import cache

from zdlab.guest.qemu.command import find_qemu

Version = tuple[int, int]
"""Major and minor number."""


def parse_version(said: str) -> Version | None:
    """Return the version from the first line of what ``--version`` says, ``None`` where it has none."""
    found = re.search(r"version (\d+)\.(\d+)", said)
    return None if found is None else (int(found[1]), int(found[2]))


@cache
def qemu_version() -> Version | None:
    """Return the version of this computer's QEMU, ``None`` where it does not tell.

    :raises MissingToolError: when it is not installed.
    """
    return parse_version(subprocess.run([find_qemu(), "--version"], capture_output=True, text=True, check=False).stdout)
