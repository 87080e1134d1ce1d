"""QEMU's command line. Pure: descriptors come as numbers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from zdlab.errors import MissingToolError
from zdlab.guest.qemu.spec import MachineSpec, NicSpec

PROGRAM: Final = "qemu-system-x86_64"
AGENT_PORT: Final = "zdlab.agent"


@dataclass(frozen=True)
class Descriptors:
    """Open descriptors QEMU inherits.

    :param taps: for each network device, one for each queue.
    :param vhosts: the same for vhost; empty for a device without.
    """

    qmp: int
    console: int
    agent: int
    taps: Sequence[Sequence[int]] = ()
    vhosts: Sequence[Sequence[int]] = ()

    def all(self) -> tuple[int, ...]:
        """Return every descriptor."""
        return (self.qmp, self.console, self.agent, *(fd for group in (*self.taps, *self.vhosts) for fd in group))


def find_qemu() -> str:
    """Return the path of QEMU.

    :raises MissingToolError: when it is not installed.
    """
    found = shutil.which(PROGRAM, path="/usr/bin:/usr/local/bin")
    if found is None:
        raise MissingToolError(f"the program {PROGRAM} is missing", hint="apt-get install qemu-system-x86")
    return found


def kernel_command_line(spec: MachineSpec) -> str:
    """Return the kernel's command line; a panic ends the machine at once."""
    # Without the last two the kernel makes devices nobody asked for.
    words = ["console=ttyS0", "quiet", "panic=-1", "random.trust_cpu=on", "dummy.numdummies=0", "ifb.numifbs=0"]
    return " ".join([*words, f"zdlab.node={spec.name}", *spec.append])


def qemu_command(spec: MachineSpec, descriptors: Descriptors, program: str = PROGRAM) -> list[str]:
    """Return QEMU's arguments: no default devices, no listener of any kind, a system call filter."""
    command = [program, "-name", f"guest={_escape(spec.name)}"]
    command += ["-machine", _machine(spec), "-cpu", spec.cpu_model or _cpu(spec)]
    command += ["-m", f"{spec.memory_mib}M", "-smp", str(spec.cpus)]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    if not spec.nested:  # a machine around it is filter enough, and its kernel may have none
        command += ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    command += ["-kernel", str(spec.kernel), "-initrd", str(spec.initrd), "-append", kernel_command_line(spec)]
    command += ["-chardev", f"socket,id=qmp,fd={descriptors.qmp}", "-mon", "chardev=qmp,mode=control"]
    command += ["-chardev", f"socket,id=console,fd={descriptors.console}", "-serial", "chardev:console"]
    command += ["-chardev", f"socket,id=agent,fd={descriptors.agent}", "-device", "virtio-serial-pci,max_ports=2"]
    command += ["-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"]
    command += ["-device", "virtio-rng-pci"]
    for number, nic in enumerate(spec.nics):
        vhosts = descriptors.vhosts[number] if nic.vhost else ()
        command += _nic(number, nic, descriptors.taps[number], vhosts)
    return command


def _machine(spec: MachineSpec) -> str:
    # With the kernel's own interrupt controller on emulated SVM, interrupts reach the guest where it has them masked:
    # stalls and double faults, seen with QEMU 7.2 and 10.0.
    irqchip = spec.irqchip or ("off" if spec.emulated_below and spec.accelerator == "kvm" else None)
    return f"q35,accel={spec.accelerator}" + (f",kernel-irqchip={irqchip}" if irqchip else "")


def _cpu(spec: MachineSpec) -> str:
    if spec.accelerator == "tcg":
        return "max"
    return "qemu64" if spec.emulated_below else "host"


def _nic(number: int, nic: NicSpec, taps: Sequence[int], vhosts: Sequence[int]) -> list[str]:
    backend = f"tap,id=net{number},fds={':'.join(map(str, taps))}"
    if vhosts:
        backend += f",vhost=on,vhostfds={':'.join(map(str, vhosts))}"
    if nic.sndbuf is not None:
        backend += f",sndbuf={nic.sndbuf}"
    # Without a ROM the firmware does not try to boot from the network, which takes a second or more.
    device = f"virtio-net-pci,netdev=net{number},mac={nic.mac},romfile="
    if nic.queues > 1:
        # One vector for each ring, one for configuration, one for control (QEMU's documentation of mq).
        device += f",mq=on,vectors={2 * nic.queues + 2}"
    return ["-netdev", backend, "-device", device]


def _escape(value: str) -> str:
    """Escape a value for QEMU's comma-separated options."""
    return value.replace(",", ",,")
