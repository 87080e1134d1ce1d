"""The operations a lab is built with: what to do, on which node, in which order.

An operation says everything needed to carry it out and nothing about how. It is immutable, and can be written
as a line of text or as JSON. ``node`` names the namespace or guest whose kernel it changes; ``origin`` is the
path in the topology file it comes from, so that a failure can name the line.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal

from zdlab import units

Origin = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What all operations share."""

    verb: ClassVar[str]
    node: str
    origin: Origin = field(default=(), compare=False)

    def details(self) -> str:
        """Return what is done, without the verb and the node."""
        raise NotImplementedError

    def describe(self) -> str:
        """Return the operation as one line of text."""
        return f"{self.verb} {self.node} {self.details()}".rstrip()

    def to_json(self) -> dict[str, Any]:
        """Return the operation as plain values."""
        values = {key: value for key, value in asdict(self).items() if key != "origin"}
        return {"operation": self.verb, **values}


@dataclass(frozen=True, kw_only=True)
class MakeNamespace(Operation):
    """Make the network namespace of a host, a bridge or a wire, with its loopback up.

    :param place: the machine whose kernel it is on, empty for the lab's.
    """

    verb = "namespace"
    place: str = ""

    def details(self) -> str:
        """Return where, unless it is the lab."""
        return f"in {self.place}" if self.place else ""


@dataclass(frozen=True, kw_only=True)
class SetSysctls(Operation):
    """Set sysctls in a node and read them back. ``required`` ones come from the user and must exist."""

    verb = "sysctl"
    values: tuple[tuple[str, str], ...]
    required: bool = True

    def details(self) -> str:
        """Return the assignments."""
        text = " ".join(f"{name}={value!r}" if " " in value else f"{name}={value}" for name, value in self.values)
        return text if self.required else f"{text} (where the kernel has them)"


@dataclass(frozen=True, kw_only=True)
class MakeBridge(Operation):
    """Make a bridge device, up, with the spanning tree protocol off."""

    verb = "bridge"
    interface: str

    def details(self) -> str:
        """Return the device."""
        return self.interface


@dataclass(frozen=True, kw_only=True)
class MakeVeth(Operation):
    """Make a veth pair with one end in each of two namespaces."""

    verb = "veth"
    interface: str
    mac: str
    peer_node: str
    peer_interface: str
    peer_mac: str

    def details(self) -> str:
        """Return both ends."""
        return f"{self.interface} {self.mac} peer {self.peer_node} {self.peer_interface} {self.peer_mac}"


@dataclass(frozen=True, kw_only=True)
class MakeTap(Operation):
    """Make the tap device of a machine's interface in a namespace.

    :param machine: the machine whose network card it serves.
    :param owner: the node whose interface that card is, and ``owner_interface`` its name there: the machine itself,
        or a node that lives in it.
    :param sndbuf: bytes of the guest that may wait behind the tap; ``None``: no limit.
    """

    verb = "tap"
    interface: str
    machine: str
    owner: str
    owner_interface: str
    queues: int
    sndbuf: int | None
    vhost: bool | None

    def details(self) -> str:
        """Return the device and what it serves."""
        vhost = {None: "auto", True: "on", False: "off"}[self.vhost]
        sndbuf = "" if self.sndbuf is None else f" sndbuf {units.format_size(self.sndbuf)}"
        served = f"{self.owner}:{self.owner_interface}"
        served += "" if self.owner == self.machine else f" through {self.machine}"
        return f"{self.interface} for {served} queues {self.queues} vhost {vhost}{sndbuf}"


@dataclass(frozen=True, kw_only=True)
class Nic:
    """A network card of a machine: the interface of its own, or of a node that lives in it."""

    owner: str
    interface: str
    mac: str
    mtu: int
    queues: int = 1


@dataclass(frozen=True, kw_only=True)
class StartMachine(Operation):
    """Start a machine with the taps made for it, in the order of ``nics``.

    :param place: the machine it runs in, empty for the lab.
    :param kernel: name in the registry, or a path.
    :param memory: bytes.
    :param cpu_model: for QEMU; ``None`` for what works.
    :param irqchip: the same.
    """

    verb = "machine"
    place: str = ""
    kernel: str
    memory: int
    cpus: int
    accelerator: str
    append: tuple[str, ...]
    nics: tuple[Nic, ...]
    cpu_model: str | None = None
    irqchip: Literal["on", "off", "split"] | None = None

    def details(self) -> str:
        """Return place, kernel and size."""
        nics = " ".join(f"nic {nic.interface} {nic.mac}" for nic in self.nics)
        place = f"in {self.place} " if self.place else ""
        return (
            f"{place}kernel {self.kernel} memory {units.format_size(self.memory)} cpus {self.cpus} "
            f"accelerator {self.accelerator} {nics}"
        ).rstrip()


