"""Names and addresses a topology leaves open: interfaces, MAC addresses, subnets' addresses, segments.

Pure and deterministic: the same topology always gets the same names and addresses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from zdlab.topology.links import End
from zdlab.topology.model import Topology
from zdlab.topology.nodes import Bridge
from zdlab.topology.yamltree import Path

#: The bridge device of a bridge node.
BRIDGE_DEVICE: Final = "br0"

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Interface:
    """One end of a link with everything settled.

    :param path: where the end stands in the topology file.
    :param addresses: each with its prefix length.
    """

    node: str
    name: str
    link: str
    peer: str
    mac: str
    mtu: int
    addresses: tuple[str, ...]
    end: End
    path: Path


@dataclass(frozen=True)
class Segment:
    """Interfaces that reach each other on the link layer: a link, or links joined by bridges."""

    links: tuple[str, ...]
    subnets: tuple[str, ...]


@dataclass(frozen=True)
class Network:
    """All interfaces and segments of a topology."""

    interfaces: tuple[Interface, ...]
    segments: tuple[Segment, ...]

    def of(self, node: str) -> tuple[Interface, ...]:
        """Return the interfaces of a node, in the order of the links."""
        return tuple(interface for interface in self.interfaces if interface.node == node)

    def link(self, name: str) -> tuple[Interface, Interface]:
        """Return the two ends of a link, in the order of the file."""
        first, second = (interface for interface in self.interfaces if interface.link == name)
        return first, second

    def segment_of(self, link: str) -> Segment:
        """Return the segment a link belongs to."""
        return next(segment for segment in self.segments if link in segment.links)

    def address(self, source: str, to: str, family: int | None = None) -> str | None:
        """Return the address under which ``source`` reaches ``to``, without prefix length.

        One on a shared segment comes first, else the first there is; ``None`` without any.

        :param family: the version of IP it must be of; any when ``None``.
        """
        near = {self.segment_of(interface.link) for interface in self.of(source)}
        ends = self.of(to)
        ordered = [end for end in ends if self.segment_of(end.link) in near] or list(ends)
        for end in ordered:
            for text in end.addresses:
                address = ipaddress.ip_interface(text).ip
                if family in {None, address.version}:
                    return str(address)
        return None

    def adjacent(self, source: str, to: str) -> bool:
        """Tell whether two nodes share a segment."""
        ours = {self.segment_of(interface.link) for interface in self.of(source)}
        return any(self.segment_of(interface.link) in ours for interface in self.of(to))


class OutOfAddressesError(ValueError):
    """A subnet has too few addresses; carries where the end that got none stands."""

    def __init__(self, path: Path, subnet: str) -> None:
        super().__init__(f"the subnet {subnet} has no address left for this end")
        self.path = path


def resolve(topology: Topology) -> Network:
    """Settle names, MAC addresses and addresses.

    The topology's links must have two ends on known nodes (``checks`` looks before it calls this).

    :raises OutOfAddressesError: when a subnet is too small.
    """
    segments = tuple(_segments(topology))
    interfaces = list(_bare_interfaces(topology))
    for segment in segments:
        _assign(segment, interfaces, topology)
    return Network(tuple(interfaces), segments)


def _bare_interfaces(topology: Topology) -> Iterator[Interface]:
    """Yield the interfaces with names and MAC addresses, but only the addresses the file gives."""
    taken: dict[str, set[str]] = {
        node: {BRIDGE_DEVICE} if isinstance(topology.nodes[node], Bridge) else set() for node in topology.nodes
    }
    for link in topology.links.values():
        for node, end in link.ends.items():
            if end.interface is not None:
                taken[node].add(end.interface)
    number = 0
    for link_name, link in topology.links.items():
        first, second = link.ends
        for node, end in link.ends.items():
            name = end.interface or _free_name(taken[node])
            taken[node].add(name)
            number += 1
            # 02: locally administered; 7a:64 is "zd" in ASCII.
            mac = end.mac or f"02:7a:64:{number >> 16 & 0xFF:02x}:{number >> 8 & 0xFF:02x}:{number & 0xFF:02x}"
            yield Interface(
                node=node,
                name=name,
                link=link_name,
                peer=second if node == first else first,
                mac=mac,
                mtu=end.mtu or link.mtu,
                addresses=end.address,
                end=end,
                path=("links", link_name, "ends", node),
            )


def _free_name(taken: set[str]) -> str:
    number = 0
    while f"eth{number}" in taken:
        number += 1
    return f"eth{number}"


def _segments(topology: Topology) -> Iterator[Segment]:
    """Yield groups of links that bridges join, with the subnets the file gives them."""
    bridges = topology.bridges()
    left = list(topology.links)
    while left:
        group = [left.pop(0)]
        joined: list[str] = []
        for name in group:  # grows while it is walked
            for node in topology.links[name].ends:
                if node in bridges and node not in joined:
                    joined.append(node)
                    more = [other for other in left if node in topology.links[other].ends]
                    group.extend(more)
                    left = [other for other in left if other not in more]
        subnets = [subnet for name in group for subnet in topology.links[name].subnet]
        subnets += [subnet for bridge in joined for subnet in bridges[bridge].subnet]
        yield Segment(tuple(group), tuple(dict.fromkeys(subnets)))


def _assign(segment: Segment, interfaces: list[Interface], topology: Topology) -> None:
    """Give the ends of a segment that have no address one from each of its subnets, in order."""
    members = [
        index
        for index, interface in enumerate(interfaces)
        if interface.link in segment.links and not isinstance(topology.nodes[interface.node], Bridge)
    ]
    used = {ipaddress.ip_interface(address).ip for index in members for address in interfaces[index].addresses}
    for subnet in segment.subnets:
        network = ipaddress.ip_network(subnet)
        free = (host for host in network.hosts() if host not in used)
        for index in members:
            if interfaces[index].end.address:
                continue
            host = next(free, None)
            if host is None:
                raise OutOfAddressesError(interfaces[index].path, subnet)
            address = f"{host}/{network.prefixlen}"
            interfaces[index] = replace(interfaces[index], addresses=(*interfaces[index].addresses, address))
