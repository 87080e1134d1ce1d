"""Choosing between KVM and TCG by proof.

A ``/dev/kvm`` that exists proves nothing: under some hypervisors it runs real-mode code and never gets a kernel
through its 64-bit start. So the actual kernel is booted to its agent under KVM once, with a short deadline, and the
answer is remembered for this computer, QEMU and kernel.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from zdlab.errors import GuestError, MissingToolError
from zdlab.guest.agent_client import AgentClient
from zdlab.guest.qemu.command import find_qemu
from zdlab.guest.qemu.machine import Machine
from zdlab.guest.qemu.process import on_computer
from zdlab.guest.qemu.spec import Accelerator, MachineSpec
from zdlab.paths import cache_dir

Request = Literal["auto", "kvm", "tcg"]

#: Seconds for a boot that takes less than one where KVM works.
_DEADLINE: Final = 6.0
_DEVICE: Final = Path("/dev/kvm")


@dataclass(frozen=True)
class AcceleratorChoice:
    """What a machine runs on, and why."""

    name: Accelerator
    reason: str


async def choose_accelerator(request: Request, kernel: Path, initrd: Path) -> AcceleratorChoice:
    """Return what to run a kernel on.

    :param request: ``auto`` takes KVM when it is proven, else TCG.
    :raises MissingToolError: when ``kvm`` is asked for and does not work.
    """
    if request == "tcg":
        return AcceleratorChoice("tcg", "asked for")
    problem = _unusable() or await _proof(kernel, initrd)
    if not problem:
        return AcceleratorChoice("kvm", "proven by booting this kernel")
    if request == "kvm":
        raise MissingToolError(f"KVM does not work here: {problem}", hint=_hint(problem))
    return AcceleratorChoice("tcg", f"KVM does not work here: {problem}")


def choose_unproven(request: Request) -> AcceleratorChoice:
    """Return what to run a kernel on in a capsule, whose emulated CPU has virtualisation: no boot for a proof.

    :raises MissingToolError: when ``kvm`` is asked for and is not there.
    """
    problem = _unusable()
    if request != "tcg" and not problem:
        return AcceleratorChoice("kvm", "the capsule has KVM, on emulated hardware")
    if request == "kvm":
        raise MissingToolError(f"KVM does not work in the capsule: {problem}", hint="its kernel needs CONFIG_KVM_AMD=y")
    return AcceleratorChoice("tcg", f"KVM does not work in the capsule: {problem}" if problem else "asked for")


async def choose_nested(request: Request, holder: AgentClient, *, emulated: bool) -> AcceleratorChoice:
    """Return what to run a machine on that lives in another one.

    KVM there is not proven by a boot of its own: the machine's own boot is watched as closely.

    :param holder: agent of the machine it lives in.
    :param emulated: whether that machine, or one around it, is emulated.
    :raises MissingToolError: when ``kvm`` is asked for and is not there.
    """
    if request == "tcg":
        return AcceleratorChoice("tcg", "asked for")
    problem = await holder.kvm_problem()
    if not problem:
        return AcceleratorChoice("kvm", f"{holder.name} has KVM" + (", on emulated hardware" if emulated else ""))
    if request == "kvm":
        raise MissingToolError(
            f"KVM does not work in {holder.name}: {problem}",
            hint=f"nested virtualisation must be on for {holder.name}; or leave out accelerator: kvm",
        )
    return AcceleratorChoice("tcg", f"KVM does not work in {holder.name}: {problem}")


def _unusable() -> str:
    if not _DEVICE.exists():
        return f"there is no {_DEVICE}"
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return f"{_DEVICE} may not be opened by this user"
    return ""


def _hint(problem: str) -> str:
    if "may not be opened" in problem:
        return "join the group kvm, or (on a CI runner) set the device's mode by a udev rule"
    if "there is no" in problem:
        return "enable virtualisation in the firmware, or nested virtualisation in the hypervisor below"
    return "leave out --accel kvm, or accelerator: kvm in the file, to emulate the guests"


async def _proof(kernel: Path, initrd: Path) -> str:
    """Boot the kernel under KVM once; return what went wrong, empty when nothing did."""
    memory = cache_dir() / "accelerators.json"
    key = _key(kernel)
    try:
        known: dict[str, str] = json.loads(memory.read_text())
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = await _boot(kernel, initrd)
        partial = memory.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(known))
        partial.replace(memory)
    return known[key]


async def _boot(kernel: Path, initrd: Path) -> str:
    machine = Machine(MachineSpec(name="probe", kernel=kernel, initrd=initrd, accelerator="kvm", memory_mib=256))
    await machine.start(on_computer())
    try:
        await asyncio.wait_for(machine.wait_ready(_DEADLINE), _DEADLINE + 2)
    except GuestError as error:
        return f"a guest under KVM {error.message.removeprefix('machine probe ').splitlines()[0]}"
    finally:
        await machine.stop()
    return ""


def _key(kernel: Path) -> str:
    """Name computer, host kernel, QEMU and guest kernel: what the answer depends on."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line
            break
    qemu = Path(find_qemu()).stat()
    parts = (platform.node(), platform.release(), model, f"{qemu.st_size}:{qemu.st_mtime_ns}")
    digest = hashlib.sha256("\0".join(parts).encode() + kernel.read_bytes())
    return digest.hexdigest()[:32]
