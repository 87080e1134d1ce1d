"""Calls to a lab's nodes that give up: whatever happens to a guest, a trial goes on or ends."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from zdlab.agent import frames
from zdlab.errors import InfrastructureError
from zdlab.guest.agent_client import RawSamples
from zdlab.lab.client import Lab
from zdlab.lab.connection import Connection, LabProcess

#: Seconds a node may take to answer. An emulated guest that handles ten thousand flows may take many.
PATIENCE: Final = 60.0


class HungError(InfrastructureError):
    """A node does not answer any more, or no traffic moves any more."""


class Nodes:
    """The nodes of a lab.

    Every method raises :class:`HungError` when the node does not answer in time, and what the lab raises when the
    node is lost.

    :param patience: seconds a node may take to answer.
    """

    def __init__(self, lab: Lab, patience: float = PATIENCE) -> None:
        self._lab = lab
        self._patience = patience

    def status(self) -> dict[str, Any]:
        """Return the state of the lab and its nodes."""
        return self._ask("", "status", {})

    def counters(self, node: str) -> dict[str, Any]:
        """Return one snapshot of all a node counts."""
        return self._ask(node, "counters", {})

    def start_sampling(self, node: str, interval_ns: int) -> None:
        """Begin to take samples in a node."""
        self._ask(node, "sample", {"interval_ns": interval_ns})

    def stop_sampling(self, node: str) -> RawSamples:
        """End sampling in a node and return the samples."""
        with self._call(node, "samples", {}) as (connection, deadline):
            return RawSamples(connection.reply(deadline)["header"], _bytes(connection, deadline))

    def get_file(self, node: str, path: str) -> bytes:
        """Read a file of a node."""
        return self._content(node, "get", {"path": path})

    def console_log(self, machine: str) -> bytes:
        """Return what a machine's console printed."""
        return self._content(machine, "logs", {})

    def spawn(self, node: str, argv: Sequence[str]) -> LabProcess:
        """Start a program in a node."""
        header: dict[str, Any] = {"node": node, "argv": list(argv), "env": {}, "cwd": None, "terminal": None}
        connection = self._lab.open("exec", header)
        if not select.select([connection], [], [], self._patience)[0]:
            connection.close()
            raise self._silent(node)
        return LabProcess(connection)

    def _ask(self, node: str, verb: str, header: Mapping[str, Any]) -> dict[str, Any]:
        with self._call(node, verb, header) as (connection, deadline):
            return connection.reply(deadline)

    def _content(self, node: str, verb: str, header: Mapping[str, Any]) -> bytes:
        with self._call(node, verb, header) as (connection, deadline):
            connection.reply(deadline)
            return _bytes(connection, deadline)

    @contextlib.contextmanager
    def _call(self, node: str, verb: str, header: Mapping[str, Any]) -> Iterator[tuple[Connection, float]]:
        deadline = time.monotonic() + self._patience
        try:
            with self._lab.open(verb, {"node": node, **header}) as connection:
                yield connection, deadline
        except TimeoutError:
            raise self._silent(node) from None

    def _silent(self, node: str) -> HungError:
        return HungError(f"{node or 'the lab'} did not answer for {self._patience:g} s")


def _bytes(connection: Connection, deadline: float) -> bytes:
    """Return the bytes that follow an answer.

    :raises TimeoutError: when they do not come until the deadline.
    """
    parts: list[bytes] = []
    while True:
        kind, payload = connection.receive(deadline)
        if kind == frames.EXIT:
            return b"".join(parts)
        parts.append(payload)
