"""Writing initramfs archives: cpio in the "newc" format, the same bytes for the same content.

The format is documented in the kernel's ``Documentation/driver-api/early-userspace/buffer-format.rst``. Owners,
times and inode numbers are fixed; entries are sorted, directories before what they hold.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Entry:
    """One thing in an archive.

    :param mode: type and permissions, as in ``st_mode``.
    :param data: a file's content, or a symbolic link's target.
    :param device: major and minor number of a device node.
    """

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def file(data: bytes, permissions: int = 0o644) -> Entry:
    """Return a regular file."""
    return Entry(stat.S_IFREG | permissions, data)


def directory(permissions: int = 0o755) -> Entry:
    """Return a directory."""
    return Entry(stat.S_IFDIR | permissions)


def symlink(target: str) -> Entry:
    """Return a symbolic link."""
    return Entry(stat.S_IFLNK | 0o777, target.encode())


def character_device(major: int, minor: int, permissions: int = 0o600) -> Entry:
    """Return a character device node."""
    return Entry(stat.S_IFCHR | permissions, device=(major, minor))


def archive(entries: Mapping[str, Entry]) -> bytes:
    """Return a cpio archive of entries by their absolute paths; missing parent directories are added."""
    complete = dict(entries)
    for path in entries:
        for parent in PurePosixPath(path).parents:
            if str(parent) != "/":
                complete.setdefault(str(parent), directory())
    parts = [_record(path.lstrip("/"), number, complete[path]) for number, path in enumerate(sorted(complete), 1)]
    parts.append(_record("TRAILER!!!", 0, Entry(0)))
    data = b"".join(parts)
    return data + bytes(-len(data) % 512)


def _record(name: str, inode: int, entry: Entry) -> bytes:
    encoded = name.encode() + b"\0"
    fields = (
        inode,
        entry.mode,
        0,  # uid
        0,  # gid
        2 if stat.S_ISDIR(entry.mode) else 1,  # links
        0,  # modification time
        len(entry.data),
        0,  # device the file was on
        0,
        *entry.device,
        len(encoded),
        0,  # checksum, unused in this variant
    )
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    header += bytes(-len(header) % 4)
    return header + entry.data + bytes(-len(entry.data) % 4)
