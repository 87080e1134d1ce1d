"""Uncompressing the kernel inside a bzImage, whichever of the kernel's compressors made it.

Never trusts the data: what comes out is bounded, and whatever is wrong is a :class:`PayloadError`.
"""

from __future__ import annotations

import bz2
import lzma
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from typing import Final

#: Bytes; a kernel with every driver and every check is a third of this.
_LARGEST: Final = 512 << 20


class PayloadError(Exception):
    """The data cannot be uncompressed; says why."""


def uncompressed(payload: bytes) -> bytes:
    """Return the kernel itself.

    :raises PayloadError: when the compression is unknown, the data is broken, or a program is missing.
    """
    for magic, name, decompress in _COMPRESSIONS:
        if payload.startswith(magic):
            try:
                kernel = decompress(payload)
            except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
                raise PayloadError(f"its {name} data is broken ({error})") from error
            if not kernel:
                raise PayloadError(f"its {name} data is broken")
            return kernel
    raise PayloadError("its compression is not known")


def _gzip(payload: bytes) -> bytes:
    return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(payload, _LARGEST)


def _xz(payload: bytes) -> bytes:
    return lzma.LZMADecompressor(memlimit=_LARGEST).decompress(payload, _LARGEST)


def _bzip2(payload: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(payload, _LARGEST)


def _program(name: str) -> Callable[[bytes], bytes]:
    def decompress(payload: bytes) -> bytes:
        if shutil.which(name) is None:
            raise PayloadError(f"the program {name} is missing (apt-get install {name})")
        with tempfile.TemporaryFile() as packed:
            packed.write(payload)
            packed.seek(0)
            # The kernel's size stands behind the compressed data: the program complains, and has written it all.
            with subprocess.Popen(
                [name, "-dc"], stdin=packed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as process:
                assert process.stdout is not None  # noqa: S101 - Popen was given a pipe
                kernel = process.stdout.read(_LARGEST)
                process.kill()
        return kernel

    return decompress


_COMPRESSIONS: Final[tuple[tuple[bytes, str, Callable[[bytes], bytes]], ...]] = (
    (b"\x1f\x8b", "gzip", _gzip),
    (b"\xfd7zXZ", "xz", _xz),
    (b"\x5d\x00\x00", "lzma", _xz),
    (b"BZh", "bzip2", _bzip2),
    (b"\x28\xb5\x2f\xfd", "zstd", _program("zstd")),
    (b"\x02\x21\x4c\x18", "lz4", _program("lz4")),
    (b"\x89LZO", "lzo", _program("lzop")),
)
