"""A plan is the same every time, in an order that works, and readable."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdlab.plan import operations as ops
from zdlab.plan.build import Plan, build_plan, wire_name
from zdlab.topology import load_topology, parse_topology
from zdlab.topology.schema import json_schema
from zdlab.topology.yamltree import read_yaml

GOLDEN = Path(__file__).parent / "golden"
TOPOLOGIES = Path(__file__).parents[2] / "topologies"
READY = sorted(path.stem for path in TOPOLOGIES.glob("*.yaml"))

#: Nothing but the text of these may change when the plan's wording does.
_MADE = (ops.MakeNamespace, ops.MakeBridge, ops.MakeVeth, ops.MakeTap, ops.MoveCard, ops.StartMachine)


def _ready(name: str) -> Plan:
    source = load_topology(TOPOLOGIES / f"{name}.yaml")
    return build_plan(source.base, source.name)


def _text(plan: Plan) -> str:
    return "".join(operation.describe() + "\n" for operation in plan.operations)


def _planned(text: str) -> Plan:
    return build_plan(parse_topology(text).base, "test")


@pytest.mark.parametrize("name", ["ns-tbf", "vm-bridge"])
def test_the_plan_of_a_ready_topology_is_the_stored_one(name: str) -> None:
    assert _text(_ready(name)) == (GOLDEN / f"plan-{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", READY)
def test_a_plan_is_the_same_every_time(name: str) -> None:
    assert _ready(name).operations == _ready(name).operations
    assert _text(_ready(name)) == _text(_ready(name))


@pytest.mark.parametrize("name", READY)
def test_operations_are_plain_json(name: str) -> None:
    for operation in _ready(name).operations:
        values = operation.to_json()

        assert json.loads(json.dumps(values))["operation"] == operation.verb
        assert set(values) == {"operation", *ops.operation_fields(operation)}


@pytest.mark.parametrize("name", READY)
def test_every_operation_of_the_users_can_be_found_in_the_file(name: str) -> None:
    source = load_topology(TOPOLOGIES / f"{name}.yaml")
    for operation in _ready(name).operations:
        if not (isinstance(operation, ops.SetSysctls) and not operation.required):
            assert operation.origin
            assert source.tree.line(operation.origin) not in {None, source.tree.line(())}


def _check_order(plan: Plan) -> None:
    machines = set(plan.topology.machines())
    namespaces: set[str] = set()
    made: set[tuple[str, str]] = set()
    configured: set[tuple[str, str]] = set()
    up: set[tuple[str, str]] = set()
    qdiscs: dict[tuple[str, str], set[str]] = {}
    served: dict[str, list[tuple[str, str]]] = {}
    cards: dict[tuple[str, str], str] = {}
    started: set[str] = set()
    awaited: set[str] = set()
    for operation in plan.operations:
        node = operation.node
        if isinstance(operation, ops.MakeNamespace):
            assert node not in namespaces
            assert not operation.place or operation.place in awaited
            namespaces.add(node)
            continue
        if node in machines:
            assert isinstance(operation, ops.StartMachine | ops.AwaitMachine) or node in awaited
        else:
            assert node in namespaces
        match operation:
            case ops.MakeBridge():
                made.add((node, operation.interface))
            case ops.MakeVeth():
                assert operation.peer_node in namespaces | awaited
                made |= {(node, operation.interface), (operation.peer_node, operation.peer_interface)}
            case ops.MakeTap():
                assert operation.machine not in started
                made.add((node, operation.interface))
                served.setdefault(operation.machine, []).append((operation.owner, operation.owner_interface))
            case ops.MoveCard():
                assert operation.machine in awaited
                assert operation.interface in cards.pop((operation.machine, operation.mac))
                made.add((node, operation.interface))
            case ops.StartMachine():
                assert not operation.place or operation.place in awaited
                assert [(nic.owner, nic.interface) for nic in operation.nics] == served.get(node, [])
                made |= {(node, nic.interface) for nic in operation.nics if nic.owner == node}
                cards |= {(node, nic.mac): nic.interface for nic in operation.nics if nic.owner != node}
                started.add(node)
            case ops.AwaitMachine():
                assert node in started
                awaited.add(node)
            case ops.ConfigureInterface():
                assert (node, operation.interface) in made
                assert operation.bridge is None or (node, operation.bridge) in made
                configured.add((node, operation.interface))
            case ops.SetOffloads() | ops.AddAddress():
                assert (node, operation.interface) in configured
                assert (node, operation.interface) not in up
            case ops.SetUp():
                assert (node, operation.interface) in configured
                up.add((node, operation.interface))
            case ops.AddRoute():
                assert up >= {(end.node, end.name) for end in plan.network.of(node)}
            case ops.AddQdisc() | ops.AddClass():
                place = (node, operation.interface)
                assert place in up
                there = qdiscs.setdefault(place, {"root", "ingress"})
                assert operation.parent in there
                there.add(operation.handle if isinstance(operation, ops.AddQdisc) else operation.classid)
                if isinstance(operation, ops.AddQdisc) and operation.kind in {"tbf", "netem", "prio"}:
                    there |= {f"{operation.handle}{band:x}" for band in range(1, 17)}
    assert awaited == started == machines
    assert not cards
    assert {(end.node, end.name) for end in plan.network.interfaces} <= up


@pytest.mark.parametrize("name", READY)
def test_ready_topologies_are_built_in_an_order_that_works(name: str) -> None:
    _check_order(_ready(name))


_QDISCS = st.sampled_from(
    [
        "{}",
        "{qdisc: {kind: fq}, ingress: on}",
        "{qdisc: {kind: tbf, rate: 1mbit, burst: 9kb, limit: 9kb, child: {kind: netem, child: {kind: pfifo}}}}",
        "{qdisc: {kind: prio, qdiscs: {1: {kind: codel}, 3: {kind: sfq}}}, offloads: {tso: off}}",
        "{qdisc: {kind: htb, default: 3, classes: [{id: 1, rate: 9mbit, classes: ["
        "{id: 2, rate: 1mbit, qdisc: {kind: fq_codel}}, {id: 3, rate: 1mbit}]}]}}",
    ]
)


def _near(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Tell whether at most one machine's border lies on either side of two kernels."""
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    return len(one) - shared <= 1 and len(other) - shared <= 1


