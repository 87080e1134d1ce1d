"""Looking into a kernel image before it is booted: its release, its configuration, what it lacks.

The layout of a bzImage is in the kernel's ``Documentation/arch/x86/boot.rst``; the configuration (``IKCONFIG``)
stands between two marks in the uncompressed kernel. Images are files of a user's: nothing in them is trusted.
"""

from __future__ import annotations

import hashlib
import re
import stat
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zdlab.errors import UsageError
from zdlab.guest.kernels.needs import needs
from zdlab.guest.kernels.payload import PayloadError, uncompressed

_LARGEST: Final = 256 << 20
_LARGEST_CONFIG: Final = 4 << 20
_CONFIG_START: Final = b"IKCFG_ST"
_CONFIG_END: Final = b"IKCFG_ED"
#: Bytes of a sector, in which the size of the setup code is given.
_SECTOR: Final = 512
_64_BIT: Final = 1  # XLF_KERNEL_64 in xloadflags


@dataclass(frozen=True)
class KernelFile:
    """A kernel that can be booted.

    :param release: what ``uname -r`` will say; empty when it does not tell.
    :param config: its configuration, ``None`` when it is not known.
    :param note: why the configuration is not known.
    """

    path: Path
    sha256: str
    release: str
    config: Mapping[str, str] | None
    note: str = ""

    def missing(
        self, qdiscs: Iterable[str] = (), congestion: Iterable[str] = (), features: Iterable[str] = ()
    ) -> dict[str, str]:
        """Return the symbols the kernel lacks and why each is needed; nothing when its configuration is unknown.

        :param qdiscs: kinds of qdiscs it shall have.
        :param congestion: congestion controls it shall have.
        :param features: keys of :data:`~zdlab.guest.kernels.needs.FEATURES`.
        """
        if self.config is None:
            return {}
        lacks = {}
        for symbol, use in needs(qdiscs, congestion, features).items():
            value = self.config.get(symbol, "n")
            if value != "y":
                state = "is a module, and guests load none" if value == "m" else "is not set"
                lacks[symbol] = f"{state}; with it a guest {use}"
        return lacks


@dataclass(frozen=True)
class _Header:
    """The fields of the setup header that matter here, in bytes."""

    setup: int
    body: int
    payload: int
    payload_length: int
    version: int
    flags: int


def inspect_kernel(path: Path, config_file: Path | None = None) -> KernelFile:
    """Look into a bzImage.

    :param config_file: its configuration, for whom it is known to be there: unpacking the image takes a tenth of a
        second. Without it, or when it cannot be read, the image and what lies beside it are searched.
    :raises UsageError: when it cannot be read, is none, or is not whole.
    """
    data = _read(path)
    header = _header(data, path)
    known = None if config_file is None else _text(config_file)
    config, note = _config(data, header, path) if known is None else (_symbols(known), "")
    return KernelFile(path, hashlib.sha256(data).hexdigest(), _release(data, header), config, note)


def _read(path: Path) -> bytes:
    try:
        # A pipe or a device would block, or never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"the kernel {path} is not a file", hint="name a bzImage")
        with path.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot read the kernel {path}: {reason}", hint="name a bzImage") from error
    if len(data) > _LARGEST:
        raise UsageError(f"{path} is larger than any kernel", hint="name a bzImage")
    return data


def _header(data: bytes, path: Path) -> _Header:
    """Return the header of a 64-bit bzImage that is whole.

    :raises UsageError: when it is none.
    """
    if data.startswith(b"\x7fELF"):
        raise UsageError(
            f"{path} is a program or a bare kernel (ELF), not a bzImage",
            hint="the build of a kernel leaves its bzImage in arch/x86/boot/bzImage",
        )
    if len(data) < 0x268 or data[0x202:0x206] != b"HdrS":
        raise UsageError(
            f"{path} is no x86 kernel image (bzImage)", hint="the build leaves one in arch/x86/boot/bzImage"
        )
    setup = ((data[0x1F1] or 4) + 1) * _SECTOR
    body = struct.unpack_from("<I", data, 0x1F4)[0] * 16
    (version,) = struct.unpack_from("<H", data, 0x20E)
    (flags,) = struct.unpack_from("<H", data, 0x236)
    payload, payload_length = struct.unpack_from("<II", data, 0x248)
    # The size is in units of 16 bytes, and the last one need not be full.
    if not body or len(data) + 15 < setup + body:
        raise UsageError(f"{path} is cut short: {len(data):,} bytes of {setup + body:,}", hint="copy or build it again")
    if not flags & _64_BIT:
        raise UsageError(f"{path} is a 32-bit kernel", hint="build it for x86_64")
    return _Header(setup, body, payload, payload_length, version, flags)


def _release(data: bytes, header: _Header) -> str:
    """Return the first word of the version text, as ``uname -r`` prints it."""
    if not header.version:
        return ""
    start = header.version + 0x200
    text = data[start : start + 0x200].partition(b"\0")[0].decode("ascii", "replace")
    word = text.split(" ")[0]
    return word if word.isprintable() else ""


def _config(data: bytes, header: _Header, path: Path) -> tuple[Mapping[str, str] | None, str]:
    """Return the configuration, from inside or from beside the image, or why it is not known."""
    start = header.setup + header.payload
    payload = data[start : start + header.payload_length]
    note = ""
    text = None
    try:
        text = _inside(uncompressed(payload))
    except PayloadError as error:
        note = f"the image cannot be unpacked: {error}"
    if text is None:
        text = _beside(path)
    if text is None:
        return None, note or "it was built without CONFIG_IKCONFIG, and no config lies beside it"
    return _symbols(text), ""


def _symbols(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.MULTILINE))


def _inside(kernel: bytes) -> str | None:
    start = kernel.find(_CONFIG_START)
    if start < 0:
        return None
    start += len(_CONFIG_START)
    end = kernel.find(_CONFIG_END, start)
    try:
        stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
        return stream.decompress(kernel[start:end], _LARGEST_CONFIG).decode("utf-8", "replace")
    except zlib.error:
        return None


def _beside(path: Path) -> str | None:
    """Return a configuration that lies beside the image, as builds and distributions leave it."""
    names = ["config", ".config", path.name.replace("bzImage", "config"), path.name.replace("vmlinuz", "config")]
    places = [path.parent / name for name in dict.fromkeys(names) if name != path.name]
    # The image in a source tree: arch/x86/boot/bzImage
    if path.parent.name == "boot" and len(path.parents) > 3:
        places.append(path.parents[3] / ".config")
    return next((text for text in map(_text, places) if text is not None), None)


def _text(path: Path) -> str | None:
    """Return what is in a file that may be a configuration, if it is there."""
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size < _LARGEST_CONFIG:
            return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        pass
    return None
