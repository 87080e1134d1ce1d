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
from typing import Any

from zdlab.agent import frames
from zdlab.cli.streams import STDERR, STDIN, STDOUT, pass_on
from zdlab.lab.client import Lab
from zdlab.lab.connection import Connection, restored


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
    stdout: int = STDOUT,
) -> int:
    """Run a streaming verb with the caller's streams and return its exit code (128 + n for signal n).

    The first Ctrl-C is the program's: what it has to say to that, and its exit code, still come. The second ends the
    session.

    :param escape: typed on a terminal, it ends the session.
    """
    raw = bool(escape or header.get("terminal")) and sys.stdin.isatty()
    with lab.open(verb, header) as connection:
        connection.reply()
        # A console is a line, which no signal goes through: there the first Ctrl-C ends the session.
        with _Signals(interrupts=verb == "exec") as signals, _raw_terminal() if raw else contextlib.nullcontext():
            status = _pump(connection, signals, escape if raw else b"", stdout)
        return 128 - status if status < 0 else status


class _Signals:
    """The signals a session passes on, as a descriptor to select: they arrive between frames, never within one.

    :param interrupts: the first SIGINT is passed on as well.
    """

    def __init__(self, *, interrupts: bool) -> None:
        self._handlers: dict[int, Any] = {signal.SIGWINCH: lambda *_: None}
        if interrupts:
            self._handlers[signal.SIGINT] = self._interrupted
        self._was_interrupted = False

    def __enter__(self) -> _Signals:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, handler) for number, handler in self._handlers.items()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._reader)
        os.close(self._writer)

    def fileno(self) -> int:
        """Return the descriptor that is readable when there are some."""
        return self._reader

    def pass_on(self, connection: Connection) -> None:
        """Send those that came to the program."""
        for number in os.read(self._reader, 4096):
            if number == signal.SIGWINCH:
                connection.send_message("resize", {"size": terminal_size()})
            elif number in self._handlers:
                connection.send_message("signal", {"signal": number})

    def _interrupted(self, *_: object) -> None:
        if self._was_interrupted:
            raise KeyboardInterrupt
        self._was_interrupted = True


def _pump(connection: Connection, signals: _Signals, escape: bytes, stdout: int) -> int:
    """Move data both ways until the program ends."""
    watched: list[Any] = [connection, signals, STDIN]
    while True:
        ready = [connection] if connection.pending() else select.select(watched, [], [])[0]
        if connection in ready:
            kind, payload = connection.receive()
            if kind == frames.EXIT:
                return int(frames.unpack_message(payload)[0]["status"])
            if kind == frames.REPLY and "error" in (answer := frames.unpack_message(payload)[0]):
                raise restored(answer["error"])
            if kind in {frames.STDOUT, frames.STDERR}:
                pass_on(stdout if kind == frames.STDOUT else STDERR, payload)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its exit is on the way
            if signals in ready:
                signals.pass_on(connection)
            if STDIN in ready:
                data = os.read(STDIN, frames.CHUNK)
                if escape and escape in data:
                    return 0
                if not data:
                    watched.remove(STDIN)
                connection.send(frames.STDIN, data)


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Pass every key through as it is typed."""
    old = termios.tcgetattr(STDIN)
    try:
        tty.setraw(STDIN)
        yield
    finally:
        termios.tcsetattr(STDIN, termios.TCSADRAIN, old)
