"""What machines in machines are run with, by the computer's QEMU."""

from __future__ import annotations

import pytest

from zdlab.guest.qemu.version import Version, parse_version
from zdlab.lab.nested import has_own_apic, without_own_apic
from zdlab.plan.build import build_plan
from zdlab.plan.operations import StartMachine
from zdlab.topology import parse_topology

_TOPOLOGY = """
nodes:
  A: {kind: machine, memory: 1gb}
  br: {kind: bridge, in: A, subnet: 10.1.0.0/24}
  a: {kind: machine, in: A, memory: 256mb, MORE}
  b: {kind: host}
links:
  inner: {ends: {a: {}, br: {}}}
  uplink: {ends: {br: {}, b: {}}}
"""


def _chosen(more: str = "cpus: 1", emulated: frozenset[str] = frozenset("a")) -> dict[str, tuple[str | None, ...]]:
    plan = build_plan(parse_topology(_TOPOLOGY.replace("MORE", more), "nested").base, "nested")
    operations = without_own_apic(plan, emulated).operations
    assert len(operations) == len(plan.operations)
    return {start.node: (start.irqchip, start.cpu_model) for start in operations if isinstance(start, StartMachine)}


def test_a_qemu_without_an_apic_of_its_own_runs_a_machine_without_one() -> None:
    assert _chosen() == {"A": (None, None), "a": ("off", "qemu64,-apic")}


@pytest.mark.parametrize(("version", "expected"), [((7, 2), True), ((8, 0), False), ((10, 0), False), (None, False)])
def test_qemu_has_one_until_it_was_removed(version: Version | None, expected: bool) -> None:
    assert has_own_apic(version) is expected


def test_on_hardware_nothing_is_chosen() -> None:
    assert _chosen(emulated=frozenset()) == {"A": (None, None), "a": (None, None)}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("cpus: 2", ("split", None)),
        ("accelerator: tcg", (None, None)),
        ("irqchip: split", ("split", None)),
        ("cpu_model: max", (None, "max")),
    ],
)
def test_several_cpus_need_an_apic_and_what_the_topology_says_holds(
    more: str, expected: tuple[str | None, str | None]
) -> None:
    assert _chosen(more)["a"] == expected


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", (7, 2)),
        ("QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)", (10, 0)),
        ("", None),
    ],
)
def test_versions_are_read(said: str, version: Version | None) -> None:
    assert parse_version(said) == version
