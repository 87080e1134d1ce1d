"""Runs in a guest: what becomes of packets that come to a queue from which next to nothing leaves.

``standstill.py CASE HOST PORT QUEUE`` connects to HOST while packets still leave, then replaces the queue of eth0 by
QUEUE, in words for ``tc``, and does what CASE says. It ends with a line of JSON: how zD's counters and what the queue
holds and dropped changed by what was done last. It does without what a guest's Python lacks.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import time

#: Of a datagram, so that a few leave a queue nearly full.
SMALL = bytes(458)


def connected(address: tuple[str, int], count: int) -> list[socket.socket]:
    """Return sockets that send without blocking, and reset their connection when they are closed."""
    made = [socket.create_connection(address) for _ in range(count)]
    for each in made:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        each.setblocking(False)
    # What they have to acknowledge is.
    time.sleep(0.5)
    return made


def fill(made: list[socket.socket]) -> None:
    """Send more than the queue has room for."""
    for each in made:
        each.send(bytes(200_000))
    time.sleep(1)


def flood(address: tuple[str, int], count: int) -> None:
    """Send datagrams, which do not wait."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        for _ in range(count):
            with contextlib.suppress(OSError):
                made.sendto(SMALL, (address[0], 9))


def of_zd() -> dict[str, int]:
    """Return zD's counters."""
    with open("/proc/net/zd") as file:  # noqa: PTH123 - a guest has no pathlib
        return {name: int(value) for name, value in map(str.split, file)}


def dropped(found: dict[str, int]) -> int:
    """Return how much zD's counters say had no room."""
    return sum(value for name, value in found.items() if name.startswith("drops_"))


def numbers() -> dict[str, int]:
    """Return what is counted, of a moment in which nothing was dropped."""
    found: dict[str, int] = {}
    while not found or dropped(found) != dropped(of_zd()):
        found = of_zd()
        with os.popen("tc -s -j qdisc show dev eth0") as said:  # noqa: S605
            root = json.loads(said.read())[0]
    with open("/proc/net/snmp") as file:  # noqa: PTH123
        names, values = (line.split() for line in file if line.startswith("Tcp:"))
    found["resets"] = int(dict(zip(names, values, strict=True))["OutRsts"])
    return found | {name: int(root[name]) for name in ("qlen", "backlog", "drops")}


def main(case: str, host: str, port: int, queue: str) -> None:
    """Do one of the cases."""
    address = host, port
    made = connected(address, 60)
    before = numbers()
    if os.system(f"tc qdisc replace dev eth0 root {queue}"):  # noqa: S605
        sys.exit(1)
    if case == "newcomers":
        fill(made[:50])
        before = numbers()
        for each in made[50:]:
            each.send(bytes(20))
    elif case == "reset":
        fill(made)
        before = numbers()
        for each in made:
            each.close()
    elif case == "release":
        fill(made)
        os.system("tc qdisc del dev eth0 root")  # noqa: S605
    elif case == "oversize":
        # What the bucket held is gone, and one that fits is in the queue.
        flood(address, 100)
        before = numbers()
        for each in made:
            each.send(bytes(1448))
    elif case == "kinds":
        fill(made[:40])
        flood(address, 300)
        before = numbers()
        flood(address, 7)
        # Their receive buffers are full: what is read makes an acknowledgment.
        for each in made[40:45]:
            with contextlib.suppress(BlockingIOError):
                while each.recv(1 << 20):
                    pass
        late = [socket.socket() for _ in range(3)]
        for each in late:
            each.setblocking(False)
            each.connect_ex(address)
        for each in made[45:]:
            each.close()
    time.sleep(0.5)
    after = numbers()
    print(json.dumps({name: after[name] - before[name] for name in after} | {"now": after}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
