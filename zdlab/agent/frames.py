"""Frames on the channel between a node's agent and the lab.

A frame is a header (length of the payload, type, stream number) and its payload. Messages (calls, replies, exits)
hold a JSON header and may carry bytes after it. The data of a program's standard streams flows in frames of its
own, under a window per stream: whoever sends has at most :data:`WINDOW` bytes that the other side has not yet
consumed, so that one stream nobody reads never stops the others.
"""

from __future__ import annotations

import json
import struct

HEADER = struct.Struct("!IBI")
_JSON_LENGTH = struct.Struct("!I")

#: Version of the protocol; both sides must have the same.
PROTOCOL = 2
#: Largest payload accepted. Bulk data is sent in chunks far below it.
MAX_PAYLOAD = 16 << 20
#: Bytes of one stream under way at most.
WINDOW = 256 << 10
#: Bytes of data in one frame at most.
CHUNK = 32 << 10

CALL, REPLY, STDIN, STDOUT, STDERR, CREDIT, EXIT, HELLO = range(8)
_LAST = HELLO


class FrameError(Exception):
    """The other side sent what is no frame of this protocol."""


def pack(kind: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return HEADER.pack(len(payload), kind, stream) + payload


def pack_message(kind: int, stream: int, header: dict, data: bytes = b"") -> bytes:  # type: ignore[type-arg]
    """Return a frame that holds a JSON header and bytes."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return pack(kind, stream, _JSON_LENGTH.pack(len(text)) + text + data)


def unpack_message(payload: bytes) -> tuple[dict, bytes]:  # type: ignore[type-arg]
    """Split a message's payload into its JSON header and the bytes after it.

    :raises FrameError: when it is not one.
    """
    try:
        (length,) = _JSON_LENGTH.unpack_from(payload)
        end = _JSON_LENGTH.size + length
        if end > len(payload):
            raise FrameError("a message is cut short")
        header = json.loads(payload[_JSON_LENGTH.size : end])
    except (struct.error, ValueError) as error:
        raise FrameError(f"a message is not readable: {error}") from error
    if not isinstance(header, dict):
        raise FrameError("a message's header is no object")
    return header, payload[end:]


class Decoder:
    """Turns bytes as they come into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Take bytes and return the frames they complete, each as ``(type, stream, payload)``.

        :raises FrameError: when they are no frames.
        """
        self._buffer += data
        frames = []
        start = 0
        while len(self._buffer) - start >= HEADER.size:
            length, kind, stream = HEADER.unpack_from(self._buffer, start)
            if length > MAX_PAYLOAD or kind > _LAST:
                raise FrameError(f"no frame: type {kind}, {length} bytes")
            end = start + HEADER.size + length
            if len(self._buffer) < end:
                break
            frames.append((kind, stream, bytes(self._buffer[start + HEADER.size : end])))
            start = end
        del self._buffer[:start]
        return frames
