"""The supervisor: first process of a pod, builds the lab, serves its control socket, ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zdlab.agent import linux
from zdlab.agent.namespaces import start_namespace
from zdlab.errors import LabError, UsageError, ZdlabError
from zdlab.guest.agent_client import AgentClient
from zdlab.guest.qemu import Machine
from zdlab.lab import pod
from zdlab.lab.apply import Nodes, by_kernel, by_node, configure, configure_taps, make_links, move_cards, side_by_side
from zdlab.lab.control import ControlServer
from zdlab.lab.machines import Machines
from zdlab.lab.places import Inside, Place, Pod
from zdlab.lab.request import LabRequest
from zdlab.lab.shepherd import SOCKET, write_info
from zdlab.plan import operations as ops


def run(request: LabRequest, channel: socket.socket, lock: int) -> int:
    """Be the supervisor: returns when the lab has ended.

    :param channel: to the client that asked for the lab: progress, then ready or what failed.
    :param lock: the lock on the lab's directory, kept open while the lab lives.
    """
    outside = int(Path("/proc/self").readlink().name)  # our number as the computer sees it, before /proc changes
    try:
        linux.die_with_parent(signal.SIGTERM)
        write_info(request, outside)
        listener = _listener(request.directory)
        directory = os.open(request.directory, os.O_RDONLY | os.O_DIRECTORY)
        parent = os.open(request.directory.parent, os.O_RDONLY | os.O_DIRECTORY)
        pod.enter(request.name, capsule=request.capsule)
        pod.write_hosts(_addresses(request))  # before the nodes: each takes the mounts of this moment with it
        namespaces = _start_namespaces(request)
    except (OSError, ZdlabError) as error:
        _tell(channel, _failure(error))
        return 1
    try:
        asyncio.run(Supervisor(request, channel, listener, namespaces).live())
    finally:
        _remove(directory, parent, request.directory.name)
        os.close(lock)
    return 0


class Supervisor:
    """A living lab. While it is ``attached`` it ends with the client that asked for it."""

    def __init__(
        self,
        request: LabRequest,
        channel: socket.socket,
        listener: socket.socket,
        namespaces: dict[str, tuple[int, socket.socket]],
    ) -> None:
        self.request = request
        self._pod = Pod(namespaces, capsule=request.capsule)
        self._children = {pid for pid, _ in namespaces.values()}
        self.nodes = Nodes()
        self.machines = Machines(request, self._machine_changed)
        self.state = "building"
        self.attached = True
        self._channel = channel
        self._listener = listener
        self._end = asyncio.Event()

    async def live(self) -> None:
        """Build the lab and serve it until something ends it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._end.set)
        lifeline = asyncio.create_task(self._watch_client())
        control = ControlServer(self)
        server = await asyncio.start_unix_server(control.serve, sock=self._listener)
        try:
            await self._build_or_end()
            if self.state == "up":
                await self._until_end()
        finally:
            self.state = "ending"
            server.close()
            await control.end()
            await self.machines.stop()
            await asyncio.gather(*(agent.close() for agent in self.nodes.agents.values()), return_exceptions=True)
            lifeline.cancel()

    def end(self) -> None:
        """Have the lab end."""
        self._end.set()

    def agent(self, node: str) -> AgentClient:
        """Return the agent of a node.

        :raises UsageError: when there is no such node.
        :raises GuestError: when it is a machine that does not run.
        """
        self.machines.check(node)
        agent = self.nodes.agents.get(node)
        if agent is None:
            raise UsageError(
                f"lab {self.request.name} has no node {node!r}", hint=f"its nodes: {', '.join(self.request.nodes)}"
            )
        return agent

    def status(self) -> dict[str, Any]:
        """Return what ``zdlab status`` shows."""
        nodes = []
        for name in self.request.nodes:
            place = self.request.places[name]
            entry: dict[str, Any] = {"name": name, "kind": self.request.kinds[name], "in": place, "state": self.state}
            machine = self.machines.running.get(name)
            if machine is not None:
                entry |= {
                    "state": machine.state,
                    "reason": machine.reason,
                    "kernel": self.request.boot[name].release,
                    "accelerator": machine.spec.accelerator,
                    "accelerator_reason": self.machines.accelerator_reasons.get(name, ""),
                    "command": machine.command,
                }
            entry["interfaces"] = self._interfaces(name)
            nodes.append(entry)
        return {
            "name": self.request.name,
            "topology": self.request.topology,
            "since": self.request.since,
            "state": self.state,
            "nodes": nodes,
            "ends": list(self.request.ends),
        }

    def _interfaces(self, node: str) -> list[dict[str, Any]]:
        addresses: dict[str, list[str]] = {}
        for op in self.request.operations:
            if op.node == node and isinstance(op, ops.ConfigureInterface):
                addresses.setdefault(op.interface, [])
            elif op.node == node and isinstance(op, ops.AddAddress):
                addresses.setdefault(op.interface, []).append(op.address)
        return [{"name": name, "addresses": found} for name, found in addresses.items()]

    async def _build_or_end(self) -> None:
        build = asyncio.create_task(self._build())
        end = asyncio.create_task(self._end.wait())
        await asyncio.wait({build, end}, return_when=asyncio.FIRST_COMPLETED)
        end.cancel()
        if not build.done():
            build.cancel()
            await asyncio.gather(build, return_exceptions=True)
            return
        error = build.exception()
        if error is None:
            self.state = "up"
            self._tell({"ready": self.status()})
        else:
            self._tell(_failure(error))

    async def _build(self) -> None:
        """Build all nodes.

        :raises GuestError: when a machine ended, whatever else failed: the end of a machine is the cause of much.
        :raises ZdlabError: when a kernel refuses something.
        """
        try:
            await self._build_place(self._pod, by_kernel(self.request.operations))
        except ZdlabError as error:
            await self.machines.settle_all()
            for cause in self.machines.errors():
                raise cause from error
            raise

    async def _build_place(self, place: Place, operations: Mapping[str, Sequence[ops.Operation]]) -> None:
        """Build the nodes of one place, and in turn those of the machines in it.

        :param operations: for each kernel, what is done on it.
        """
        here = operations[place.name]
        for operation in here:
            if isinstance(operation, ops.MakeNamespace):
                agent, pid = await place.namespace(operation.node)
                self.nodes.agents[operation.node], self.nodes.pids[operation.node] = agent, pid
        await move_cards(self.nodes, place.name, here)
        # QEMU first: while a guest boots, the namespaces are wired.
        if machines := [op.node for op in here if isinstance(op, ops.StartMachine)]:
            self._tell({"progress": f"starting {', '.join(machines)}" + (f" in {place.name}" if place.name else "")})
        await self.machines.start(place, here, self.nodes)
        await make_links(self.nodes, here)
        groups = by_node(here)
        namespaces = [op.node for op in here if isinstance(op, ops.MakeNamespace)]
        await side_by_side(configure(self.nodes, name, groups[name]) for name in namespaces)
        if machines:
            self._tell({"progress": f"waiting for {', '.join(machines)} to boot"})
        await side_by_side(self._build_machine(place, name, operations) for name in machines)
        await configure_taps(self.nodes, here)

    async def _build_machine(self, place: Place, name: str, operations: Mapping[str, Sequence[ops.Operation]]) -> None:
        machine = self.machines.running[name]
        hello = await machine.wait_ready()
        self.nodes.agents[name], self.nodes.pids[name] = machine.agent, hello.pid
        hosts = "".join(f"{address} {host}\n" for host, address in _addresses(self.request).items())
        await machine.agent.put_file("/etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n{hosts}".encode(), 0o644)
        emulated = place.emulated or machine.spec.accelerator == "tcg"
        await self._build_place(Inside(name, machine.agent, emulated=emulated), operations)
        own = [operation for operation in operations[name] if operation.node == name]
        await configure(self.nodes, name, own)
        self._tell({"progress": f"{name} is ready"})

    async def _until_end(self) -> None:
        """Reap orphans now and then until the lab is asked to end."""
        while not self._end.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), 5.0)
            machines = self.machines.running.values()
            pod.reap(self._children | {machine.pid for machine in machines if not machine.spec.nested})

    async def _watch_client(self) -> None:
        """End the lab when the client that asked for it is gone, unless it was detached."""
        loop = asyncio.get_running_loop()
        self._channel.setblocking(False)
        with contextlib.suppress(OSError):
            while await loop.sock_recv(self._channel, 4096):
                pass
        if self.attached:
            self._end.set()

    def _machine_changed(self, machine: Machine) -> None:
        if machine.state not in {"starting", "ready", "stopped"}:
            sys.stderr.write(f"machine {machine.spec.name} {machine.reason}\n")
            sys.stderr.flush()

    def _tell(self, message: dict[str, Any]) -> None:
        _tell(self._channel, message)


