"""From a topology to the ordered operations that build it. Pure: nothing is looked up, nothing is touched.

The order is: namespaces and their sysctls, bridges, links (veth and tap), machines started as soon as their
taps are there, then the namespaces' interfaces while the machines boot, then the machines' own. For a machine in
which nodes live, all of that comes again in it before its own interfaces are set up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zdlab.plan import operations as ops
from zdlab.plan.outline import Outline
from zdlab.plan.sysctls import BASELINE, QUIET
from zdlab.topology import Topology
from zdlab.topology.network import BRIDGE_DEVICE, Interface, Network, resolve
from zdlab.topology.nodes import Bridge, Host, Machine
from zdlab.topology.places import LAB, crossing, kernel_of, place_of
from zdlab.topology.qdiscs import Htb, Qdisc

#: Fields of a qdisc model that describe its place in the tree, not a parameter of the kernel's.
_STRUCTURE = {"kind", "child", "classes", "qdiscs"}


@dataclass(frozen=True)
class Plan:
    """What building a lab takes.

    :param network: the names and addresses that were settled.
    :param operations: in the order they are carried out.
    """

    name: str
    topology: Topology
    network: Network
    operations: tuple[ops.Operation, ...]

    def counted_nodes(self) -> tuple[str, ...]:
        """Return every place packets pass: the nodes of the topology, and the wires between its machines."""
        return (*self.topology.nodes, *wires(self.topology, self.network))

    def on_computer(self, node: str) -> bool:
        """Tell whether a counted node is on the computer's kernel, not in a machine."""
        wired = wires(self.topology, self.network).get(node)
        return (wired.kernel if wired else kernel_of(self.topology, node)) == LAB

    def kernels(self) -> tuple[str, ...]:
        """Return one node on each kernel of the lab: the machines, and a node beside them where there is one."""
        found = {kernel_of(self.topology, name): name for name in reversed(self.topology.nodes)}
        return tuple(kernel or name for kernel, name in sorted(found.items()))

    def guests(self) -> tuple[str, ...]:
        """Return the machines that are in no other."""
        return tuple(name for name in self.topology.machines() if place_of(self.topology, name) == LAB)

    def outermost(self) -> tuple[str, ...]:
        """Return those of :meth:`kernels` whose CPU time holds all others'.

        The computer's holds all guests' too, and whatever else it does; it counts only where there are no guests.
        """
        return self.guests() or self.kernels()

    def machine_kernels(self) -> dict[str, str]:
        """Return the kernel each machine asks for."""
        return {op.node: op.kernel for op in self.operations if isinstance(op, ops.StartMachine)}

    def outline(self) -> Outline:
        """Return what building the lab takes, in plain values."""
        kinds = {name: model.kind for name, model in self.topology.nodes.items()}
        places = {name: place_of(self.topology, name) for name in self.topology.nodes}
        return Outline(self.name, kinds, places, tuple(self._ends()), self.operations)

    def _ends(self) -> Iterator[dict[str, str]]:
        """Yield every end of a link, and where its packets are captured: a machine's at its tap."""
        taps = {
            (op.owner, op.owner_interface): (op.node, op.interface)
            for op in self.operations
            if isinstance(op, ops.MakeTap)
        }
        for end in self.network.interfaces:
            node, interface = taps.get((end.node, end.name), (end.node, end.name))
            yield {
                "link": end.link,
                "node": end.node,
                "interface": end.name,
                "capture_node": node,
                "capture_interface": interface,
            }


def build_plan(topology: Topology, name: str) -> Plan:
    """Return the plan of a topology that was loaded and found sound.

    :param name: name of the topology, used for the lab.
    """
    network = resolve(topology)
    return Plan(name, topology, network, tuple(_place(topology, network, LAB)))


def _place(topology: Topology, network: Network, place: str) -> Iterator[ops.Operation]:
    """Yield what builds one place, then, once they have booted, what builds the machines in it."""
    yield from _namespaces(topology, network, place)
    yield from _links(topology, network, place)
    machines = [name for name in topology.machines() if place_of(topology, name) == place]
    for name in machines:
        yield _machine(topology, network, name)
    for wire, wired in wires(topology, network).items():
        if wired.kernel == place:
            yield from _configure_wire(wire, wired)
    for name, node in topology.nodes.items():
        if not isinstance(node, Machine) and place_of(topology, name) == place:
            yield from _configure(topology, network, name)
    for name in machines:
        yield ops.AwaitMachine(node=name, origin=("nodes", name))
        yield from _sysctls(topology, name)
        yield from _place(topology, network, name)
        yield from _configure(topology, network, name)


