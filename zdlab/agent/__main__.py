"""The agent in a guest: find the virtio-serial port by its name and serve it."""

from __future__ import annotations

import os
import sys

from zdlab.agent.server import serve

PORT = "zdlab.agent"
_PORTS = "/sys/class/virtio-ports"


def find_port(wanted: str = PORT) -> str:
    """Return the device of the port of a name; the agent's is the default.

    :raises FileNotFoundError: when the machine has no such port.
    """
    for name in os.listdir(_PORTS):
        with open(f"{_PORTS}/{name}/name", encoding="ascii") as file:
            if file.read().strip() == wanted:
                return f"/dev/{name}"
    raise FileNotFoundError(f"no virtio-serial port named {wanted}")


def main() -> int:
    """Serve until the lab says shutdown."""
    try:
        channel = os.open(find_port(), os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        sys.stderr.write(f"zdlab agent: {error}\n")
        return 1
    # Before the guest's programs, so that samples are taken and questions answered in time however busy those are;
    # what the agent starts is ordinary again.
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    serve(channel, reconnects=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
