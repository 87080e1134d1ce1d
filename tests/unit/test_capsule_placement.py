"""What becomes of a topology's nodes in a capsule."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from zdlab.capsule.case import Case
from zdlab.capsule.trial import CapsuleSetup
from zdlab.experiment.model import Slot
from zdlab.experiment.task import Task
from zdlab.experiment.trial import ArmSetup, prepare_task
from zdlab.experiment.workloads import workload_seed
from zdlab.guest.image import Image
from zdlab.guest.kernels import KernelFile
from zdlab.plan.build import build_plan
from zdlab.plan.capsule import PlacementError, place
from zdlab.plan.operations import MakeTap, MakeVeth, StartMachine
from zdlab.topology import parse_topology
from zdlab.traffic import TrafficTools

_ONE = """
clock: virtual
nodes:
  a: {kind: machine, kernel: zd, memory: 3gb, append: [net.x=1], sysctls: {net.core.zd: 1}}
  b: {kind: host}
links:
  up:
    subnet: 10.0.0.0/24
    ends: {a: {tap: {sndbuf: 100kb}, qdisc: {kind: tbf, rate: 10mbit, burst: 32kb, limit: 64kb}}, b: {}}
workloads:
  bulk: {tool: tcp_stream, from: a, to: b, flows: 4, duration: 2s}
"""

_NESTED = """
nodes:
  A: {kind: machine, kernel: zd, memory: 2gb}
  br: {kind: bridge, in: A}
  a: {kind: machine, in: A, memory: 512mb}
  b: {kind: host}
links:
  inner: {subnet: 10.0.0.0/24, ends: {a: {tap: {vhost: on}}, br: {}}}
  uplink: {subnet: 10.0.0.0/24, ends: {br: {}, b: {}}}
"""

_TWO = """
MODE
nodes:
  a: {kind: machine, memory: 2gb}
  b: {kind: machine, kernel: KERNEL}
links:
  wire: {subnet: 10.0.0.0/24, ends: {a: {tap: {queues: 2}}, b: {}}}