@st.composite
def topologies(draw: st.DrawFn) -> str:
    """Nodes of every kind at any depth, joined at random, with a subnet for each link where bridges allow it."""
    kinds = draw(st.lists(st.sampled_from(["host", "machine", "bridge"]), min_size=2, max_size=6))
    places: list[tuple[int, ...]] = []
    for number in range(len(kinds)):
        around = [(*places[other], other) for other in range(number) if kinds[other] == "machine"]
        places.append(draw(st.sampled_from([(), *around])))
    # A node's interfaces are on the kernel at the end of this path of machines.
    kernels = [(*place, number) if kinds[number] == "machine" else place for number, place in enumerate(places)]
    pairs = [(one, other) for one in range(len(kinds)) for other in range(one) if _near(kernels[one], kernels[other])]
    links = draw(st.lists(st.sampled_from(pairs), max_size=8)) if pairs else []
    text = "nodes:\n"
    for number, kind in enumerate(kinds):
        inside = f", in: n{places[number][-1]}" if places[number] else ""
        memory = f", memory: {6 ** (8 - len(places[number]))}mb" if kind == "machine" else ""
        text += f"  n{number}: {{kind: {kind}{inside}{memory}}}\n"
    text += "links:\n"
    for number, (one, other) in enumerate(links):
        bridged = "bridge" in {kinds[one], kinds[other]}
        subnet = "" if bridged else f"subnet: 10.0.{number}.0/24, "
        text += f"  l{number}: {{{subnet}ends: {{n{one}: {draw(_QDISCS)}, n{other}: {draw(_QDISCS)}}}}}\n"
    return text if links else text.removesuffix("links:\n")


