"""The workloads of a trial: start servers and clients in their nodes, watch them, fetch what they wrote."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from zdlab.errors import LabError, TrafficError
from zdlab.experiment.nodes import HungError, Nodes
from zdlab.experiment.task import End, Work
from zdlab.lab.connection import Completed, LabProcess

_LISTENING: Final = b"listening="
_LISTEN_SECONDS: Final = 30.0
_POLL: Final = 0.25


@dataclass(frozen=True)
class Ended:
    """How an end of a workload ended.

    :param at: when, on a clock all ends of the trial share, in seconds.
    :param files: what it left behind, by path; an end that reads nothing may leave none.
    """

    returncode: int
    stdout: bytes
    stderr: bytes
    at: float
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Exited:
    """A program that exited, and when, on a clock all ends of the trial share, in seconds."""

    done: Completed
    at: float


def run_works(nodes: Nodes, works: Sequence[Work], tick: Callable[[], None]) -> dict[tuple[str, str], Exited]:
    """Run all workloads at once and return how their ends exited, by workload and side.

    :param tick: called now and then while the traffic flows.
    :raises TrafficError: when a server does not come up.
    :raises HungError: when an end does not exit by its deadline.
    :raises GuestError: when a machine is lost.
    """
    servers: dict[str, LabProcess] = {}
    clients: dict[str, LabProcess] = {}
    try:
        for work in works:
            servers[work.name] = nodes.spawn(work.server.node, work.server.argv)
        for work in works:
            if work.announced:
                _await_listening(work, servers[work.name])
        begun = time.monotonic()
        for work in sorted(works, key=lambda item: item.start):
            while (left := begun + work.start - time.monotonic()) > 0:
                time.sleep(min(left, _POLL))
                tick()
            clients[work.name] = nodes.spawn(work.client.node, work.client.argv)
        return _await_all(works, clients, servers, tick)
    finally:
        for process in (*clients.values(), *servers.values()):
            process.kill()


def collect(
    nodes: Nodes, works: Sequence[Work], exited: Mapping[tuple[str, str], Exited]
) -> dict[tuple[str, str], Ended]:
    """Fetch what the ends of all workloads left behind."""
    return {
        (work.name, side): _collected(nodes, end, exited[work.name, side])
        for work in works
        for side, end in (("client", work.client), ("server", work.server))
    }


def _await_listening(work: Work, server: LabProcess) -> None:
    deadline = time.monotonic() + _LISTEN_SECONDS
    while _LISTENING not in server.output()[0]:
        try:
            done = server.wait(0.02)
        except TimeoutError:
            if time.monotonic() > deadline:
                raise HungError(f"the server of {work.name} did not listen within {_LISTEN_SECONDS:g} s") from None
            continue
        said = done.stderr.decode("utf-8", "replace").strip()
        raise TrafficError(f"the server of {work.name} ended with status {done.returncode}: {said}")


def _await_all(
    works: Sequence[Work],
    clients: Mapping[str, LabProcess],
    servers: Mapping[str, LabProcess],
    tick: Callable[[], None],
) -> dict[tuple[str, str], Exited]:
    """Wait until both ends of every workload have ended, and note when each did."""
    waiting: dict[tuple[str, str], LabProcess] = {}
    deadlines: dict[str, float] = {}
    for work in works:
        waiting |= {(work.name, "client"): clients[work.name], (work.name, "server"): servers[work.name]}
        deadlines[work.name] = time.monotonic() + work.deadline
    exited: dict[tuple[str, str], Exited] = {}
    while waiting:
        for (name, side), process in list(waiting.items()):
            try:
                done = process.wait(_POLL / len(waiting))
            except TimeoutError:
                if time.monotonic() > deadlines[name]:
                    raise HungError(f"the {side} of {name} did not end: its traffic hangs") from None
                continue
            exited[name, side] = Exited(done, time.monotonic())
            del waiting[name, side]
        tick()
    return exited


def _collected(nodes: Nodes, end: End, exited: Exited) -> Ended:
    files = {}
    for path in end.files:
        try:
            files[path] = nodes.get_file(end.node, path)
        except LabError:  # an end that reads nothing writes none
            continue
    done = exited.done
    return Ended(done.returncode, done.stdout, done.stderr, exited.at, files)