@dataclass(frozen=True, kw_only=True)
class MoveCard(Operation):
    """Move a network card of a machine into the namespace of a node that lives in it.

    :param machine: the machine.
    :param mac: the card's MAC address.
    """

    verb = "move"
    interface: str
    machine: str
    mac: str

    def details(self) -> str:
        """Return the card and what it becomes."""
        return f"{self.interface} from card {self.mac} of {self.machine}"


@dataclass(frozen=True, kw_only=True)
class AwaitMachine(Operation):
    """Wait until a machine's agent answers."""

    verb = "await"

    def details(self) -> str:
        """Return nothing: the node says it all."""
        return ""


@dataclass(frozen=True, kw_only=True)
class ConfigureInterface(Operation):
    """Name an interface (a guest's, found by its MAC address), set MTU and queue length, join a bridge.

    The interface stays down; :class:`SetUp` follows when its addresses and offloads are there.

    :param gso_max_segs: packets the largest segment may stand for; 1 for none larger than a packet.
    :param found_by_mac: the interface has whatever name the guest's kernel gave it.
    :param bridge: the bridge device of the same node it becomes a port of.
    """

    verb = "interface"
    interface: str
    mac: str
    mtu: int
    txqueuelen: int | None = None
    gso_max_segs: int | None = None
    found_by_mac: bool = False
    bridge: str | None = None

    def details(self) -> str:
        """Return the settings."""
        parts = [self.interface, f"mtu {self.mtu}"]
        parts += [f"txqueuelen {self.txqueuelen}"] if self.txqueuelen is not None else []
        parts += [f"gso_max_segs {self.gso_max_segs}"] if self.gso_max_segs is not None else []
        parts += [f"port of {self.bridge}"] if self.bridge is not None else []
        return " ".join(parts)


@dataclass(frozen=True, kw_only=True)
class SetOffloads(Operation):
    """Switch offloads of an interface: ``tso``, ``gso``, ``gro``, ``checksum``, and what each becomes."""

    verb = "offload"
    interface: str
    values: tuple[tuple[str, bool], ...]

    def details(self) -> str:
        """Return the switches."""
        return " ".join([self.interface, *(f"{name} {'on' if value else 'off'}" for name, value in self.values)])


@dataclass(frozen=True, kw_only=True)
class AddAddress(Operation):
    """Give an interface an address with its prefix length; IPv6 without duplicate address detection."""

    verb = "address"
    interface: str
    address: str

    def details(self) -> str:
        """Return interface and address."""
        return f"{self.interface} {self.address}"


@dataclass(frozen=True, kw_only=True)
class SetUp(Operation):
    """Bring an interface up."""

    verb = "up"
    interface: str

    def details(self) -> str:
        """Return the interface."""
        return self.interface


@dataclass(frozen=True, kw_only=True)
class AddRoute(Operation):
    """Add a static route; ``to`` is a subnet, or ``default``."""

    verb = "route"
    to: str
    via: str

    def details(self) -> str:
        """Return destination and next hop."""
        return f"{self.to} via {self.via}"


@dataclass(frozen=True, kw_only=True)
class AddQdisc(Operation):
    """Attach a qdisc.

    :param handle: like ``1:``; ``parent`` is ``root``, ``ingress`` or a class like ``1:10``.
    :param options: parameters by the names of the topology model, in its integer units (bit/s, bytes, ns).
    """

    verb = "qdisc"
    interface: str
    kind: str
    handle: str
    parent: str
    options: tuple[tuple[str, Any], ...] = ()

    def details(self) -> str:
        """Return place, kind and parameters."""
        return _tc_line(self.interface, self.parent, f"handle {self.handle} {self.kind}", self.options)


@dataclass(frozen=True, kw_only=True)
class AddClass(Operation):
    """Add a class to a classful qdisc; ``classid`` like ``1:10``, ``parent`` like ``1:`` or ``1:1``."""

    verb = "class"
    interface: str
    kind: str
    classid: str
    parent: str
    options: tuple[tuple[str, Any], ...] = ()

    def details(self) -> str:
        """Return place, kind and parameters."""
        return _tc_line(self.interface, self.parent, f"classid {self.classid} {self.kind}", self.options)


_FORMATS = {
    "rate": units.format_rate,
    "ceil": units.format_rate,
    "peakrate": units.format_rate,
    "maxrate": units.format_rate,
    "bandwidth": units.format_rate,
    "latency": units.format_time,
    "delay": units.format_time,
    "jitter": units.format_time,
    "target": units.format_time,
    "interval": units.format_time,
    "perturb": units.format_time,
    "refill_delay": units.format_time,
}


def _tc_line(interface: str, parent: str, what: str, options: tuple[tuple[str, Any], ...]) -> str:
    words = [f"{interface} parent {parent} {what}"]
    for name, value in options:
        words.append(f"{name} {_FORMATS[name](value) if name in _FORMATS else value}")
    return " ".join(words)


def operation_fields(operation: Operation) -> tuple[str, ...]:
    """Return the names of an operation's fields, without where it comes from."""
    return tuple(item.name for item in fields(operation) if item.name != "origin")
