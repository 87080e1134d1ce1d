"""A guest with zD's kernel, and what tests ask of it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar

import pytest

from tests.emulator import start_lab
from zdlab.errors import GuestError
from zdlab.lab.client import Lab
from zdlab.lab.connection import LabProcess
from zdlab.lab.resources import boot_files
from zdlab.measure.counters import NodeDelta, node_delta
from zdlab.plan.build import build_plan
from zdlab.topology import parse_topology
from zdlab.traffic import (
    GUEST_TOOLS,
    TrafficSpec,
    guest_programs,
    traffic_commands,
    traffic_tools,
)
from zdlab.traffic.result import Finished, TrafficResult, traffic_result

V4, V6 = "10.1.0.2", "fd01::2"
_TOPOLOGY = """
name: zd
nodes: {a: {kind: machine, kernel: KERNEL, memory: 768mb, cpus: CPUS}, b: {kind: host}}
links:
  wire:
    subnet: [10.1.0.0/24, "fd01::/64"]
    ends: {a: {}, b: {txqueuelen: 10000}}
"""

#: eth0 becomes a port of a bridge, which gets its addresses; taps are the other ports.
BRIDGE = (
    "ip addr flush dev eth0; ip link add br0 type bridge; ip link set eth0 master br0; ip link set br0 up; "
    "ip addr add 10.1.0.1/24 dev br0; ip addr add fd01::1/64 dev br0 nodad; "
    "for tap in s0 s1 s2 s3 c0 c1 c2; do ip tuntap add dev $tap mode tap vnet_hdr; ip link set $tap master br0 up; "
    "ip link set $tap type bridge_slave flood off mcast_flood off bcast_flood off learning off; done; "
    "ip tuntap add dev m0 mode tap vnet_hdr multi_queue; ip link set m0 master br0 up; "
    "ip link set m0 type bridge_slave flood off mcast_flood off bcast_flood off learning off"
)

#: What a guest's end says where its kernel's log has something in it.
COMPLAINED = "the kernel complained"

#: Lines of a panic with all checks on, and of what led to it.
_CONSOLE = 400

#: Slabs of sockets, and of the packets of TCP.
_SLABS = ("TCP", "TCPv6", "skbuff_fclone_cache", "skbuff_small_head", "skbuff_head_cache")
#: A CPU keeps as many heads of packets at hand (``NAPI_SKB_CACHE_SIZE``, ``net/core/skbuff.c``); guests have two CPUs.
_HEADS_AT_HAND = 2 * 64


@dataclass
class Counted:
    """What a run delivered, and what the guest counted meanwhile."""

    traffic: TrafficResult
    delta: NodeDelta


class Guest:
    """A guest with zD's kernel, and a namespace that receives."""

    def __init__(self, lab: Lab, tools: PurePosixPath) -> None:
        self.lab = lab
        self._tools = tools
        self._programs: list[LabProcess] = []

    def run(self, command: str, seconds: float = 60) -> str:
        """Run a shell command in the guest."""
        done = self.lab.run("a", ["sh", "-ec", command], timeout=seconds)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout.decode()

    def spawn(self, node: str, argv: Sequence[str]) -> LabProcess:
        """Start a program that ends with the guest at the latest, whatever becomes of the test."""
        program = self.lab.spawn(node, argv)
        self._programs.append(program)
        return program

    def end_programs(self) -> None:
        """End what still runs of what was started."""
        for program in self._programs:
            program.kill()

    def queue(self, words: str, *, zd: bool, gso: bool = False) -> None:
        """Put a fresh queueing discipline in place, and the switch."""
        self.run("tc qdisc del dev eth0 root 2>/dev/null || true")
        self.run(f"ip link set eth0 gso_max_segs {65535 if gso else 1}")
        self.run(f"tc qdisc replace dev eth0 root {words.replace('; ', '; tc ')}")
        self.run(f"echo {int(zd)} > /proc/sys/net/core/zd")

    def patch_code_once(self) -> None:
        """Have the switch change a setting only: with another namespace that has it on, the kernel's code stays.

        Patching code is what QEMU's emulation of several CPUs now and then gets wrong (:mod:`tests.emulator`), and a
        guest that many tests share flips the switch a hundred times. A guest of one CPU is safe from that.
        """
        self.run("ip netns add on; ip netns exec on sh -c 'echo 1 > /proc/sys/net/core/zd'")

    def zd(self) -> dict[str, int]:
        """Return zD's counters."""
        rows = (line.split() for line in self.run("cat /proc/net/zd").splitlines())
        return {row[0].rstrip(":"): int(row[1]) for row in rows}

    @contextmanager
    def flows(self, count: int, seconds: float, host: str = V4) -> Iterator[list[TrafficResult]]:
        """Send flows to the namespace while the block runs; the result is there afterwards."""
        spec = TrafficSpec("tcp_stream", host, flows=count, threads=2, seconds=seconds)
        programs = {"client": GUEST_TOOLS, "server": self._tools}
        commands = traffic_commands(spec, programs=programs, directory=PurePosixPath("/run"), name="zd")  # type: ignore[arg-type]
        server = self.spawn("b", commands.server.argv)
        await_listening(server)
        client = self.spawn("a", commands.client.argv)
        results: list[TrafficResult] = []
        try:
            yield results
            finished = {}
            for side, process, command in (("client", client, commands.client), ("server", server, commands.server)):
                done = process.wait(commands.deadline)
                node = "a" if side == "client" else "b"
                files = {}
                for file in command.files:
                    if self.lab.run(node, ["test", "-e", file.path]).returncode == 0:
                        files[file] = self.lab.get_file(node, file.path).decode()
                finished[side] = Finished(done.returncode, done.stdout.decode(), done.stderr.decode(), files)
        finally:
            client.kill()
            server.kill()
        results.append(traffic_result(spec, client=finished["client"], server=finished["server"]))

    def send(self, count: int, seconds: float, host: str = V4) -> Counted:
        """Send flows and return what was counted."""
        before = self.lab.counters("a")
        with self.flows(count, seconds, host) as results:
            pass
        return Counted(results[0], node_delta("a", before, self.lab.counters("a")))

    def kill_while_parked(self, count: int) -> None:
        """Kill a sender of many flows while some of its sockets are parked.

        :raises TrafficError: always: the traffic comes to nothing.
        """
        with self.flows(count, 30):
            self.await_somebody_parked()
            self.run("pidof tcp_stream | xargs kill -9")

    def change_then_kill(self, count: int, change: str, first: str = "true") -> None:
        """Change what is below a sender of many flows, wait until none of them is parked any more, and kill it.

        The traffic goes on, or tries to: only being let go takes its sockets off the list.

        :param first: what makes that so, as soon as somebody is parked.
        :raises TrafficError: always: the traffic comes to nothing.
        """
        with self.flows(count, 30):
            self.await_somebody_parked()
            self.run(first)
            time.sleep(1.5)
            self.await_somebody_parked()
            self.run(change)
            try:
                # At once, not one by one as the queue's timer looks again.
                self.await_nobody_parked(4)
            finally:
                self.run("ip link del d0 2>/dev/null || true; ip link set eth0 up")
                self.run("ip route replace 10.1.0.0/24 dev eth0 src 10.1.0.1")
                self.run("ip addr add fd01::1/64 dev eth0 nodad 2>/dev/null || true")
                self.run("pidof tcp_stream | xargs kill -9")
                # However slow it was: what they send last tells the other end.
                self.run("tc qdisc del dev eth0 root 2>/dev/null || true")

    def await_somebody_parked(self) -> None:
        """Fail when nobody is ever parked."""
        deadline = time.monotonic() + 20
        while not self.zd()["parked_now"]:
            assert time.monotonic() < deadline, "nobody is ever parked"

    def await_nobody_parked(self, seconds: float = 20) -> None:
        """Fail when a socket stays parked after the traffic."""
        deadline = time.monotonic() + seconds
        while self.zd()["parked_now"]:
            assert time.monotonic() < deadline, self.zd()
            time.sleep(0.1)

    def sockets(self) -> int:
        """Return how many TCP sockets the first namespace holds, in whatever state; slabs count those of others."""
        rows = [line.split() for line in self.run("cat /proc/net/protocols").splitlines()]
        return sum(int(row[2]) for row in rows if row[0] in {"TCP", "TCPv6"})

    def await_sockets(self, count: int) -> None:
        """Fail when more TCP sockets stay than there were before."""
        deadline = time.monotonic() + 90
        while self.sockets() > count:
            assert time.monotonic() < deadline, self.run("cat /proc/net/protocols; ss -tan")
            time.sleep(0.5)

    def slabs(self) -> dict[str, int]:
        """Return how many sockets and packets there is memory in use for."""
        shrink = "; ".join(f"echo 1 > /sys/kernel/slab/{name}/shrink" for name in _SLABS)
        rows = [line.split() for line in self.run(f"{shrink}; cat /proc/slabinfo").splitlines()]
        objects = {row[0]: int(row[1]) for row in rows if row[0] in _SLABS}
        assert set(objects) == set(_SLABS), objects
        return objects

    def await_slabs(self, before: Mapping[str, int]) -> None:
        """Fail when memory of sockets or packets stays in use."""
        deadline = time.monotonic() + 90
        most = {**before, "skbuff_head_cache": before["skbuff_head_cache"] + _HEADS_AT_HAND}
        now = self.slabs()
        while any(now[name] > most[name] for name in most):
            assert time.monotonic() < deadline, (before, now)
            time.sleep(0.5)
            now = self.slabs()

    def complaints(self) -> list[str]:
        """Return what the kernel complained about."""
        # Of data races those of zD: where KCSAN looks, mainline has its own.
        words = re.compile(
            r"WARNING|BUG(?!: KCSAN)|KCSAN: .*zd|Call Trace|detected stall|soft lockup|blocked for more|refcount_t|Oops"
        )
        return [line for line in self.run("dmesg").splitlines() if words.search(line)]