def wire_name(link: str) -> str:
    """Return the name of the hidden node that joins the taps of two machines.

    No node can have it: names have no colon.
    """
    return f"wire:{link}"


@dataclass(frozen=True)
class Wire:
    """A hidden node that joins the taps of two machines.

    :param kernel: where it is.
    """

    kernel: str
    ends: tuple[Interface, Interface]


def wires(topology: Topology, network: Network) -> dict[str, Wire]:
    """Return the links between two machines' network cards, by the hidden node each needs."""
    found = {}
    for link in topology.links:
        ends = network.link(link)
        crossed = crossing(topology, ends[0].node, ends[1].node)
        if crossed is not None and None not in crossed.cards:
            found[wire_name(link)] = Wire(crossed.kernel, ends)
    return found


def _namespaces(topology: Topology, network: Network, place: str) -> Iterator[ops.Operation]:
    for name, wire in wires(topology, network).items():
        if wire.kernel == place:
            origin = ("links", wire.ends[0].link)
            yield ops.MakeNamespace(node=name, place=place, origin=origin)
            yield ops.SetSysctls(node=name, values=QUIET, required=False)
            yield ops.MakeBridge(node=name, interface=BRIDGE_DEVICE, origin=origin)
    for name, node in topology.nodes.items():
        if isinstance(node, Machine) or place_of(topology, name) != place:
            continue
        yield ops.MakeNamespace(node=name, place=place, origin=("nodes", name))
        yield from _sysctls(topology, name)
        if isinstance(node, Bridge):
            yield ops.MakeBridge(node=name, interface=BRIDGE_DEVICE, origin=("nodes", name))


def _sysctls(topology: Topology, name: str) -> Iterator[ops.Operation]:
    node = topology.nodes[name]
    shared = topology.sysctls if isinstance(node, Host | Machine) else {}
    own = _dotted(node.sysctls)
    for_all = {key: value for key, value in _dotted(shared).items() if key not in own}
    baseline = BASELINE if isinstance(node, Host | Machine) else QUIET
    rest = tuple((key, value) for key, value in baseline if key not in own and key not in for_all)
    yield ops.SetSysctls(node=name, values=rest, required=False)
    if for_all:
        yield ops.SetSysctls(node=name, values=tuple(for_all.items()), origin=("sysctls",))
    if own:
        yield ops.SetSysctls(node=name, values=tuple(own.items()), origin=("nodes", name, "sysctls"))


def _dotted(sysctls: Mapping[str, str]) -> dict[str, str]:
    return {key.replace("/", "."): value for key, value in sysctls.items()}


def _links(topology: Topology, network: Network, place: str) -> Iterator[ops.Operation]:
    """Yield the links whose wire is on a place's kernel, and the cards that come into it from around it."""
    for name in topology.links:
        first, second = network.link(name)
        crossed = crossing(topology, first.node, second.node)
        if crossed is None:
            continue
        for end, card in zip((first, second), crossed.cards, strict=True):
            if card == place != LAB and end.node != card:
                yield ops.MoveCard(node=end.node, interface=end.name, machine=card, mac=end.mac, origin=end.path)
        if crossed.kernel != place:
            continue
        near, far = crossed.cards
        if near and far:
            yield _tap(first, near, wire_name(name), "eth0")
            yield _tap(second, far, wire_name(name), "eth1")
        elif near:
            yield _tap(first, near, second.node, second.name)
        elif far:
            yield _tap(second, far, first.node, first.name)
        else:
            yield ops.MakeVeth(
                node=first.node,
                interface=first.name,
                mac=first.mac,
                peer_node=second.node,
                peer_interface=second.name,
                peer_mac=second.mac,
                origin=("links", name),
            )


def _tap(end: Interface, machine: str, node: str, interface: str) -> ops.MakeTap:
    tap = end.end.tap
    vhost = None if tap is None or tap.vhost == "auto" else bool(tap.vhost)
    return ops.MakeTap(
        node=node,
        interface=interface,
        machine=machine,
        owner=end.node,
        owner_interface=end.name,
        queues=1 if tap is None else tap.queues,
        sndbuf=None if tap is None else tap.sndbuf,
        vhost=vhost,
        origin=end.path,
    )


def cards(topology: Topology, network: Network, machine: str) -> tuple[Interface, ...]:
    """Return the ends of links that are network cards of a machine, in the order of the links."""
    found = []
    for link in topology.links:
        ends = network.link(link)
        crossed = crossing(topology, ends[0].node, ends[1].node)
        if crossed is not None:
            found += [end for end, card in zip(ends, crossed.cards, strict=True) if card == machine]
    return tuple(found)


