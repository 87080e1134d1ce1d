"""A machine's serial console: a bounded log, the last lines for errors, and people who look on."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

_TAIL: Final = 40
_LOG_LIMIT: Final = 4 << 20
#: What the kernel prints when it gives up (kernel/panic.c).
_PANIC: Final = re.compile(rb"Kernel panic - not syncing: ?([^\r\n]*)")
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1bc|[\x00-\x08\x0b-\x1f]")


class Console:
    """Reads a machine's console until QEMU closes it.

    :param on_panic: called once, with the kernel's words, when it says that it panicked.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_panic: Callable[[str], None]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._on_panic = on_panic
        self._log = bytearray()
        self._panicked = False
        self._listeners: set[asyncio.Queue[bytes | None]] = set()
        self.closed = asyncio.create_task(self._read())

    def log(self) -> bytes:
        """Return what the console printed, the latest part when it was much."""
        return bytes(self._log)

    def tail(self) -> tuple[str, ...]:
        """Return the last lines, without terminal escapes."""
        lines = deque(maxlen=_TAIL)  # type: deque[str]
        for line in self._log.decode("utf-8", "replace").splitlines():
            clean = _ESCAPES.sub("", line).rstrip()
            if clean:
                lines.append(clean)
        return tuple(lines)

    async def write(self, data: bytes) -> None:
        """Type on the console."""
        with contextlib.suppress(OSError):
            self._writer.write(data)
            await self._writer.drain()

    async def listen(self) -> AsyncIterator[bytes]:
        """Yield what was printed so far, then what is printed until the machine ends."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        queue.put_nowait(self.log())
        if self.closed.done():
            queue.put_nowait(None)
        self._listeners.add(queue)
        try:
            while (data := await queue.get()) is not None:
                yield data
        finally:
            self._listeners.discard(queue)

    async def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self._reader.read(1 << 16):
                self._take(data)
        for queue in self._listeners:
            queue.put_nowait(None)

    def _take(self, data: bytes) -> None:
        self._log += data
        if len(self._log) > _LOG_LIMIT:
            del self._log[: _LOG_LIMIT // 2]
        for queue in self._listeners:
            queue.put_nowait(data)
        if not self._panicked:
            recent = bytes(self._log[-len(data) - 256 :])
            found = _PANIC.search(recent)
            if found and recent.find(b"\n", found.start()) >= 0:
                self._panicked = True
                self._on_panic(found.group(1).decode("utf-8", "replace").strip())
