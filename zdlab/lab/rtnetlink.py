"""Links, addresses and routes as netlink messages: pyroute2 encodes and decodes, a node's agent carries them.

A batch is built without a socket, so the same code configures a namespace and a guest.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import struct
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final

from pyroute2.iproute.linux import IPBatch
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.netlink.rtnl.tcmsg import plugins, sched_tbf, tcmsg

from zdlab.errors import LabError
from zdlab.guest.agent_client import AgentClient
from zdlab.lab.held import burst_bytes
from zdlab.plan.operations import AddAddress, AddRoute, Operation

_HEADER: Final = struct.Struct("=IHHII")
_NLM_F_ACK: Final = 0x4
_NLM_F_DUMP: Final = 0x300
_ROUTE: Final = 0
_RTM_GETLINK: Final = 18
_RTM_GETADDR: Final = 22
_RTM_GETQDISC: Final = 38
_RTM_GETTCLASS: Final = 42
_IFA_F_NODAD: Final = 0x02


class Batch:
    """Requests for one node, sent together; each remembers the operation it is part of."""

    def __init__(self) -> None:
        self._requests: list[tuple[Operation, str, str, dict[str, Any]]] = []

    def __bool__(self) -> bool:
        """Tell whether there is anything to send."""
        return bool(self._requests)

    def link(self, operation: Operation, command: str, **arguments: Any) -> None:
        """Add a request about a link, in pyroute2's terms."""
        self._requests.append((operation, "link", command, arguments))

    def address(self, operation: AddAddress, index: int) -> None:
        """Give an interface an address with prefix length, without duplicate address detection."""
        interface = ipaddress.ip_interface(operation.address)
        arguments: dict[str, Any] = {"address": str(interface.ip), "prefixlen": interface.network.prefixlen}
        if interface.version == 6:
            arguments["flags"] = _IFA_F_NODAD
        self._requests.append((operation, "addr", "add", {"index": index, **arguments}))

    def route(self, operation: AddRoute) -> None:
        """Add a route to a subnet, or ``default``."""
        anywhere = "0.0.0.0/0" if ipaddress.ip_address(operation.via).version == 4 else "::/0"
        arguments = {"dst": anywhere if operation.to == "default" else operation.to, "gateway": operation.via}
        self._requests.append((operation, "route", "add", arguments))

    def compile(self) -> bytes:
        """Return the requests as netlink messages."""
        compiler = IPBatch()
        try:
            compiler.reset()
            for _, method, command, arguments in self._requests:
                getattr(compiler, method)(command, **arguments)
            return bytes(compiler.batch)
        finally:
            compiler.close()

    async def send(self, agent: AgentClient) -> None:
        """Send everything to a node.

        :raises LabError: when the node's kernel refuses something; says what, and where the file asks for it.
        """
        # pyroute2 runs an event loop of its own for each call, which it cannot do inside ours.
        request = bytearray(await asyncio.to_thread(self.compile))
        asked: dict[int, Operation] = {}
        offset = 0
        for operation, *_ in self._requests:
            length, kind, flags, sequence, _ = _HEADER.unpack_from(request, offset)
            _HEADER.pack_into(request, offset, length, kind, flags | _NLM_F_ACK, sequence, 0)
            asked[sequence] = operation
            offset += (length + 3) & ~3
        answer = await agent.netlink(_ROUTE, bytes(request))
        for sequence, number in _errors(answer):
            if number:
                known = f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"
                refused = asked[sequence]
                message = f"{agent.name}: {refused.describe()}: {known}"
                raise LabError(message, hint="write what its kernel can do", origin=refused.origin)


@dataclass(frozen=True)
class LinkState:
    """What a node's kernel says of an interface."""

    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    txqueuelen: int
    gso_max_segs: int
    master: int
    addresses: list[str] = field(default_factory=list)


async def read_links(agent: AgentClient) -> dict[str, LinkState]:
    """Return the interfaces of a node by name, with their addresses.

    :raises LabError: when the node does not tell.
    """
    # Two calls: a netlink socket has one dump under way at a time.
    answer = await agent.netlink(_ROUTE, _dump(_RTM_GETLINK, 16, 1))
    answer += await agent.netlink(_ROUTE, _dump(_RTM_GETADDR, 8, 2))
    states: dict[int, LinkState] = {}
    addresses: dict[int, list[str]] = {}
    for message in MarshalRtnl().parse(answer):
        if isinstance(message, ifinfmsg):
            states[message["index"]] = LinkState(
                index=message["index"],
                name=message.get_attr("IFLA_IFNAME") or "",
                mac=message.get_attr("IFLA_ADDRESS") or "",
                mtu=message.get_attr("IFLA_MTU") or 0,
                up=bool(message["flags"] & 1),
                txqueuelen=message.get_attr("IFLA_TXQLEN") or 0,
                gso_max_segs=message.get_attr("IFLA_GSO_MAX_SEGS") or 0,
                master=message.get_attr("IFLA_MASTER") or 0,
            )
        elif isinstance(message, ifaddrmsg):
            address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            addresses.setdefault(message["index"], []).append(f"{address}/{message['prefixlen']}")
    for index, found in addresses.items():
        if index in states:
            states[index].addresses.extend(found)
    return {state.name: state for state in states.values()}


