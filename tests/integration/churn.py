"""Runs in a node: many sockets that send all they can, opened and closed all the time; or what takes it all.

``churn.py serve HOST PORT`` accepts and sends each who comes all it can. ``churn.py fetch HOST PORT COUNT SECONDS``
has COUNT sockets read from it, for SECONDS and then until each has got something again, and ends with a line of JSON:
the bytes each got, and how many are stuck.

``churn.py listen HOST PORT`` reads and forgets. ``churn.py send HOST PORT STEADY CHURNED SECONDS`` keeps STEADY sockets
sending all the time and CHURNED more that it closes, resets and opens again. After SECONDS it waits until each steady
socket has taken something again, and ends with a line of JSON: connects, and steady sockets that are stuck.
"""

from __future__ import annotations

import json
import random
import selectors
import socket
import struct
import sys
import time

DATA = bytes(65536)
#: Seconds after which a socket that takes nothing is stuck: TCP's timers back off to a minute in what came before.
PATIENCE = 240.0
#: The same where nothing came before that a timer could have backed off for.
FETCHING = 40.0


def socket_of(key: selectors.SelectorKey) -> socket.socket:
    """Return what a selector's key is of."""
    assert isinstance(key.fileobj, socket.socket)
    return key.fileobj


def serve(host: str, port: int) -> None:
    """Send whoever comes all it can."""
    selector = selectors.DefaultSelector()
    listener = socket.create_server((host, port), family=family_of(host), backlog=4096)
    selector.register(listener, selectors.EVENT_READ)
    print("listening", flush=True)  # noqa: T201
    while True:
        for key, _ in selector.select():
            made = socket_of(key)
            if made is listener:
                taken, _ = listener.accept()
                taken.setblocking(False)
                selector.register(taken, selectors.EVENT_WRITE)
                continue
            try:
                made.send(DATA)
            except BlockingIOError:
                continue
            except OSError:
                selector.unregister(made)
                made.close()


def fetch(host: str, port: int, count: int, seconds: float) -> None:
    """Read from a server."""
    selector = selectors.DefaultSelector()
    got = {}
    for _ in range(count):
        made = socket.create_connection((host, port))
        made.setblocking(False)
        selector.register(made, selectors.EVENT_READ)
        got[made] = 0
    end = time.monotonic() + seconds
    waiting = set(got)
    while time.monotonic() < end or (waiting and time.monotonic() < end + FETCHING):
        for key, _ in selector.select(0.05):
            made = socket_of(key)
            got[made] += len(made.recv(1 << 18))
            if time.monotonic() > end:
                waiting.discard(made)
    print(json.dumps({"bytes": list(got.values()), "stuck": len(waiting)}), flush=True)  # noqa: T201


def family_of(host: str) -> socket.AddressFamily:
    """Return the family of an address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def listen(host: str, port: int) -> None:
    """Take whatever comes."""
    selector = selectors.DefaultSelector()
    listener = socket.create_server((host, port), family=family_of(host), backlog=4096)
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ)
    print("listening", flush=True)  # noqa: T201
    while True:
        for key, _ in selector.select():
            try:
                if key.fileobj is listener:
                    taken, _ = listener.accept()
                    taken.setblocking(False)
                    selector.register(taken, selectors.EVENT_READ)
                elif not key.fileobj.recv(1 << 18):  # type: ignore[union-attr]
                    raise ConnectionError
            except BlockingIOError:
                continue
            except OSError:
                if key.fileobj is not listener:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]


class Sender:
    """Sockets that send."""

    def __init__(self, host: str, port: int) -> None:
        self.address = (host, port)
        self.family = family_of(host)
        self.selector = selectors.DefaultSelector()
        self.connects = 0
        self.last: dict[socket.socket, float] = {}

    def open(self, *, steady: bool) -> socket.socket:
        """Open one more."""
        made = socket.socket(self.family)
        made.setblocking(False)
        made.connect_ex(self.address)
        self.selector.register(made, selectors.EVENT_WRITE, steady)
        self.connects += 1
        if steady:
            self.last[made] = time.monotonic()
        return made

    def close(self, made: socket.socket, *, reset: bool) -> None:
        """Close one, by RST where asked for."""
        if reset:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.selector.unregister(made)
        self.last.pop(made, None)
        made.close()

    def turn(self) -> list[socket.socket]:
        """Send what there is room for; return the sockets that broke."""
        broken = []
        for key, _ in self.selector.select(0.05):
            made = key.fileobj
            assert isinstance(made, socket.socket)
            try:
                made.send(DATA)
            except BlockingIOError:
                continue
            except OSError:
                broken.append(made)
                continue
            if key.data:
                self.last[made] = time.monotonic()
        return broken


def send(host: str, port: int, steady: int, churned: int, seconds: float) -> None:
    """Send, close, reset and open."""
    chance = random.Random(1)  # noqa: S311
    sender = Sender(host, port)
    for _ in range(steady):
        sender.open(steady=True)
    others = [sender.open(steady=False) for _ in range(churned)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for made in sender.turn():
            was_steady = made in sender.last
            sender.close(made, reset=False)
            if was_steady:
                sender.open(steady=True)
            else:
                others[others.index(made)] = sender.open(steady=False)
        for _ in range(min(5, churned)):
            number = chance.randrange(churned)
            sender.close(others[number], reset=chance.random() < 0.5)
            others[number] = sender.open(steady=False)
    for made in others:
        sender.close(made, reset=True)
    # In peace everybody must move again, however far TCP's timers had backed off.
    begun = time.monotonic()
    while min(sender.last.values()) < begun and time.monotonic() < begun + PATIENCE:
        for made in sender.turn():
            sender.close(made, reset=False)
            sender.open(steady=True)
    stuck = sum(since < begun for since in sender.last.values())
    print(json.dumps({"connects": sender.connects, "stuck": stuck}), flush=True)  # noqa: T201


if __name__ == "__main__":
    where = sys.argv[2], int(sys.argv[3])
    if sys.argv[1] == "listen":
        listen(*where)
    elif sys.argv[1] == "serve":
        serve(*where)
    elif sys.argv[1] == "fetch":
        fetch(*where, int(sys.argv[4]), float(sys.argv[5]))
    else:
        send(*where, int(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6]))
