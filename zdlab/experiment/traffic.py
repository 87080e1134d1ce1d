"""The workloads of a trial: start servers and clients in their nodes, watch them, fetch what they wrote."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from zdlab.errors import LabError, TrafficError, ZdlabError
from zdlab.experiment.nodes import HungError, Nodes
from zdlab.experiment.task import Work
from zdlab.lab.connection import Completed, LabProcess

_LISTENING: Final = b"listening="
_LISTEN_SECONDS: Final = 30.0
_POLL: Final = 0.25


@dataclass(frozen=True)
class Ended:
    """How an end of a workload ended.

    :param returncode: ``None`` for one that did not end by itself.
    :param at: when, on a clock all ends of the trial share, in seconds.
    :param files: what it left behind, by path; an end that reads nothing may leave none.
    """

    returncode: int | None
    stdout: bytes
    stderr: bytes
    at: float
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class _Exited:
    """A program that exited, and when."""

    done: Completed
    at: float


class Traffic:
    """All workloads of a trial, run at once. Whoever makes it calls :meth:`end`."""

    def __init__(self, nodes: Nodes, works: Sequence[Work]) -> None:
        self._nodes = nodes
        self._works = {work.name: work for work in works}
        self._servers: dict[str, LabProcess] = {}
        self._clients: dict[str, LabProcess] = {}
        self._exited: dict[tuple[str, str], _Exited] = {}

    def run(self, tick: Callable[[], None]) -> None:
        """Run all workloads until both ends of each have exited.

        :param tick: called now and then while the traffic flows.
        :raises TrafficError: when a server does not come up, or an end fails: the other might wait for it for long.
        :raises HungError: when nothing moves, or an end does not exit by its deadline.
        :raises GuestError: when a machine is lost.
        """
        works = self._works.values()
        for work in works:
            self._servers[work.name] = self._nodes.spawn(work.server.node, work.server.argv)
        for work in works:
            if work.announced:
                _await_listening(work, self._servers[work.name])
        begun = time.monotonic()
        try:
            for work in sorted(works, key=lambda item: item.start):
                while (left := begun + work.start - time.monotonic()) > 0:
                    time.sleep(min(left, _POLL))
                    tick()
                self._clients[work.name] = self._nodes.spawn(work.client.node, work.client.argv)
            self._await_all(tick)
        except HungError as error:
            raise HungError(error.message + self._complaints(), hint=error.hint) from None

    def ends(self) -> list[tuple[str, str]]:
        """Return the ends that were started, by workload and side."""
        return [
            (name, side)
            for name in self._works
            for side, started in (("client", self._clients), ("server", self._servers))
            if name in started
        ]

    def collect(self, nodes: Nodes, name: str, side: str) -> Ended:
        """Return how an end exited, with what it left behind."""
        work, exited = self._works[name], self._exited[name, side]
        end = work.client if side == "client" else work.server
        files = {}
        for path in end.files:
            try:
                files[path] = nodes.get_file(end.node, path)
            except LabError:  # an end that reads nothing writes none
                continue
        done = exited.done
        return Ended(done.returncode, done.stdout, done.stderr, exited.at, files)

    def left(self, name: str, side: str) -> Ended:
        """Return what an end has said, whether it exited or not."""
        exited = self._exited.get((name, side))
        if exited is not None:
            return Ended(exited.done.returncode, exited.done.stdout, exited.done.stderr, exited.at, {})
        process = (self._clients if side == "client" else self._servers)[name]
        # Takes what has arrived meanwhile.
        with contextlib.suppress(TimeoutError, ZdlabError):
            process.wait(0)
        return Ended(process.returncode, *process.output(), time.monotonic(), {})

    def end(self) -> None:
        """End what still runs."""
        for process in (*self._clients.values(), *self._servers.values()):
            process.kill()

    def _await_all(self, tick: Callable[[], None]) -> None:
        """Wait until both ends of every workload have exited, and note when each did."""
        waiting: dict[tuple[str, str], LabProcess] = {}
        deadlines: dict[str, float] = {}
        for name, work in self._works.items():
            waiting |= {(name, "client"): self._clients[name], (name, "server"): self._servers[name]}
            deadlines[name] = time.monotonic() + work.deadline
        while waiting:
            for (name, side), process in list(waiting.items()):
                try:
                    done = process.wait(_POLL / len(waiting))
                except TimeoutError:
                    if time.monotonic() > deadlines[name]:
                        raise HungError(f"the {side} of {name} did not end: its traffic hangs") from None
                    continue
                self._exited[name, side] = _Exited(done, time.monotonic())
                del waiting[name, side]
                if done.returncode != 0:
                    raise _failure(name, side, done)
            tick()

    def _complaints(self) -> str:
        """Return the last words of every client, when there are any."""
        said = {name: self.left(name, "client").stderr.decode("utf-8", "replace").strip() for name in self._clients}
        return "".join(
            f"; the client of {name} said: {words.splitlines()[-1]}" for name, words in said.items() if words
        )


def _await_listening(work: Work, server: LabProcess) -> None:
    deadline = time.monotonic() + _LISTEN_SECONDS
    while _LISTENING not in server.output()[0]:
        try:
            done = server.wait(0.02)
        except TimeoutError:
            if time.monotonic() > deadline:
                raise HungError(f"the server of {work.name} did not listen within {_LISTEN_SECONDS:g} s") from None
            continue
        raise _failure(work.name, "server", done)


def _failure(name: str, side: str, done: Completed) -> TrafficError:
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
    return TrafficError(f"the {side} of {name} ended with {how}: {lines[-1] if lines else 'it said nothing'}")