async def read_htb_classes(agent: AgentClient) -> dict[tuple[str, str], dict[str, int]]:
    """Return the parameters of a node's htb classes, in bit/s and bytes, by interface and class id (``1:a``)."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for name, state in (await read_links(agent)).items():
        request = bytearray(_dump(_RTM_GETTCLASS, 20, 1))
        struct.pack_into("=i", request, _HEADER.size + 4, state.index)
        for message, options in await _read_tc(agent, bytes(request), "htb"):
            held = options.get_attr("TCA_HTB_PARMS")
            rate, ceil = (8 * (options.get_attr(f"TCA_HTB_{key.upper()}64") or held[key]) for key in ("rate", "ceil"))
            found[name, _handle(message["handle"])] = {
                "rate": rate,
                "ceil": ceil,
                "burst": burst_bytes(rate, held["buffer"]),
                "cburst": burst_bytes(ceil, held["cbuffer"]),
                "prio": held["prio"],
                "quantum": held["quantum"],
            }
    return found


async def read_tbf_buckets(agent: AgentClient) -> dict[tuple[str, str], dict[str, int]]:
    """Return what ``tc`` tells of a node's tbf qdiscs in no form for programs, by interface and handle (``1:``).

    The peak rate is in bytes per second, as ``tc`` tells rates; buckets are in bytes.
    """
    names = {state.index: state.name for state in (await read_links(agent)).values()}
    found: dict[tuple[str, str], dict[str, int]] = {}
    for message, options in await _read_tc(agent, _dump(_RTM_GETQDISC, 20, 1), "tbf"):
        held = options.get_attr("TCA_TBF_PARMS")
        rate, peak = (
            options.get_attr(f"TCA_TBF_{name}64") or held[key] for name, key in (("RATE", "rate"), ("PRATE", "peak"))
        )
        found[names[message["index"]], _handle(message["handle"])] = {
            "burst": burst_bytes(8 * rate, held["buffer"]),
            "minburst": burst_bytes(8 * peak, held["mtu"]),
            "peakrate": peak,
        }
    return found


async def _read_tc(agent: AgentClient, request: bytes, kind: str) -> list[tuple[Any, Any]]:
    """Return the messages about qdiscs or classes of one kind, each with its options."""
    messages = [item for item in MarshalRtnl().parse(await agent.netlink(_ROUTE, request)) if isinstance(item, tcmsg)]
    found = [(item, item.get_attr("TCA_OPTIONS")) for item in messages if item.get_attr("TCA_KIND") == kind]
    return [(item, options) for item, options in found if options is not None]


def _handle(number: int) -> str:
    return f"{number >> 16:x}:" + (f"{number & 0xFFFF:x}" if number & 0xFFFF else "")


class _TbfOptions(sched_tbf.options):  # type: ignore[misc]
    """Options of tbf with those pyroute2 does not know: rates of 4 GB/s and more."""

    nla_map = (
        *sched_tbf.options.nla_map,
        ("TCA_TBF_RATE64", "uint64"),
        ("TCA_TBF_PRATE64", "uint64"),
    )


plugins["tbf"] = SimpleNamespace(options=_TbfOptions)


def _dump(kind: int, body: int, sequence: int) -> bytes:
    return _HEADER.pack(_HEADER.size + body, kind, 1 | _NLM_F_DUMP, sequence, 0) + bytes(body)


def _errors(answer: bytes) -> list[tuple[int, int]]:
    """Return ``(sequence, errno)`` of each acknowledgement."""
    found = []
    offset = 0
    while offset + _HEADER.size <= len(answer):
        length, kind, _, sequence, _ = _HEADER.unpack_from(answer, offset)
        if kind == 2:  # NLMSG_ERROR
            (number,) = struct.unpack_from("=i", answer, offset + _HEADER.size)
            found.append((sequence, -number))
        offset += (length + 3) & ~3
    return found
