"""Runs in a node: sockets that each send so many bytes, and whether every byte arrived, once and in order.

``transfer.py take HOST PORT`` compares what comes with what was to come, and answers ``y`` where it is the same.
``transfer.py give HOST PORT SOCKETS BYTES`` sends BYTES by each of SOCKETS, different ones by each, and prints how many
were answered so. It does without what a guest's Python lacks.
"""

from __future__ import annotations

import socket
import sys
from random import Random
from threading import Thread


def data_of(number: int, amount: int) -> bytes:
    """Return what socket ``number`` sends, which begins with that number."""
    return number.to_bytes(4, "big") + Random(number).randbytes(amount)  # noqa: S311 - any will do, if they differ


def take(connection: socket.socket) -> None:
    """Read to the end and answer."""
    seen = bytearray()
    with connection:
        while got := connection.recv(1 << 18):
            seen += got
        expected = data_of(int.from_bytes(seen[:4], "big"), len(seen) - 4)
        connection.sendall(b"y" if seen == expected else b"n")


def give(host: str, port: int, number: int, amount: int, answers: list[bytes]) -> None:
    """Send, and keep the answer."""
    with socket.create_connection((host, port)) as connection:
        connection.sendall(data_of(number, amount))
        connection.shutdown(socket.SHUT_WR)
        answers.append(connection.recv(1))


def main(command: str, host: str, port: int, *numbers: int) -> None:
    """Do one of the two."""
    if command == "take":
        listener = socket.create_server((host, port), backlog=1000)
        print("listening", flush=True)  # noqa: T201
        while True:
            Thread(target=take, args=[listener.accept()[0]]).start()
    sockets, amount = numbers
    answers: list[bytes] = []
    threads = [Thread(target=give, args=[host, port, number, amount, answers]) for number in range(sockets)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(answers.count(b"y"), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