def _addresses(request: LabRequest) -> dict[str, str]:
    """Return each node's first address."""
    found: dict[str, str] = {}
    for op in request.operations:
        if isinstance(op, ops.AddAddress):
            found.setdefault(op.node, op.address.partition("/")[0])
    return found


def _start_namespaces(request: LabRequest) -> dict[str, tuple[int, socket.socket]]:
    """Fork the agents of the pod's own nodes; possible only before an event loop runs.

    :raises LabError: when the kernel refuses.
    """
    try:
        return {
            op.node: start_namespace(op.node)
            for op in request.operations
            if isinstance(op, ops.MakeNamespace) and not op.place
        }
    except OSError as error:
        raise LabError(error.strerror or str(error)) from error


def _tell(channel: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        channel.setblocking(True)
        channel.sendall(json.dumps(message).encode() + b"\n")
        channel.setblocking(False)


def _failure(error: BaseException) -> dict[str, Any]:
    """Describe an error so that the client can raise it again."""
    if isinstance(error, ZdlabError):
        return {"error": pickle.dumps((type(error), error.__dict__, error.args)).hex()}
    traceback.print_exception(error)
    return {
        "failed": f"building the lab failed: {error}",
        "hint": "this is a bug in zdlab, or the computer lacks something",
    }


def _listener(directory: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # A path below the limit of 107 bytes whatever the directory's length: through its descriptor.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    old = os.umask(0o177)
    try:
        listener.bind(f"/proc/self/fd/{descriptor}/{SOCKET}")
    finally:
        os.umask(old)
        os.close(descriptor)
    listener.listen(64)
    return listener


def _remove(directory: int, parent: int, name: str) -> None:
    """Remove the lab's directory through descriptors: the pod's own /run covers its path."""
    with contextlib.suppress(OSError):
        for entry in os.listdir(directory):
            os.unlink(entry, dir_fd=directory)
        os.rmdir(name, dir_fd=parent)
