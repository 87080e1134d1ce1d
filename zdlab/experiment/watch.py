"""The eye on a trial: does anything still move, does every machine still run?

The traffic tools end by themselves, but not when the lab under them stands still: each trial has an end of its own.
"""

from __future__ import annotations

import time
from typing import Final

from zdlab.experiment.nodes import HungError, Nodes

#: Seconds without a packet after which traffic counts as hung. TCP's own timeouts stay below it in a short test.
STALL_SECONDS: Final = 20.0
#: Bytes in that time that are no traffic yet: neighbours asking for each other.
_NOISE: Final = 2_000
_LOOK_SECONDS: Final = 1.0


class Stall:
    """Tells when a number that should grow does not any more.

    :param seconds: how long it may stand still.
    """

    def __init__(self, seconds: float, now: float) -> None:
        self.seconds = seconds
        self._since = now
        self._mark: int | None = None

    def still(self, total: int, now: float) -> bool:
        """Look at the number; tell whether it has stood still for too long."""
        if self._mark is None or total > self._mark + _NOISE:
            self._mark, self._since = total, now
        return now - self._since > self.seconds


class Watch:
    """Looks at a lab while its traffic flows.

    :param watched: namespaces whose devices must move bytes.
    :param seconds: how long none may.
    """

    def __init__(self, nodes: Nodes, watched: tuple[str, ...], seconds: float) -> None:
        self._nodes = nodes
        self._watched = watched
        now = time.monotonic()
        self._stall = Stall(seconds, now)
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
        total = 0
        for name in self._watched:
            devices = self._nodes.counters(name)["devices"]
            total += sum(device["rx_bytes"] + device["tx_bytes"] for device in devices.values())
        if self._stall.still(total, now):
            raise HungError(
                f"no packet moved at {', '.join(self._watched)} for {self._stall.seconds:g} s while the traffic ran"
            )
