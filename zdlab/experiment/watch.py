"""The eye on a trial: does anything still move, does every machine still run?

The traffic tools end by themselves, but not when the lab under them stands still: each trial has an end of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from zdlab.experiment.nodes import HungError, Nodes

#: Seconds without a packet after which traffic counts as hung. TCP's own timeouts stay below it in a short test.
STALL_SECONDS: Final = 20.0
#: The same before anything has moved: a client tries for 30 s to reach its server, and then says itself what is wrong.
SILENCE_SECONDS: Final = 40.0
#: Bytes in either time that are no traffic: neighbours asking for each other, and at first attempts to connect.
_NOISE: Final = 2_000
_FIRST_NOISE: Final = 10_000
_LOOK_SECONDS: Final = 1.0


class Stall:
    """Tells when a number that should grow does not any more.

    :param total: the number at the beginning.
    """

    def __init__(self, total: int, now: float) -> None:
        self._mark = total
        self._since = now
        self._noise = _FIRST_NOISE
        self.patience = SILENCE_SECONDS

    def still(self, total: int, now: float) -> bool:
        """Look at the number; tell whether it has stood still for too long."""
        if total > self._mark + self._noise:
            self._mark, self._since = total, now
            self._noise, self.patience = _NOISE, STALL_SECONDS
        return now - self._since > self.patience


class Watch:
    """Looks at a lab while its traffic flows.

    :param watched: namespaces whose devices must move bytes.
    :param before: counters of these before the traffic.
    """

    def __init__(self, nodes: Nodes, watched: tuple[str, ...], before: Mapping[str, Mapping[str, Any]]) -> None:
        self._nodes = nodes
        self._watched = watched
        now = time.monotonic()
        self._stall = Stall(_moved(before[name] for name in watched), now)
        self._next = now + _LOOK_SECONDS

    def look(self) -> None:
        """Look when it is time to.

        :raises HungError: when nothing moves.
        :raises GuestError: when a machine exited, panicked or hangs.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _LOOK_SECONDS
        for node in self._nodes.status()["nodes"]:
            if node["kind"] == "machine" and node["state"] != "ready":
                self._nodes.counters(node["name"])  # raises what is wrong, with the console's last lines
        if self._stall.still(_moved(self._nodes.counters(name) for name in self._watched), now):
            raise HungError(
                f"no packet moved at {', '.join(self._watched)} for {self._stall.patience:g} s while the traffic ran"
            )


def _moved(counters: Iterable[Mapping[str, Any]]) -> int:
    """Return the bytes that all devices have moved."""
    return sum(device["rx_bytes"] + device["tx_bytes"] for node in counters for device in node["devices"].values())