@given(topologies())
def test_any_topology_is_built_in_an_order_that_works(text: str) -> None:
    plan = _planned(text)

    _check_order(plan)
    assert _planned(text) == plan
    assert _text(_planned(text)) == _text(plan)
    jsonschema.Draft202012Validator(json_schema()).validate(read_yaml(text, "x").value)


def test_two_machines_are_joined_by_a_hidden_node_with_a_bridge() -> None:
    plan = _ready("vm-pair")
    hidden = wire_name("wire")
    mine = [operation for operation in plan.operations if operation.node == hidden]

    assert [operation.interface for operation in mine if isinstance(operation, ops.MakeBridge)] == ["br0"]
    assert [(tap.interface, tap.machine) for tap in mine if isinstance(tap, ops.MakeTap)] == [
        ("eth0", "a"),
        ("eth1", "b"),
    ]
    assert all(op.bridge == "br0" for op in mine if isinstance(op, ops.ConfigureInterface))


NESTED = """
nodes:
  A: {kind: machine, memory: 2gb, cpu_model: "max,-x2apic"}
  br: {kind: bridge, in: A}
  a: {kind: machine, in: A, memory: 256mb, irqchip: split}
  c: {kind: machine, in: A, memory: 256mb}
  b: {kind: host}
links:
  first: {ends: {a: {tap: {vhost: on}}, br: {}}}
  second: {ends: {c: {}, br: {}}}
  direct: {ends: {a: {}, c: {}}}
  own: {ends: {A: {}, br: {}}}
  below: {ends: {A: {}, a: {}}}
  uplink: {ends: {br: {tap: {sndbuf: 100kb}}, b: {}}}
"""


def test_nodes_in_a_machine_are_made_on_its_kernel_and_its_cards_move_to_those_whose_interfaces_they_are() -> None:
    plan = _planned(NESTED)
    made = [operation.describe() for operation in plan.operations if isinstance(operation, _MADE)]

    assert made == [
        "namespace b",
        "tap b eth0 for br:eth3 through A queues 1 vhost auto sndbuf 100kb",
        "machine A kernel stock memory 2gb cpus 1 accelerator auto nic eth3 02:7a:64:00:00:0b",
        "namespace wire:direct in A",
        "bridge wire:direct br0",
        "namespace br in A",
        "bridge br br0",
        "tap br eth0 for a:eth0 queues 1 vhost on",
        "tap br eth1 for c:eth0 queues 1 vhost auto",
        "tap wire:direct eth0 for a:eth1 queues 1 vhost auto",
        "tap wire:direct eth1 for c:eth1 queues 1 vhost auto",
        "veth A eth0 02:7a:64:00:00:07 peer br eth2 02:7a:64:00:00:08",
        "tap A eth1 for a:eth2 queues 1 vhost auto",
        "move br eth3 from card 02:7a:64:00:00:0b of A",
        "machine a in A kernel stock memory 256mb cpus 1 accelerator auto nic eth0 02:7a:64:00:00:01 "
        "nic eth1 02:7a:64:00:00:05 nic eth2 02:7a:64:00:00:0a",
        "machine c in A kernel stock memory 256mb cpus 1 accelerator auto nic eth0 02:7a:64:00:00:03 "
        "nic eth1 02:7a:64:00:00:06",
    ]
    starts = {op.node: op for op in plan.operations if isinstance(op, ops.StartMachine)}
    assert (starts["A"].cpu_model, starts["a"].irqchip) == ("max,-x2apic", "split")
    _check_order(plan)


def test_each_kernel_is_counted_once_and_outer_machines_hold_the_time_of_inner_ones() -> None:
    plan = _planned(NESTED)

    assert plan.kernels() == ("b", "A", "a", "c")
    assert plan.outermost() == ("A",)
    assert [plan.on_computer(node) for node in ("b", "br", "a", "wire:direct")] == [True, False, False, False]
    assert _ready("ns-tbf").kernels() == _ready("ns-tbf").outermost() == ("a",)


