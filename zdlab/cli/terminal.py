"""Passing a program's streams through to the caller's own: exec, shell, console, capture."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Mapping
from typing import Any, Final

from zdlab.agent import frames
from zdlab.lab.client import Lab
from zdlab.lab.connection import Connection, restored

_STDIN: Final = 0
_STDOUT: Final = 1
_STDERR: Final = 2


def terminal_size() -> tuple[int, int]:
    """Return rows and columns of the caller's terminal."""
    size = shutil.get_terminal_size()
    return size.lines, size.columns


def pass_through(
    lab: Lab,
    verb: str,
    header: Mapping[str, Any],
    *,
    escape: bytes = b"",
    stdout: int = _STDOUT,
    interrupt: bool = False,
) -> int:
    """Run a streaming verb with the caller's streams and return its exit code (128 + n for signal n).

    :param escape: typed on a terminal, it ends the session.
    :param interrupt: Ctrl-C ends the program gracefully and is no error.
    """
    raw = bool(escape or header.get("terminal")) and sys.stdin.isatty()
    with lab.open(verb, header) as connection:
        connection.reply()
        with _raw_terminal() if raw else contextlib.nullcontext(), _resizing(connection, raw):
            while True:
                try:
                    status = _pump(connection, escape if raw else b"", stdout)
                except KeyboardInterrupt:
                    connection.send_message("signal", {"signal": int(signal.SIGINT)})
                    if not interrupt:
                        raise
                    continue
                return 128 - status if status < 0 else status


def _pump(connection: Connection, escape: bytes, stdout: int) -> int:
    """Move data both ways until the program ends."""
    watched: list[Any] = [connection, _STDIN]
    while True:
        ready = [connection] if connection.pending() else select.select(watched, [], [])[0]
        if connection in ready:
            kind, payload = connection.receive()
            if kind == frames.EXIT:
                return int(frames.unpack_message(payload)[0]["status"])
            if kind == frames.REPLY and "error" in (answer := frames.unpack_message(payload)[0]):
                raise restored(answer["error"])
            if kind in {frames.STDOUT, frames.STDERR}:
                _write(stdout if kind == frames.STDOUT else _STDERR, payload)
        if _STDIN in ready:
            data = os.read(_STDIN, frames.CHUNK)
            if escape and escape in data:
                return 0
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its exit is on the way
                connection.send(frames.STDIN, data)
            if not data:
                watched.remove(_STDIN)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Pass every key through as it is typed."""
    old = termios.tcgetattr(_STDIN)
    try:
        tty.setraw(_STDIN)
        yield
    finally:
        termios.tcsetattr(_STDIN, termios.TCSADRAIN, old)


@contextlib.contextmanager
def _resizing(connection: Connection, active: bool) -> Iterator[None]:
    """Tell the program when the caller's terminal changes its size."""
    if not active:
        yield
        return
    old = signal.signal(signal.SIGWINCH, lambda *_: connection.send_message("resize", {"size": terminal_size()}))
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, old)
