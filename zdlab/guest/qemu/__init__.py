"""The QEMU process of a machine: its command line, its console, its life."""

from __future__ import annotations

from zdlab.guest.qemu.machine import Machine
from zdlab.guest.qemu.process import Launcher, in_machine, on_computer
from zdlab.guest.qemu.spec import MachineSpec, NicSpec

__all__ = ["Launcher", "Machine", "MachineSpec", "NicSpec", "in_machine", "on_computer"]
