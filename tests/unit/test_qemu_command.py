"""QEMU's command line: the one that is meant, with nothing that listens and nothing that was not asked for."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from zdlab.errors import MissingToolError
from zdlab.guest.qemu.command import Descriptors, find_qemu, kernel_command_line, qemu_command
from zdlab.guest.qemu.spec import MachineSpec, NicSpec

GOLDEN = Path(__file__).parent / "golden" / "qemu-command.txt"
SPEC = MachineSpec(
    name="a",
    kernel=Path("/kernels/stock,v2/bzImage"),
    initrd=Path("/images/initrd"),
    accelerator="tcg",
    memory_mib=768,
    cpus=2,
    append=("nokaslr", "a=b,c"),
    nics=(
        NicSpec("02:7a:64:00:00:01"),
        NicSpec("02:7a:64:00:00:02", queues=2, vhost=True, sndbuf=102_400),
    ),
)
DESCRIPTORS = Descriptors(qmp=3, console=4, agent=5, taps=((6,), (7, 8)), vhosts=((), (9, 10)))


def _values(command: list[str], option: str) -> list[str]:
    return [value for word, value in itertools.pairwise(command) if word == option]


def _machine(**changes: object) -> MachineSpec:
    return MachineSpec(**(vars(SPEC) | changes))


def test_the_command_is_the_stored_one() -> None:
    command = qemu_command(SPEC, DESCRIPTORS)

    assert "".join(f"{word}\n" for word in command) == GOLDEN.read_text(encoding="utf-8")


def test_nothing_listens_and_nothing_comes_by_default() -> None:
    command = qemu_command(SPEC, DESCRIPTORS)

    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(command)
    assert _values(command, "-display") == ["none"]
    assert _values(command, "-sandbox") == ["on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    text = "\n".join(command)
    for word in ("tcp:", "udp:", "telnet:", "server", "hostfwd", "user,", "-net\n", "-nic", "-vnc", "-monitor", "wait"):
        assert word not in text
    assert all(",fd=" in value for value in _values(command, "-chardev"))


def test_names_with_commas_do_not_become_options() -> None:
    assert _values(qemu_command(_machine(name="a,debug-threads=on"), DESCRIPTORS), "-name") == [
        "guest=a,,debug-threads=on"
    ]


@pytest.mark.parametrize(("accelerator", "cpu"), [("kvm", "host"), ("tcg", "max")])
def test_the_cpu_fits_the_accelerator(accelerator: str, cpu: str) -> None:
    command = qemu_command(_machine(accelerator=accelerator), DESCRIPTORS)

    assert _values(command, "-machine") == [f"q35,accel={accelerator}"]
    assert _values(command, "-cpu") == [cpu]


@pytest.mark.parametrize(
    ("emulated", "machine", "cpu"),
    [(True, "q35,accel=kvm,kernel-irqchip=off", "qemu64"), (False, "q35,accel=kvm", "host")],
)
def test_a_machine_in_a_machine_has_what_works_on_what_is_below_it(emulated: bool, machine: str, cpu: str) -> None:
    """On emulated SVM interrupts get lost in the kernel's own controller; on a real CPU nothing is in the way."""
    command = qemu_command(_machine(accelerator="kvm", nested=True, emulated_below=emulated), DESCRIPTORS)
    chosen = _machine(accelerator="kvm", nested=True, emulated_below=emulated, cpu_model="max,-svm", irqchip="split")

    assert _values(command, "-machine") == [machine]
    assert _values(command, "-cpu") == [cpu]
    assert "-sandbox" not in command
    assert _values(qemu_command(chosen, DESCRIPTORS), "-machine") == ["q35,accel=kvm,kernel-irqchip=split"]
    assert _values(qemu_command(chosen, DESCRIPTORS), "-cpu") == ["max,-svm"]


def test_every_device_has_its_own_descriptors() -> None:
    command = qemu_command(SPEC, DESCRIPTORS)

    assert _values(command, "-netdev") == [
        "tap,id=net0,fds=6",
        "tap,id=net1,fds=7:8,vhost=on,vhostfds=9:10,sndbuf=102400",
    ]
    devices = [value for value in _values(command, "-device") if value.startswith("virtio-net")]
    assert devices == [
        "virtio-net-pci,netdev=net0,mac=02:7a:64:00:00:01,romfile=",
        "virtio-net-pci,netdev=net1,mac=02:7a:64:00:00:02,romfile=,mq=on,vectors=6",
    ]
    assert DESCRIPTORS.all() == (3, 4, 5, 6, 7, 8, 9, 10)


def test_vhost_needs_both_the_wish_and_the_descriptors() -> None:
    nic = NicSpec("02:7a:64:00:00:01", vhost=False)
    command = qemu_command(_machine(nics=(nic,)), Descriptors(3, 4, 5, taps=((6,),), vhosts=((7,),)))

    assert _values(command, "-netdev") == ["tap,id=net0,fds=6"]


def test_the_kernel_is_told_its_name_ends_at_a_panic_and_makes_no_devices_of_its_own() -> None:
    words = kernel_command_line(SPEC).split()

    assert {"console=ttyS0", "panic=-1", "zdlab.node=a", "dummy.numdummies=0", "ifb.numifbs=0"} <= set(words)
    assert words[-2:] == ["nokaslr", "a=b,c"]


def test_a_missing_qemu_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(MissingToolError, match="qemu-system-x86_64 is missing") as caught:
        find_qemu()

    assert "qemu-system-x86" in caught.value.hint