def _machine(topology: Topology, network: Network, name: str) -> ops.StartMachine:
    machine = topology.machines()[name]
    nics = tuple(
        ops.Nic(
            owner=end.node,
            interface=end.name,
            mac=end.mac,
            mtu=end.mtu,
            queues=1 if end.end.tap is None else end.end.tap.queues,
        )
        for end in cards(topology, network, name)
    )
    return ops.StartMachine(
        node=name,
        place=place_of(topology, name),
        kernel=machine.kernel,
        memory=machine.memory,
        cpus=machine.cpus,
        accelerator=machine.accelerator,
        append=machine.append,
        nics=nics,
        cpu_model=machine.cpu_model,
        irqchip=machine.irqchip,
        origin=("nodes", name),
    )


def _configure_wire(name: str, wire: Wire) -> Iterator[ops.Operation]:
    """Set up a wire's ports, which are plain: every setting belongs to the machines at its ends."""
    for number, end in enumerate(wire.ends):
        port = f"eth{number}"
        yield ops.ConfigureInterface(
            node=name, interface=port, mac="", mtu=end.mtu, bridge=BRIDGE_DEVICE, origin=end.path
        )
        yield ops.SetUp(node=name, interface=port, origin=end.path)


def _configure(topology: Topology, network: Network, name: str) -> Iterator[ops.Operation]:
    """Set up all interfaces of one node, then its routes, then its qdiscs."""
    bridge = BRIDGE_DEVICE if isinstance(topology.nodes.get(name), Bridge) else None
    interfaces = network.of(name)
    moved = {end.name for end in cards(topology, network, kernel_of(topology, name)) if end.node == name}
    for end in interfaces:
        yield ops.ConfigureInterface(
            node=name,
            interface=end.name,
            mac=end.mac,
            mtu=end.mtu,
            txqueuelen=end.end.txqueuelen,
            # TCP builds large segments whatever the device can (sk_setup_caps()); only this limit keeps it from it.
            gso_max_segs=1 if end.end.offloads.gso is False else None,
            found_by_mac=end.name in moved,
            bridge=bridge,
            origin=end.path,
        )
        switches = tuple((key, value) for key, value in end.end.offloads.model_dump().items() if value is not None)
        if switches:
            yield ops.SetOffloads(node=name, interface=end.name, values=switches, origin=(*end.path, "offloads"))
        for index, address in enumerate(end.addresses):
            origin = (*end.path, "address", index) if end.end.address else end.path
            yield ops.AddAddress(node=name, interface=end.name, address=address, origin=origin)
        yield ops.SetUp(node=name, interface=end.name, origin=end.path)
    node = topology.nodes.get(name)
    if isinstance(node, Host | Machine):
        for index, route in enumerate(node.routes):
            yield ops.AddRoute(node=name, to=route.to, via=route.via, origin=("nodes", name, "routes", index))
    for end in interfaces:
        if end.end.qdisc is not None:
            yield from _qdisc_tree(end, end.end.qdisc)
        if end.end.ingress:
            yield ops.AddQdisc(
                node=name,
                interface=end.name,
                kind="ingress",
                handle="ffff:",
                parent="ingress",
                origin=(*end.path, "ingress"),
            )


def _qdisc_tree(end: Interface, root: Qdisc) -> Iterator[ops.Operation]:
    """Number the qdiscs of a tree 1:, 2:, … in the order they are attached, parents first."""
    waiting: list[tuple[str, ops.Origin, Qdisc]] = [("root", (*end.path, "qdisc"), root)]
    number = 0
    while waiting:
        parent, origin, qdisc = waiting.pop(0)
        number += 1
        major = f"{number:x}"
        yield ops.AddQdisc(
            node=end.node,
            interface=end.name,
            kind=qdisc.kind,
            handle=f"{major}:",
            parent=parent,
            options=_options(qdisc),
            origin=origin,
        )
        if isinstance(qdisc, Htb):
            for above, below, item in qdisc.walk():
                yield ops.AddClass(
                    node=end.node,
                    interface=end.name,
                    kind="htb",
                    classid=f"{major}:{item.id}",
                    parent=f"{major}:{above or ''}",
                    options=_options(item),
                    origin=(*origin, *_steps(below)),
                )
        for minor, below, child in qdisc.children():
            waiting.append((f"{major}:{minor}", (*origin, *_steps(below)), child))


def _options(model: Any) -> tuple[tuple[str, Any], ...]:
    skipped = _STRUCTURE | {"id", "qdisc"}
    return tuple((key, value) for key, value in model if key not in skipped and value is not None)


def _steps(below: str) -> ops.Origin:
    return tuple(int(step) if step.isdecimal() else step for step in below.split("."))
