"""What machines in machines are run with where that depends on the computer's QEMU."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from zdlab.guest.accelerator import Request, choose_accelerator
from zdlab.guest.qemu.version import Version, qemu_version
from zdlab.lab.request import BootFiles
from zdlab.plan.build import Plan
from zdlab.plan.operations import StartMachine
from zdlab.topology.places import around

#: The first version of QEMU without a local APIC of its own for KVM's guests (its docs/about/removed-features.rst).
_KERNEL_APIC_ONLY: Final = (8, 0)


def suited_to_capsule(plan: Plan) -> Plan:
    """Return the plan of a lab in a capsule as this computer's QEMU can run its guests.

    :raises MissingToolError: when QEMU is not installed.
    """
    guests = {start.node for start in _starts(plan)}
    return without_own_apic(plan, guests) if guests and not has_own_apic(qemu_version()) else plan


def suited_to_computer(plan: Plan, boot: Mapping[str, BootFiles], accelerator: str | None) -> Plan:
    """Return the plan of a lab on this computer as its QEMU can run the machines in machines.

    :param accelerator: what the command line forces.
    :raises MissingToolError: when QEMU is not installed, or KVM is asked for and does not work.
    """
    starts = {start.node: start for start in _starts(plan)}
    nested = [name for name, start in starts.items() if start.place]
    if not nested or has_own_apic(qemu_version()):
        return plan

    def emulated(name: str) -> bool:
        return any(_emulated(starts[holder], boot[holder], accelerator) for holder in around(plan.topology, name))

    return without_own_apic(plan, {name for name in nested if emulated(name)})


def has_own_apic(version: Version | None) -> bool:
    """Tell whether a QEMU has a local APIC for guests of KVM; one whose version is not known is taken for a new one."""
    return version is not None and version < _KERNEL_APIC_ONLY


def without_own_apic(plan: Plan, emulated: Collection[str]) -> Plan:
    """Return a plan as a QEMU without a local APIC for guests of KVM can run it. Pure.

    On emulated hardware KVM's own interrupt controllers do not work: interrupts reach the guest where it has them
    masked. QEMU's stand in for them, where it has one. A machine of one CPU can do without a local APIC, with the older
    controllers that QEMU still has. Several CPUs cannot: they get KVM's, with which guests of one CPU were seen to
    boot, and to stall. What the topology chooses stays as it is.

    :param emulated: the machines that run on the KVM of an emulated machine.
    """
    operations = [
        _without_own_apic(operation)
        if isinstance(operation, StartMachine) and operation.node in emulated
        else operation
        for operation in plan.operations
    ]
    return replace(plan, operations=tuple(operations))


def _without_own_apic(start: StartMachine) -> StartMachine:
    if start.irqchip or start.cpu_model or start.accelerator == "tcg":
        return start
    if start.cpus > 1:
        return replace(start, irqchip="split")
    return replace(start, irqchip="off", cpu_model="qemu64,-apic")


def _starts(plan: Plan) -> list[StartMachine]:
    return [operation for operation in plan.operations if isinstance(operation, StartMachine)]


def _emulated(holder: StartMachine, files: BootFiles, accelerator: str | None) -> bool:
    """Tell whether a machine that holds others is emulated; KVM is proven by a boot, which is remembered."""
    if holder.place:
        return holder.accelerator == "tcg"
    wanted: Request = accelerator or holder.accelerator  # type: ignore[assignment]
    return asyncio.run(choose_accelerator(wanted, files.kernel, files.initrd)).name == "tcg"
