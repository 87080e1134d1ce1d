"""Where nodes live: on the lab's kernel, or in a machine, to any depth. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from zdlab.topology.model import Topology
from zdlab.topology.nodes import Machine

#: The kernel of whatever the lab itself runs on.
LAB = ""


def place_of(topology: Topology, node: str) -> str:
    """Return the machine a node lives in, :data:`LAB` for none."""
    return topology.nodes[node].inside or LAB


def kernel_of(topology: Topology, node: str) -> str:
    """Return whose kernel a node's interfaces are on: a machine's own, else that of the place it lives in."""
    return node if isinstance(topology.nodes[node], Machine) else place_of(topology, node)


def around(topology: Topology, node: str) -> tuple[str, ...]:
    """Return the machines a node lives in, from the nearest outwards."""
    found: list[str] = []
    while (outer := place_of(topology, node)) != LAB:
        if outer in found:
            break  # a circle, which the checks refuse
        found.append(outer)
        node = outer
    return tuple(found)


def held(topology: Topology, machine: str) -> tuple[str, ...]:
    """Return the nodes that live directly in a machine."""
    return tuple(name for name, node in topology.nodes.items() if node.inside == machine)


@dataclass(frozen=True)
class Crossing:
    """How a link gets from one node to another.

    :param kernel: where the link's wire is: the kernel of veth, taps or both.
    :param cards: for each end, the machine whose network card it is; ``None`` for an end on ``kernel`` itself.
    """

    kernel: str
    cards: tuple[str | None, str | None]


def crossing(topology: Topology, first: str, second: str) -> Crossing | None:
    """Return how a link gets from one node to another, ``None`` when it would cross two borders on one side."""
    here, there = kernel_of(topology, first), kernel_of(topology, second)
    if here == there:
        return Crossing(here, (None, None))
    if here != LAB and place_of(topology, here) == there:
        return Crossing(there, (here, None))
    if there != LAB and place_of(topology, there) == here:
        return Crossing(here, (None, there))
    if LAB not in {here, there} and place_of(topology, here) == place_of(topology, there):
        return Crossing(place_of(topology, here), (here, there))
    return None
