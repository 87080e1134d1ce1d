"""What goes into a capsule and what comes out of it, as bytes. Both sides use this; the standard library alone.

A result is a line of JSON and the pieces it announces: nothing in it is ever more than text, numbers and bytes, so
that reading one cannot do anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

#: Where a capsule finds its request.
REQUEST: Final = "/zdlab/request.json"
#: The word of the kernel's command line that makes a guest a capsule, and the names of its two ports.
WORD: Final = "zdlab.capsule"
RESULT_PORT: Final = "zdlab.result"
PROGRESS_PORT: Final = "zdlab.progress"
#: A result is longer than this only when something is very wrong.
LIMIT: Final = 1 << 28


class WireError(ValueError):
    """A result is cut short, or none."""


def packed(header: Mapping[str, Any], pieces: Mapping[str, bytes]) -> bytes:
    """Return a result as bytes."""
    sizes = [[name, len(data)] for name, data in pieces.items()]
    line = json.dumps({**header, "pieces": sizes}, separators=(",", ":"), sort_keys=True).encode()
    return b"".join([line, b"\n", *pieces.values(), b"end\n"])


def unpacked(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return header and pieces of a result.

    :raises WireError: when it is cut short, or none.
    """
    line, newline, rest = data.partition(b"\n")
    try:
        header = json.loads(line)
        sizes = [(str(name), int(size)) for name, size in header.pop("pieces")]
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise WireError("a capsule's result is unreadable") from error
    pieces = {}
    offset = 0
    for name, size in sizes:
        if size < 0 or offset + size > len(rest):
            raise WireError("a capsule's result is cut short")
        pieces[name] = rest[offset : offset + size]
        offset += size
    if not newline or rest[offset:] != b"end\n":
        raise WireError("a capsule's result is cut short")
    return header, pieces