def test_a_machine_starts_before_any_namespace_is_configured_and_is_awaited_after_all() -> None:
    verbs = [operation.verb for operation in _ready("vm-bridge").operations]

    assert verbs.index("machine") < verbs.index("interface")
    assert verbs.index("await") > max(place for place, verb in enumerate(verbs) if verb == "qdisc")


def test_what_the_user_sets_replaces_the_baseline_and_must_exist() -> None:
    plan = _planned(
        "sysctls: {net.ipv4.tcp_sack: 0}\nnodes:\n  a: {kind: host, sysctls: {net/ipv4/tcp_ecn: 1}}\n"
        "  b: {kind: bridge}\n"
    )
    sysctls = [op for op in plan.operations if isinstance(op, ops.SetSysctls)]
    found = {(op.node, op.origin): dict(op.values) for op in sysctls}
    for_all, own = ("sysctls",), ("nodes", "a", "sysctls")

    assert {key for key in found if key[1]} == {("a", for_all), ("a", own)}
    assert all(op.required == bool(op.origin) for op in sysctls)
    assert (found["a", for_all], found["a", own]) == ({"net.ipv4.tcp_sack": "0"}, {"net.ipv4.tcp_ecn": "1"})
    assert not {"net.ipv4.tcp_sack", "net.ipv4.tcp_ecn"} & found["a", ()].keys()
    assert found["b", ()]["net.ipv6.conf.all.disable_ipv6"] == "1"


def test_qdiscs_are_numbered_parents_first_with_their_options_in_units_of_the_kernel() -> None:
    plan = _planned(
        "nodes: {a: {kind: host}, b: {kind: host}}\nlinks:\n  w:\n    ends:\n      b: {}\n      a:\n        qdisc:\n"
        "          kind: htb\n          default: 20\n          classes:\n"
        "            - {id: 1, rate: 1gbit, classes: [{id: 10, rate: 1mbit, qdisc: {kind: pfifo, limit: 5p}},"
        " {id: 20, rate: 2mbit, ceil: 4mbit, qdisc: {kind: netem, delay: 5ms, loss: 0.5, child: {kind: fq}}}]}\n"
    )
    tree = [operation.describe() for operation in plan.operations if isinstance(operation, ops.AddQdisc | ops.AddClass)]

    assert tree == [
        "qdisc a eth0 parent root handle 1: htb default 20",
        "class a eth0 parent 1: classid 1:1 htb rate 1gbit",
        "class a eth0 parent 1:1 classid 1:10 htb rate 1mbit",
        "class a eth0 parent 1:1 classid 1:20 htb rate 2mbit ceil 4mbit",
        "qdisc a eth0 parent 1:10 handle 2: pfifo limit 5",
        "qdisc a eth0 parent 1:20 handle 3: netem delay 5ms loss 0.5",
        "qdisc a eth0 parent 3:1 handle 4: fq",
    ]


def test_gso_off_also_keeps_tcp_from_building_large_segments() -> None:
    plan = _ready("ns-tbf")
    interfaces = {op.node: op for op in plan.operations if isinstance(op, ops.ConfigureInterface)}

    assert interfaces["a"].gso_max_segs == 1
    assert interfaces["b"].gso_max_segs is None


def test_a_taps_settings_reach_the_tap_and_the_machine() -> None:
    plan = _planned(
        "nodes: {m: {kind: machine, cpus: 2}, h: {kind: host}}\n"
        "links: {w: {ends: {m: {tap: {queues: 2, sndbuf: 100kb, vhost: off}}, h: {}}}}\n"
    )
    (tap,) = (operation for operation in plan.operations if isinstance(operation, ops.MakeTap))
    (machine,) = (operation for operation in plan.operations if isinstance(operation, ops.StartMachine))

    assert (tap.node, tap.queues, tap.sndbuf, tap.vhost) == ("h", 2, 102_400, False)
    assert tap.describe() == "tap h eth0 for m:eth0 queues 2 vhost off sndbuf 100kb"
    assert [nic.queues for nic in machine.nics] == [2]
    assert plan.machine_kernels() == {"m": "stock"}