"""


def _two(mode: str, kernel: str = "stock") -> str:
    return _TWO.replace("MODE", mode).replace("KERNEL", kernel)


def test_the_only_machine_is_the_capsule() -> None:
    topology = parse_topology(_ONE).base

    placed = place(topology)

    assert placed.form == "the machine is the capsule"
    assert (placed.kernel, placed.kernel_of, placed.append) == ("zd", "a", ("net.x=1",))
    assert placed.memory >= 3 << 30
    assert not placed.topology.machines()
    assert placed.topology.nodes["a"].sysctls == {"net.core.zd": "1"}
    operations = build_plan(placed.topology, "t").operations
    assert any(isinstance(operation, MakeVeth) for operation in operations)
    assert not any(isinstance(operation, MakeTap | StartMachine) for operation in operations)
    # What the user wrote is as it was.
    assert topology.machines()
    assert topology.links["up"].ends["a"].tap is not None


def test_names_and_addresses_are_those_of_the_real_clock() -> None:
    topology = parse_topology(_ONE).base

    real, virtual = (build_plan(each, "t").network for each in (topology, place(topology).topology))

    assert [(end.node, end.name, end.mac, end.addresses) for end in real.interfaces] == [
        (end.node, end.name, end.mac, end.addresses) for end in virtual.interfaces
    ]


def test_what_lives_in_the_outermost_machine_lives_in_the_capsule() -> None:
    placed = place(parse_topology(_NESTED).base)

    assert placed.form == "the outermost machine is the capsule, those in it are its guests"
    assert placed.kernel == "zd"
    assert list(placed.topology.machines()) == ["a"]
    assert all(node.inside is None for node in placed.topology.nodes.values())
    operations = build_plan(placed.topology, "t").operations
    assert [operation.node for operation in operations if isinstance(operation, MakeTap)] == ["br"]
    assert [operation.node for operation in operations if isinstance(operation, MakeVeth)] == ["br"]
    tap = placed.topology.links["inner"].ends["a"].tap
    assert tap is not None
    assert tap.vhost is True


def test_several_machines_are_guests_of_a_capsule_with_the_usual_kernel() -> None:
    placed = place(parse_topology(_two("", kernel="zd")).base)

    assert placed.form == "machines are guests of the capsule"
    assert (placed.kernel, placed.kernel_of) == ("stock", None)
    assert list(placed.topology.machines()) == ["a", "b"]
    assert placed.memory >= (2 << 30) + (512 << 20)


def test_several_machines_are_namespaces_where_the_file_says_so() -> None:
    placed = place(parse_topology(_two("machines: inline")).base)

    assert placed.form == "machines inline"
    assert not placed.topology.machines()
    assert placed.topology.links["wire"].ends["a"].tap is None


def test_nested_machines_are_namespaces_of_one_kernel_where_the_file_says_so() -> None:
    text = "machines: inline\n" + _NESTED.replace("in: A, memory", "in: A, kernel: zd, memory")

    placed = place(parse_topology(text).base)

    assert not placed.topology.machines()
    assert all(node.inside is None for node in placed.topology.nodes.values())


def test_machines_of_different_kernels_cannot_be_inline() -> None:
    with pytest.raises(PlacementError) as caught:
        place(parse_topology(_two("machines: inline", kernel="zd")).base)

    assert caught.value.path == ("nodes", "b", "kernel")
    assert "a asks for stock and b for zd" in caught.value.message
    assert "real" not in caught.value.hint


def test_without_machines_the_capsule_has_the_usual_kernel() -> None:
    text = "nodes: {a: {kind: host}, b: {kind: host}}\nlinks: {l: {subnet: 10.0.0.0/24, ends: {a: {}, b: {}}}}\n"

    placed = place(parse_topology(text).base)

    assert (placed.form, placed.kernel) == ("no machines", "stock")


@pytest.mark.parametrize("text", [_ONE, _NESTED + "workloads: {w: {tool: tcp_rr, from: a, to: b}}"])
def test_a_task_survives_json(text: str) -> None:
    plan = build_plan(place(parse_topology(text).base).topology, "t")
    tools = TrafficTools(directory=Path("/usr/bin"), origin="zdlab", sha256={})

    task, _ = prepare_task(Slot(3, 1, "x", 77), ArmSetup(plan, {}, tools))

    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def _case(seed: int, arm: str = "x") -> Case:
    placement = place(parse_topology(_ONE).base)
    tools = TrafficTools(directory=Path("/usr/bin"), origin="zdlab", sha256={})
    kernel = KernelFile(Path("/kernel"), "k" * 64, "6.12", None)
    now = datetime.now(UTC)
    image = Image(Path("/image"), "i" * 64, 1, now, now)
    arms = ArmSetup(build_plan(placement.topology, "t"), {}, tools)
    return CapsuleSetup(placement, arms, kernel, image, "QEMU").case(Slot(3, 1, arm, seed))


def test_another_seed_lays_memory_out_otherwise_the_same_for_each_arm() -> None:
    least = _case(1).memory_mib
    sizes = {seed: _case(seed).memory_mib for seed in range(1, 65)}

    assert set(sizes.values()) == set(range(least, least + 64))
    assert least >= 3 << 10
    assert _case(7, "y").memory_mib == sizes[7]
    assert f"{sizes[7]}M" in _case(7).command


def _seeds(arm: str, *names: str) -> dict[str, str]:
    """Return the seed in the command line of each of these workloads; both ends have the same."""
    listed = ", ".join(f"{name}: {{tool: tcp_rr, from: a, to: b}}" for name in names)
    plan = build_plan(place(parse_topology(f"{_NESTED}workloads: {{{listed}}}").base).topology, "t")
    tools = TrafficTools(directory=Path("/usr/bin"), origin="zdlab", sha256={})
    task, _ = prepare_task(Slot(3, 1, arm, 77), ArmSetup(plan, {}, tools))
    found = {}
    for work in task.works:
        (client,), (server,) = (
            [word.removeprefix("--seed=") for word in end.argv if word.startswith("--seed=")]
            for end in (work.client, work.server)
        )
        assert client == server
        found[work.name] = client
    return found


def test_a_workloads_seed_follows_from_the_blocks_and_its_name_alone() -> None:
    """Workloads do not begin in step, and each does the same in every arm, whatever else flows."""
    both = _seeds("stock", "one", "two")

    assert both["one"] != both["two"]
    assert _seeds("zd", "two", "one") == both
    assert _seeds("zd", "two") == {"two": both["two"]}
    assert (int(both["one"]), workload_seed(78, "one")) == (1205578571, 3221307525)
