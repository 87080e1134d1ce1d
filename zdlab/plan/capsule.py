"""Placing a topology in a capsule, the one machine that holds all of it under the virtual clock. Pure.

A topology's only outermost machine *is* the capsule: it becomes a namespace there, what lives in it lives in the
capsule itself, and its kernel, memory and kernel command line are the capsule's. Other machines become guests of the
capsule, or, where the file says ``machines: inline`` and all of them have the same kernel, namespaces of it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from zdlab.errors import UsageError
from zdlab.topology import Topology
from zdlab.topology.links import Link
from zdlab.topology.nodes import Host, Machine, Node
from zdlab.topology.places import LAB, crossing, place_of

#: What became of the machines.
Form = Literal[
    "no machines",
    "the machine is the capsule",
    "the outermost machine is the capsule, those in it are its guests",
    "machines are guests of the capsule",
    "machines inline",
]

#: The kernel of a capsule when no machine is one.
DEFAULT_KERNEL: Final = "stock"
_MIB: Final = 1 << 20
#: A capsule holds its programs in memory, beside what the topology asks for, and what its guests boot from.
_LEAST: Final = 1024 * _MIB
_PROGRAMS: Final = 256 * _MIB
_EACH_GUEST: Final = 128 * _MIB


@dataclass(frozen=True)
class Placement:
    """A topology as it stands in a capsule.

    :param topology: with those machines only that are the capsule's guests.
    :param kernel: the capsule's, as the file names it.
    :param kernel_of: the machine the kernel was asked for; ``None``: it is the default.
    :param memory: bytes.
    :param append: further words of the kernel's command line.
    """

    topology: Topology
    form: Form
    kernel: str
    kernel_of: str | None
    memory: int
    append: tuple[str, ...]


class PlacementError(UsageError):
    """A topology does not fit into a capsule as it is.

    :param path: of the value at fault in the topology file.
    """

    def __init__(self, message: str, *, hint: str, path: tuple[str, ...]) -> None:
        super().__init__(message, hint=hint)
        self.path = path


def place(topology: Topology) -> Placement:
    """Return the topology as it stands in a capsule.

    :raises PlacementError: when machines are to be inline and do not have the same kernel.
    """
    machines = topology.machines()
    outermost = [name for name in machines if place_of(topology, name) == LAB]
    inline = topology.machines_as == "inline"
    if inline:
        _check_alike(machines)
    dissolved = set(machines) if inline else set(outermost) if len(outermost) == 1 else set()
    first = outermost[0] if dissolved else None
    nodes = {name: _placed(node, name, dissolved) for name, node in topology.nodes.items()}
    placed = topology.model_copy(update={"nodes": nodes})
    links = {name: _without_taps(link, placed) for name, link in topology.links.items()}
    guests = len(machines) - len(dissolved)
    return Placement(
        topology=placed.model_copy(update={"links": links}),
        form=_form(bool(machines), inline=inline, dissolved=bool(dissolved), guests=guests),
        kernel=DEFAULT_KERNEL if first is None else machines[first].kernel,
        kernel_of=first,
        memory=max(_LEAST, _PROGRAMS + guests * _EACH_GUEST + _memory(topology, dissolved, guests)),
        append=tuple(dict.fromkeys(word for name in machines if name in dissolved for word in machines[name].append)),
    )


def _form(machines: bool, *, inline: bool, dissolved: bool, guests: int) -> Form:
    if not machines:
        return "no machines"
    if inline:
        return "machines inline"
    if not dissolved:
        return "machines are guests of the capsule"
    if guests:
        return "the outermost machine is the capsule, those in it are its guests"
    return "the machine is the capsule"


def _memory(topology: Topology, dissolved: set[str], guests: int) -> int:
    """Return what the capsule's own machines and its direct guests ask for; a guest's memory holds its guests'."""
    machines = topology.machines()
    direct = [
        machine.memory
        for name, machine in machines.items()
        if name not in dissolved and place_of(topology, name) in {LAB, *dissolved}
    ]
    return sum(machines[name].memory for name in dissolved) + (sum(direct) if guests else 0)


def _check_alike(machines: dict[str, Machine]) -> None:
    kernels = [(name, machine.kernel) for name, machine in machines.items()]
    for name, kernel in kernels[1:]:
        if kernel != kernels[0][1]:
            first, wanted = kernels[0]
            raise PlacementError(
                f"machines inline share one kernel, but {first} asks for {wanted} and {name} for {kernel}",
                hint=f"give {name} the kernel of {first}, or leave out `machines: inline`",
                path=("nodes", name, "kernel"),
            )


def _placed(node: Node, name: str, dissolved: set[str]) -> Node:
    inside = None if node.inside in dissolved else node.inside
    if isinstance(node, Machine) and name in dissolved:
        host = Host.model_validate({"kind": "host", "in": inside})
        return host.model_copy(update={"sysctls": node.sysctls, "routes": node.routes})
    return node.model_copy(update={"inside": inside})


def _without_taps(link: Link, placed: Topology) -> Link:
    """Forget the taps of a link that is a veth pair now."""
    first, second = link.ends
    crossed = crossing(placed, first, second)
    if crossed is not None and crossed.cards != (None, None):
        return link
    return link.model_copy(
        update={"ends": {name: end.model_copy(update={"tap": None}) for name, end in link.ends.items()}}
    )
