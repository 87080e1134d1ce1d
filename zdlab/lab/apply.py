"""Carrying out a plan: operations become requests to the nodes' agents, and are read back.

Nodes are configured side by side; the operations of one node keep their order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from zdlab.errors import LabError, ReadbackError
from zdlab.guest.agent_client import AgentClient
from zdlab.lab.qdiscs import add_all
from zdlab.lab.rtnetlink import Batch, read_links
from zdlab.plan import operations as ops

#: What ``ethtool -K`` and ``ethtool -k`` call the offloads; the first must become what is asked for, the others where
#: the device has a switch for them.
_FEATURES: Final[Mapping[str, Mapping[str, str]]] = {
    "tso": {"tso": "tcp-segmentation-offload"},
    "gso": {"gso": "generic-segmentation-offload"},
    "gro": {"gro": "generic-receive-offload"},
    "checksum": {"tx": "tx-checksumming", "rx": "rx-checksumming"},
}


@dataclass
class Nodes:
    """The agents of a lab, and the interface indexes known so far."""

    agents: dict[str, AgentClient] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    indexes: dict[tuple[str, str], int] = field(default_factory=dict)
    _next_index: int = 100

    def new_index(self, node: str, interface: str) -> int:
        """Choose the index of an interface that is about to be made, so that nobody has to ask for it."""
        self._next_index += 1
        self.indexes[node, interface] = self._next_index
        return self._next_index


async def move_cards(nodes: Nodes, machine: str, operations: Sequence[ops.Operation]) -> None:
    """Move a machine's network cards to the nodes in it whose interfaces they are.

    :raises LabError: when its kernel does not show one, or refuses.
    """
    moves = [op for op in operations if isinstance(op, ops.MoveCard)]
    if not moves:
        return
    agent = nodes.agents[machine]
    by_mac = {state.mac: state for state in (await read_links(agent)).values() if state.mac}
    batch = Batch()
    for move in moves:
        state = by_mac.get(move.mac)
        if state is None:
            raise _no_card(machine, move.mac, move.origin)
        # The name goes with it, so that it never meets another device of the node's under the same one.
        arguments = {"ifname": move.interface, "net_ns_pid": nodes.pids[move.node]}
        batch.link(move, "set", index=state.index, **arguments)
    await batch.send(agent)


async def make_links(nodes: Nodes, operations: Sequence[ops.Operation]) -> None:
    """Make the bridges and veth pairs of one place.

    :raises LabError: when its kernel refuses one.
    """
    batches: dict[str, Batch] = {}
    peers: set[str] = set()
    for operation in operations:
        batch = batches.setdefault(operation.node, Batch())
        if isinstance(operation, ops.MakeBridge):
            index = nodes.new_index(operation.node, operation.interface)
            batch.link(operation, "add", ifname=operation.interface, kind="bridge", index=index, br_stp_state=0)
            batch.link(operation, "set", index=index, state="up")
        elif isinstance(operation, ops.MakeVeth):
            peers.add(operation.peer_node)
            peer = {
                "ifname": operation.peer_interface,
                "address": operation.peer_mac,
                "net_ns_pid": nodes.pids[operation.peer_node],
            }
            batch.link(
                operation,
                "add",
                ifname=operation.interface,
                kind="veth",
                index=nodes.new_index(operation.node, operation.interface),
                address=operation.mac,
                peer=peer,
            )
    await side_by_side(batch.send(nodes.agents[node]) for node, batch in batches.items() if batch)
    await side_by_side(_look_up(nodes, node) for node in peers)  # the kernel chose the peers' indexes


async def _look_up(nodes: Nodes, node: str) -> None:
    for index, name in await nodes.agents[node].interface_names():
        nodes.indexes[node, name] = index


async def configure(nodes: Nodes, node: str, operations: Sequence[ops.Operation]) -> None:
    """Configure one node: sysctls, interfaces, addresses, offloads, routes, qdiscs; then read back.

    :raises LabError: when its kernel refuses something.
    :raises ReadbackError: when its kernel holds something else than was set.
    """
    agent = nodes.agents[node]
    await _sysctls(agent, [op for op in operations if isinstance(op, ops.SetSysctls)])
    interfaces = [op for op in operations if isinstance(op, ops.ConfigureInterface)]
    if not interfaces:
        return
    await _find_by_mac(nodes, agent, [op for op in interfaces if op.found_by_mac])
    taps = {op.interface for op in operations if isinstance(op, ops.MakeTap)}
    offloads = [op for op in operations if isinstance(op, ops.SetOffloads) and op.interface not in taps]
    await _network(nodes, agent, operations, offloads)
    await _read_back(agent, interfaces, operations)
    qdiscs = [op for op in operations if isinstance(op, ops.AddQdisc | ops.AddClass)]
    if qdiscs:
        await add_all(agent, qdiscs)


async def configure_taps(nodes: Nodes, operations: Sequence[ops.Operation]) -> None:
    """Switch the offloads of one place's taps, whose machines are ready; then read back.

    A machine's driver, when it starts, has QEMU switch the tap's offloads to what it can take itself.

    :raises ReadbackError: when the kernel holds something else than was set.
    """
    taps = {(op.node, op.interface) for op in operations if isinstance(op, ops.MakeTap)}
    await side_by_side(
        _set_offloads(nodes.agents[op.node], op)
        for op in operations
        if isinstance(op, ops.SetOffloads) and (op.node, op.interface) in taps
    )


async def _network(
    nodes: Nodes, agent: AgentClient, operations: Sequence[ops.Operation], offloads: Sequence[ops.SetOffloads]
) -> None:
    node = agent.name
    batch = Batch()
    for operation in operations:
        if isinstance(operation, ops.ConfigureInterface):
            index = nodes.indexes[node, operation.interface]
            arguments: dict[str, object] = {"mtu": operation.mtu}
            if operation.found_by_mac:
                arguments["ifname"] = operation.interface
            elif operation.mac:
                arguments["address"] = operation.mac
            if operation.txqueuelen is not None:
                arguments["txqlen"] = operation.txqueuelen
            if operation.gso_max_segs is not None:
                arguments["gso_max_segs"] = operation.gso_max_segs
            if operation.bridge is not None:
                arguments["master"] = nodes.indexes[node, operation.bridge]
            batch.link(operation, "set", index=index, **arguments)
        elif isinstance(operation, ops.AddAddress):
            batch.address(operation, nodes.indexes[node, operation.interface])
        elif isinstance(operation, ops.SetUp):
            batch.link(operation, "set", index=nodes.indexes[node, operation.interface], state="up")
        elif isinstance(operation, ops.AddRoute):
            batch.route(operation)
    await batch.send(agent)
    for operation in offloads:
        await _set_offloads(agent, operation)


async def _find_by_mac(nodes: Nodes, agent: AgentClient, wanted: Sequence[ops.ConfigureInterface]) -> None:
    if not wanted:
        return
    by_mac = {state.mac: state for state in (await read_links(agent)).values() if state.mac}
    for operation in wanted:
        state = by_mac.get(operation.mac)
        if state is None:
            raise _no_card(agent.name, operation.mac, operation.origin)
        nodes.indexes[agent.name, operation.interface] = state.index


def _no_card(node: str, mac: str, origin: ops.Origin) -> LabError:
    return LabError(
        f"{node}: its kernel shows no network device with MAC address {mac}",
        hint="use a kernel with virtio-net built in (CONFIG_VIRTIO_NET=y)",
        origin=origin,
    )


async def _sysctls(agent: AgentClient, operations: Sequence[ops.SetSysctls]) -> None:
    values = [pair for operation in operations for pair in operation.values]
    origins = {name: (*operation.origin, name) for operation in operations for name, _ in operation.values}
    required = {name for operation in operations if operation.required for name, _ in operation.values}
    if not values:
        return
    held = await agent.set_sysctls(values)
    for name, value in values:
        actual = held[name]
        if actual is None and name in required:
            message = f"{agent.name}: its kernel has no sysctl {name}"
            raise LabError(message, hint="check the name, or the kernel", origin=origins[name])
        if name in required and actual != value:
            message = f"{agent.name}: set {name} to {value!r}, the kernel holds {actual!r}"
            raise ReadbackError(message, hint="write what the kernel can hold", origin=origins[name])


async def _set_offloads(agent: AgentClient, operation: ops.SetOffloads) -> None:
    before = await _features(agent, operation.interface)
    wanted = [
        (word, shown, "on" if value else "off")
        for name, value in operation.values
        for number, (word, shown) in enumerate(_FEATURES[name].items())
        if number == 0 or (shown in before and "[fixed]" not in before[shown])
    ]
    words = [word for name, _, value in wanted for word in (name, value)]
    done = await agent.run(["ethtool", "-K", operation.interface, *words])
    after = await _features(agent, operation.interface)
    for _, shown, value in wanted:
        held = after.get(shown, "")
        if held.split(" ")[0] != value:
            said = done.stderr.decode("utf-8", "replace").strip()
            raise ReadbackError(
                f"{agent.name} {operation.interface}: set {shown} {value}, the kernel holds {held or 'nothing of it'}"
                + (f" ({said})" if said else ""),
                hint="its device cannot do that",
                origin=operation.origin,
            )


async def _features(agent: AgentClient, interface: str) -> dict[str, str]:
    """Return what ``ethtool -k`` shows of an interface: ``on`` or ``off``, with remarks."""
    shown = (await agent.run(["ethtool", "-k", interface])).stdout.decode("utf-8", "replace")
    return dict(line.strip().split(": ", 1) for line in shown.splitlines() if ": " in line)


async def _read_back(
    agent: AgentClient, interfaces: Sequence[ops.ConfigureInterface], operations: Sequence[ops.Operation]
) -> None:
    states = await read_links(agent)
    names = {state.index: state.name for state in states.values()}
    for operation in interfaces:
        state = states.get(operation.interface)
        if state is None:
            raise _differs(agent, operation, operation.origin, "the interface", "none")
        expected: list[tuple[str, object, object]] = [("mtu", operation.mtu, state.mtu), ("up", True, state.up)]
        if operation.mac:
            expected.append(("mac", operation.mac, state.mac))
        if operation.txqueuelen is not None:
            expected.append(("txqueuelen", operation.txqueuelen, state.txqueuelen))
        if operation.gso_max_segs is not None:
            expected.append(("gso_max_segs", operation.gso_max_segs, state.gso_max_segs))
        if operation.bridge is not None:
            expected.append(("bridge", operation.bridge, names.get(state.master)))
        for what, wanted, held in expected:
            if wanted != held:
                raise _differs(agent, operation, (*operation.origin, what), f"{what} to {wanted}", held)
    for address in operations:
        if isinstance(address, ops.AddAddress) and address.address not in states[address.interface].addresses:
            held_list = ", ".join(states[address.interface].addresses) or "none"
            raise _differs(agent, address, address.origin, f"address {address.address}", held_list)


def _differs(
    agent: AgentClient,
    operation: ops.ConfigureInterface | ops.AddAddress,
    origin: ops.Origin,
    wanted: str,
    held: object,
) -> ReadbackError:
    return ReadbackError(
        f"{agent.name} {operation.interface}: set {wanted}, the kernel holds {held}",
        hint="write what its kernel can hold",
        origin=origin if operation.origin else (),
    )


async def side_by_side(work: Iterable[Coroutine[None, None, None]]) -> None:
    """Run coroutines side by side; the first error stops the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for item in work:
                group.create_task(item)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


def by_node(operations: Sequence[ops.Operation]) -> dict[str, list[ops.Operation]]:
    """Group operations by node, keeping their order."""
    groups: dict[str, list[ops.Operation]] = {}
    for operation in operations:
        groups.setdefault(operation.node, []).append(operation)
    return groups


def by_kernel(operations: Sequence[ops.Operation]) -> dict[str, list[ops.Operation]]:
    """Group operations by the kernel they are carried out on, keeping their order; the lab's has no name.

    A machine is started on the kernel of its place; all else that is done to it is done on its own.
    """
    kernels: dict[str, str] = {}
    for op in operations:
        if isinstance(op, ops.MakeNamespace):
            kernels[op.node] = op.place
        elif isinstance(op, ops.StartMachine):
            kernels[op.node] = op.node
    groups: dict[str, list[ops.Operation]] = {kernel: [] for kernel in ("", *kernels.values())}
    for op in operations:
        groups[op.place if isinstance(op, ops.StartMachine) else kernels[op.node]].append(op)
    return groups
