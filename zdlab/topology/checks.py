"""What a topology must satisfy beyond the shape of its parts: references, names, addresses, sense.

Each check yields problems with the path of the value at fault; the loader turns paths into lines.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from zdlab import units
from zdlab.topology import qdiscs
from zdlab.topology.expectations import Expectation, parse_expectation
from zdlab.topology.metrics import METRICS
from zdlab.topology.model import Topology
from zdlab.topology.network import BRIDGE_DEVICE, IPNetwork, Network, OutOfAddressesError, resolve
from zdlab.topology.nodes import MIB, Bridge, Host, Machine
from zdlab.topology.places import LAB, around, crossing, held, kernel_of
from zdlab.topology.sysctls import belongs_to_namespace
from zdlab.topology.yamltree import Path

#: Ethernet header, which qdiscs count but the MTU does not.
ETHERNET_HEADER = 14
#: What a machine needs for itself, its image with QEMU in it, and QEMU's own overhead, beside its machines' memory.
HOLDER_MEMORY = 512 * MIB


@dataclass(frozen=True)
class Problem:
    """Something wrong with the value at ``path``, and what would be right."""

    path: Path
    message: str
    hint: str


def problems(topology: Topology) -> list[Problem]:
    """Return everything wrong with a topology whose parts are well-formed by themselves."""
    found = list(_places(topology)) or [*_sysctls(topology), *_ends(topology)] or list(_crossings(topology))
    if found:
        return found
    try:
        network = resolve(topology)
    except OutOfAddressesError as error:
        return [Problem(error.path, str(error), "take a larger subnet, or write addresses")]
    for check in (_interfaces, _addresses, _overlaps, _routes, _qdiscs, _workloads):
        found.extend(check(topology, network))
    found.extend(_experiment(topology))
    return found


def _unknown(what: str, name: str, known: Iterable[str]) -> tuple[str, str]:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}"
    return f"there is no {what} {name!r}", hint


def _places(topology: Topology) -> Iterator[Problem]:
    machines = topology.machines()
    for name, node in topology.nodes.items():
        here: Path = ("nodes", name, "in")
        if node.inside is None:
            continue
        if node.inside not in topology.nodes:
            yield Problem(here, *_unknown("node", node.inside, topology.nodes))
        elif node.inside not in machines:
            kind = topology.nodes[node.inside].kind
            yield Problem(here, f"{node.inside} is a {kind}: no node lives in it", "name a machine")
        elif name in around(topology, name) or name == node.inside:
            yield Problem(here, f"{name} would live in itself", "let one of the machines live in the lab")
    for name, machine in machines.items():
        inner = sum(machines[child].memory for child in held(topology, name) if child in machines)
        if inner and machine.memory < inner + HOLDER_MEMORY:
            yield Problem(
                ("nodes", name, "memory") if "memory" in machine.model_fields_set else ("nodes", name),
                f"{name} has {units.format_size(machine.memory)} for machines of {units.format_size(inner)}",
                f"give it {units.format_size(HOLDER_MEMORY)} more than them: memory: "
                f"{units.format_size(inner + HOLDER_MEMORY)}",
            )


def _sysctls(topology: Topology) -> Iterator[Problem]:
    """Sysctls of the kernel the lab shares with the computer: they would outlive the lab, and reach beyond it."""
    sharing = [name for name in topology.nodes if kernel_of(topology, name) == LAB]
    hosts = [name for name in sharing if isinstance(topology.nodes[name], Host)]
    settings: list[tuple[str, Path, Iterable[str]]] = [
        (name, ("nodes", name, "sysctls"), topology.nodes[name].sysctls) for name in sharing
    ]
    if hosts:
        settings.append((hosts[0], ("sysctls",), topology.sysctls))
    for node, path, keys in settings:
        for key in keys:
            if not belongs_to_namespace(key):
                yield Problem(
                    (*path, key),
                    f"{key} is no sysctl of a network namespace: on {node} it would change the computer itself",
                    "set it on a machine, which has a kernel of its own",
                )


def _crossings(topology: Topology) -> Iterator[Problem]:
    for name, link in topology.links.items():
        first, second = link.ends
        crossed = crossing(topology, first, second)
        if crossed is None:
            yield Problem(
                ("links", name, "ends"),
                f"from {first} to {second} there is more than one machine's border to cross",
                "a link leaves or enters one machine at a time: put a bridge or host in the machine between",
            )
            continue
        for node, card in zip((first, second), crossed.cards, strict=True):
            if link.ends[node].tap is not None and card is None:
                yield Problem(
                    ("links", name, "ends", node, "tap"),
                    f"this end of {name} is no network card of a machine",
                    "tap is for the end whose packets leave a machine",
                )


def _ends(topology: Topology) -> Iterator[Problem]:
    for name, link in topology.links.items():
        here: Path = ("links", name, "ends")
        if len(link.ends) != 2:
            yield Problem(here, f"link {name} has {len(link.ends)} ends", "a link joins exactly two nodes")
        for node, end in link.ends.items():
            if node not in topology.nodes:
                yield Problem((*here, node), *_unknown("node", node, topology.nodes))
                continue
            kind = topology.nodes[node]
            if end.address and isinstance(kind, Bridge):
                yield Problem(
                    (*here, node, "address"),
                    f"{node} is a bridge: its ports carry no addresses",
                    "give the addresses to the nodes behind it",
                )


def _interfaces(topology: Topology, network: Network) -> Iterator[Problem]:
    used: set[tuple[str, str]] = set()
    macs: dict[str, str] = {}
    for interface in network.interfaces:
        key = (interface.node, interface.name)
        path = (*interface.path, "interface")
        if interface.name == BRIDGE_DEVICE and isinstance(topology.nodes[interface.node], Bridge):
            yield Problem(path, f"{interface.name} is taken on {interface.node}", "choose another name")
        if key in used:
            yield Problem(path, f"{interface.node} has {interface.name} twice", "name one of them otherwise")
        used.add(key)
        if interface.mac in macs:
            yield Problem(
                (*interface.path, "mac"),
                f"{interface.mac} is also the MAC address of {macs[interface.mac]}",
                "leave it out to have one assigned",
            )
        macs[interface.mac] = f"{interface.node}:{interface.name}"
        if interface.mtu < 1280 and any(":" in address for address in interface.addresses):
            yield Problem(
                (*interface.path, "mtu"), f"IPv6 needs an MTU of 1280, not {interface.mtu}", "write mtu: 1280 or more"
            )


def _addresses(topology: Topology, network: Network) -> Iterator[Problem]:
    del topology
    seen: dict[str, str] = {}
    for interface in network.interfaces:
        subnets = [ipaddress.ip_network(subnet) for subnet in network.segment_of(interface.link).subnets]
        for index, text in enumerate(interface.addresses):
            path = (*interface.path, "address", index)
            address = ipaddress.ip_interface(text)
            where = f"{interface.node}:{interface.name}"
            if str(address.ip) in seen:
                message = f"{address.ip} is also the address of {seen[str(address.ip)]}"
                yield Problem(path, message, "give one of them another address")
            seen[str(address.ip)] = where
            alike = [subnet for subnet in subnets if subnet.version == address.version]
            if alike and not any(address.ip in subnet for subnet in alike):
                listed = ", ".join(map(str, alike))
                yield Problem(
                    path,
                    f"{address} of {where} is not in {listed}",
                    f"write one of the subnet, like {next(iter(alike[0].hosts()))}",
                )
            if address.network.prefixlen < address.max_prefixlen - 1 and address.ip in {
                address.network.network_address,
                *([address.network.broadcast_address] if address.version == 4 else []),
            }:
                yield Problem(
                    path,
                    f"{address.ip} is the network or broadcast address",
                    f"take one between, like {address.network[1]}",
                )


def _overlaps(topology: Topology, network: Network) -> Iterator[Problem]:
    """Two segments with overlapping subnets: packets would take whichever route was added first."""
    del topology
    owners: list[tuple[IPNetwork, int, Path]] = []
    for number, segment in enumerate(network.segments):
        networks: dict[IPNetwork, Path] = {
            ipaddress.ip_network(subnet): ("links", segment.links[0], "subnet") for subnet in segment.subnets
        }
        for interface in network.interfaces:
            if interface.link in segment.links:
                for address in interface.addresses:
                    networks.setdefault(ipaddress.ip_interface(address).network, (*interface.path, "address"))
        owners.extend((net, number, path) for net, path in networks.items())
    # Networks hold one another or do not touch: by address and size, those around one are the last ones open.
    around: list[tuple[IPNetwork, int, int]] = []
    for index in sorted(range(len(owners)), key=lambda index: _place(owners[index][0])):
        net, number, _ = owners[index]
        while around and not (around[-1][0].version == net.version and around[-1][0].overlaps(net)):
            around.pop()
        if around and around[-1][1] != number:
            first, later = sorted((index, around[-1][2]))
            yield Problem(
                owners[later][2],
                f"{owners[later][0]} overlaps {owners[first][0]} of another segment",
                "use subnets of their own for links that no bridge joins",
            )
        around.append((net, number, index))


def _place(network: IPNetwork) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def _routes(topology: Topology, network: Network) -> Iterator[Problem]:
    for name, node in topology.nodes.items():
        if not isinstance(node, Host | Machine):
            continue
        networks = [
            ipaddress.ip_interface(address).network for interface in network.of(name) for address in interface.addresses
        ]
        for index, route in enumerate(node.routes):
            gateway = ipaddress.ip_address(route.via)
            if not any(gateway in net for net in networks if net.version == gateway.version):
                yield Problem(
                    ("nodes", name, "routes", index, "via"),
                    f"{name} cannot reach {gateway} directly",
                    "via is an address in a subnet of the node",
                )


def _qdiscs(topology: Topology, network: Network) -> Iterator[Problem]:
    del topology
    for interface in network.interfaces:
        if interface.end.qdisc is None:
            continue
        packet = interface.mtu + ETHERNET_HEADER
        for below, qdisc in qdiscs.walk(interface.end.qdisc):
            path: Path = (*interface.path, "qdisc", *_steps(below))
            if isinstance(qdisc, qdiscs.Tbf) and qdisc.burst < packet:
                yield Problem(
                    (*path, "burst"),
                    f"a burst of {qdisc.burst} bytes is smaller than one packet of {packet} bytes: "
                    "nothing would ever pass",
                    "for 200mbit, 32kb is a good start",
                )
            if isinstance(qdisc, qdiscs.Tbf | qdiscs.Bfifo) and qdisc.limit is not None and qdisc.limit < packet:
                yield Problem(
                    (*path, "limit"),
                    f"a limit of {qdisc.limit} bytes holds no packet of {packet} bytes",
                    "write at least a few packets, like 64kb",
                )


def _steps(below: str) -> Path:
    return tuple(int(step) if step.isdecimal() else step for step in below.split(".") if step)


def _workloads(topology: Topology, network: Network) -> Iterator[Problem]:
    for name, work in topology.workloads.items():
        here: Path = ("workloads", name)
        sound = True
        for key, node in (("from", work.source), ("to", work.to)):
            if node not in topology.nodes:
                yield Problem((*here, key), *_unknown("node", node, topology.nodes))
                sound = False
            elif isinstance(topology.nodes[node], Bridge):
                yield Problem((*here, key), f"{node} is a bridge: it runs no traffic", "name a host or machine")
                sound = False
        if not sound:
            continue
        if work.source == work.to:
            yield Problem((*here, "to"), f"{name} goes from {work.to} to itself", "name two nodes")
        elif network.address(work.source, work.to) is None:
            yield Problem((*here, "to"), f"{work.to} has no address", "give its link a subnet")
        elif network.address(work.source, work.to, work.family) is None:
            yield Problem(
                (*here, "args"),
                f"{name} asks for IPv{work.family}, but {work.to} has no address of it",
                f"give its link an IPv{work.family} subnet too",
            )
        elif not network.adjacent(work.source, work.to) and not _has_routes(topology, work.source):
            yield Problem(
                (*here, "to"),
                f"{work.source} has no way to {work.to}: they share no segment",
                "join them with a link or bridge, or give both routes",
            )


def _has_routes(topology: Topology, name: str) -> bool:
    node = topology.nodes[name]
    return isinstance(node, Host | Machine) and bool(node.routes)


def _experiment(topology: Topology) -> Iterator[Problem]:
    if topology.control is not None and topology.control not in topology.arms:
        yield Problem(("control",), *_unknown("arm", topology.control, topology.arms))
    for key, sentences in (("requires", topology.requires), ("expectations", topology.expectations)):
        if sentences and not topology.workloads:
            yield Problem((key,), f"{key} without traffic", "add workloads")
            continue
        for index, text in enumerate(sentences):
            yield from _sentence(topology, (key, index), parse_expectation(text))


def _sentence(topology: Topology, path: Path, expectation: Expectation) -> Iterator[Problem]:
    tools = {work.tool for work in topology.workloads.values()}
    if path[0] == "requires" and expectation.right is not None:
        yield Problem(path, "what is required of every trial is a bound", f"compare {expectation.left} with a number")
    units = {metric.unit for figure in expectation.figures() if (metric := METRICS.get(figure.metric))}
    if len(units) > 1:
        yield Problem(path, f"{' and '.join(sorted(map(repr, units)))} cannot be compared", "name one metric twice")
    for figure in expectation.figures():
        metric = METRICS.get(figure.metric)
        if figure.arm not in topology.arms:
            yield Problem(path, *_unknown("arm", figure.arm, topology.arms))
        if metric is None:
            yield Problem(path, *_unknown("metric", figure.metric, METRICS))
            continue
        if figure.node is not None and figure.node not in topology.nodes:
            yield Problem(path, *_unknown("node", figure.node, topology.nodes))
        if figure.node is not None and not metric.per_node:
            yield Problem(path, f"{metric.name} is of the whole lab", f"write {figure.arm}.{metric.name}")
        needs = "tcp_rr" if metric.name.startswith(("latency_", "transactions_")) else None
        needs = "tcp_stream" if metric.name in {"throughput_bps", "jain_index"} else needs
        bulk = sum(1 for work in topology.workloads.values() if work.tool == "tcp_stream")
        if metric.name == "jain_workloads" and bulk < 2:
            yield Problem(
                path,
                f"{metric.name} compares tcp_stream workloads: there is no second",
                "add one with tool: tcp_stream",
            )
        if needs is not None and needs not in tools:
            yield Problem(path, f"{metric.name} needs a {needs} workload", f"add one with tool: {needs}")
