"""What a lab is asked to be: sent once from the client to the supervisor, by processes of the same user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zdlab.plan.operations import Operation

AcceleratorRequest = Literal["auto", "kvm", "tcg"]


@dataclass(frozen=True)
class BootFiles:
    """What a machine boots from, as the kernel that runs its QEMU sees the files."""

    kernel: Path
    initrd: Path
    release: str


@dataclass(frozen=True)
class LabRequest:
    """A lab to build.

    :param directory: its private runtime directory, which exists.
    :param places: the machine each node lives in, empty for none.
    :param ends: for each end of a link where it is, and where its packets are captured.
    :param boot: files by machine.
    :param accelerator: what the command line forces; ``None`` leaves it to each machine.
    :param capsule: it is in a capsule.
    """

    name: str
    directory: Path
    topology: str
    nodes: tuple[str, ...]
    kinds: Mapping[str, str]
    places: Mapping[str, str]
    ends: tuple[Mapping[str, str], ...]
    operations: tuple[Operation, ...]
    boot: Mapping[str, BootFiles]
    accelerator: AcceleratorRequest | None
    since: str
    capsule: bool = False
