"""The lab's machines: taps, accelerator, start, readiness."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from zdlab.errors import GuestError
from zdlab.guest.qemu import Machine, MachineSpec, NicSpec
from zdlab.lab.apply import Nodes
from zdlab.lab.places import Place, PlacedTap
from zdlab.lab.request import LabRequest
from zdlab.plan import operations as ops

MIB = 1 << 20


class Machines:
    """All machines of a lab, at every level.

    :param on_change: called with a machine whose state changed.
    """

    def __init__(self, request: LabRequest, on_change: Callable[[Machine], None]) -> None:
        self._request = request
        self._on_change = on_change
        self._places = {
            op.node: op.place for op in request.operations if isinstance(op, ops.MakeNamespace | ops.StartMachine)
        }
        self.running: dict[str, Machine] = {}
        self.accelerator_reasons: dict[str, str] = {}

    async def start(self, place: Place, operations: Sequence[ops.Operation], nodes: Nodes) -> None:
        """Make the taps of a place and start its machines; does not wait for them.

        :raises ZdlabError: when a tap, KVM or QEMU is not to be had.
        """
        made: dict[tuple[str, str], PlacedTap] = {}
        for operation in operations:
            if isinstance(operation, ops.MakeTap):
                tap = await place.tap(operation)
                nodes.indexes[operation.node, operation.interface] = tap.index
                made[operation.owner, operation.owner_interface] = tap
        for operation in operations:
            if isinstance(operation, ops.StartMachine):
                await self._start_one(place, operation, [made[nic.owner, nic.interface] for nic in operation.nics])

    async def _start_one(self, place: Place, operation: ops.StartMachine, taps: Sequence[PlacedTap]) -> None:
        name = operation.node
        files = self._request.boot[name]
        # What the command line forces is how the computer runs its machines, not how they run theirs.
        wanted = operation.accelerator if place.nested else self._request.accelerator or operation.accelerator
        choice = await place.accelerator(wanted, files)  # type: ignore[arg-type]
        self.accelerator_reasons[name] = choice.reason
        spec = MachineSpec(
            name=name,
            kernel=files.kernel,
            initrd=files.initrd,
            accelerator=choice.name,
            memory_mib=operation.memory // MIB,
            cpus=operation.cpus,
            append=operation.append,
            nics=tuple(
                NicSpec(mac=nic.mac, queues=nic.queues, vhost=tap.vhost, sndbuf=tap.operation.sndbuf)
                for nic, tap in zip(operation.nics, taps, strict=True)
            ),
            nested=place.nested,
            emulated_below=place.emulated,
            cpu_model=operation.cpu_model,
            irqchip=operation.irqchip,
        )
        machine = Machine(spec, self._on_change)
        await machine.start(place.launcher(taps))
        self.running[name] = machine

    async def settle(self, name: str) -> None:
        """Wait until it is known what became of the machine a node is on, whose agent's channel broke."""
        for machine in self._around(name):
            await machine.settle()

    async def settle_all(self) -> None:
        """Wait until it is known of every machine whether it ended, in a lab of which something just failed."""
        await asyncio.gather(*(machine.settle() for machine in self.running.values()))

    def check(self, name: str) -> None:
        """Raise what is wrong with a node that is a machine and does not run, or with a machine around it.

        :raises GuestError: when a machine exited, panicked or hangs.
        """
        for machine in reversed(self._around(name)):
            if machine.state not in {"starting", "ready"}:
                raise machine.error()

    def _around(self, name: str) -> list[Machine]:
        """Return the machines a node's life depends on, from itself outwards."""
        found = []
        while name:
            if name in self.running:
                found.append(self.running[name])
            name = self._places.get(name, "")
        return found

    def errors(self) -> list[GuestError]:
        """Return what is wrong with the machines, those around others first; nothing when all is well."""
        return [machine.error() for machine in self.running.values() if machine.state not in {"starting", "ready"}]

    async def stop(self) -> None:
        """End all machines, the innermost first: each is asked through those around it."""
        depths = {name: len(self._around(name)) for name in self.running}
        for depth in sorted(set(depths.values()), reverse=True):
            level = [self.running[name] for name in self.running if depths[name] == depth]
            await asyncio.gather(*(machine.stop() for machine in level), return_exceptions=True)