def await_listening(server: LabProcess) -> None:
    """Wait until a server says that it listens."""
    while b"listening" not in server.output()[0]:
        with pytest.raises(TimeoutError):
            server.wait(0.05)


def _check_complaints(guest: Guest) -> None:
    complaints = guest.complaints()
    assert not complaints, f"{COMPLAINED}: {complaints}"


AnyGuest = TypeVar("AnyGuest", bound=Guest)


@contextmanager
def zd_guest(runtime: str, kind: type[AnyGuest], cpus: int = 2) -> Iterator[AnyGuest]:
    """Start a guest; afterwards its kernel must not have complained.

    ``ZDLAB_ZD_KERNEL`` names another kernel with zD: one that checks more, or one that is broken on purpose.

    :param runtime: directory its lab lives in.
    :param kind: what to make of it.
    :param cpus: how many CPUs it has.
    """
    kernel = os.environ.get("ZDLAB_ZD_KERNEL", "zd")
    source = parse_topology(_TOPOLOGY.replace("KERNEL", kernel).replace("CPUS", str(cpus)), "zd")
    plan = build_plan(source.base, source.name)
    tools = traffic_tools()
    boot, _, _ = boot_files(plan, source, guest_programs(tools))
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_RUNTIME_DIR", runtime)
    try:
        with start_lab(plan, boot) as lab:
            made = kind(lab, PurePosixPath(tools.directory))
            try:
                yield made
            except GuestError as error:
                # It cannot be asked for its log any more; with all checks on the last lines are not all of it.
                said = lab.console_log("a").decode("utf-8", "replace").splitlines()
                error.console = tuple(said[-_CONSOLE:])
                error.add_note("\n".join(error.console))
                raise
            except BaseException:
                # This is likely why the test failed.
                _check_complaints(made)
                raise
            finally:
                made.end_programs()
            _check_complaints(made)
    finally:
        patch.undo()
