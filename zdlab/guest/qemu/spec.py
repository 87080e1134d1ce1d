"""What a machine is to be: everything QEMU's command line is made from, apart from descriptors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Accelerator = Literal["kvm", "tcg"]
Irqchip = Literal["on", "off", "split"]


@dataclass(frozen=True)
class NicSpec:
    """A virtio-net device on a tap.

    :param queues: queue pairs.
    :param vhost: served by vhost-net in the kernel.
    :param sndbuf: bytes of the guest that may wait behind the tap; ``None``: no limit.
    """

    mac: str
    queues: int = 1
    vhost: bool = False
    sndbuf: int | None = None


@dataclass(frozen=True)
class MachineSpec:
    """A machine.

    :param memory_mib: guest memory in MiB.
    :param append: further words of the kernel's command line.
    :param nested: it runs in another machine.
    :param emulated_below: a machine it runs in is emulated, so that its KVM has emulated hardware under it.
    :param cpu_model: QEMU's ``-cpu``; ``None`` for what works.
    :param irqchip: QEMU's ``kernel-irqchip``; ``None`` for what works.
    """

    name: str
    kernel: Path
    initrd: Path
    accelerator: Accelerator
    memory_mib: int = 512
    cpus: int = 1
    append: tuple[str, ...] = ()
    nics: tuple[NicSpec, ...] = ()
    nested: bool = False
    emulated_below: bool = False
    cpu_model: str | None = None
    irqchip: Irqchip | None = None
