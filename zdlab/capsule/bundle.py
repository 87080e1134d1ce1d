"""Bundles: one file with all that some trials take to be repeated on another computer.

A gzip-compressed tar archive: ``manifest.json`` first, which lists every other member with size and hash, then the
kernels, the images and the results they name. A bundle comes from somewhere else, so nothing in it is used before all
of it was found to be what the manifest says, and nothing in it is ever more than text, numbers and files: what it
makes run, runs in a capsule.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from zdlab.capsule.case import NONSENSE, Case, natural, text
from zdlab.capsule.repeat import Kept
from zdlab.capsule.wire import LIMIT
from zdlab.errors import InfrastructureError, UsageError, unwritable
from zdlab.results.store import RunStore

MANIFEST: Final = "manifest.json"
_FORMAT: Final = 2
_PIECE: Final = 1 << 20
#: Nothing in a sound bundle is larger: the manifest, one member, all of it unpacked.
_LARGEST_MANIFEST: Final = 64 << 20
_LARGEST_MEMBER: Final = 1 << 30
_LARGEST: Final = 4 << 30
_MOST_MEMBERS: Final = 10_000


class BundleError(UsageError):
    """A file is no bundle, or not the one somebody made."""


def write_bundle(store: RunStore, trials: Sequence[Kept], target: Path) -> None:
    """Write trials of a run into a bundle.

    :raises UsageError: when they are more than a bundle may hold, or the file is there already or none to write to.
    :raises InfrastructureError: when the disk is full.
    """
    members: dict[str, Path] = {}
    for kept in trials:
        members |= {f"kernel-{kept.case.kernel}": kept.kernel, f"image-{kept.case.image}": kept.image}
        members[f"result-{kept.number:04}.gz"] = kept.kept
    manifest = {
        "format": _FORMAT,
        "zdlab": trials[0].zdlab,
        "run": store.name,
        "topology": store.description()["topology"],
        "trials": [{"number": kept.number, "arm": kept.arm, "case": kept.case.to_json()} for kept in trials],
        "members": {name: _listed(path) for name, path in members.items()},
    }
    listing = json.dumps(manifest, indent=1, sort_keys=True).encode()
    whole = sum(path.stat().st_size for path in members.values())
    if len(listing) > _LARGEST_MANIFEST or whole > _LARGEST - len(listing) - _PIECE * len(members):
        raise UsageError("these trials are more than a bundle may hold", hint="name one: `zdlab bundle RUN TRIAL`")
    try:
        raw = target.open("xb")
    except FileExistsError as error:
        raise UsageError(f"{target} is there already", hint="name another file with --file") from error
    except OSError as error:
        raise unwritable(target, error) from error
    try:
        with (
            raw,
            gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.USTAR_FORMAT) as archive,
        ):
            _add(archive, MANIFEST, listing)
            for name, path in members.items():
                _add(archive, name, path.read_bytes())
    except BaseException as error:
        target.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise unwritable(target, error) from error


def _listed(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def open_bundle(path: Path, directory: Path) -> list[Kept]:
    """Check a bundle and unpack it.

    :param directory: an empty one of the user's own, where its files go.
    :raises BundleError: when anything about it is not as it should be; nothing of it was used then.
    :raises UsageError: when it cannot be read.
    :raises InfrastructureError: when it cannot be unpacked.
    """
    try:
        with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) as unpacked:
            manifest = _unpack(_Archive(unpacked), directory)
        return _trials(manifest, directory)
    except OSError as error:
        raise BundleError(f"cannot read the bundle {path}: {error.strerror or error}", hint=_HINT) from error
    except (tarfile.TarError, EOFError, zlib.error, *NONSENSE) as error:
        what = f"its manifest is nested too deeply ({error})" if isinstance(error, RecursionError) else error
        raise BundleError(f"{path} is no bundle, or a broken one: {what}", hint=_HINT) from error


_HINT: Final = "have it made again with `zdlab bundle`"


class _Archive:
    """Reads a tar archive from front to back: plain files alone, and no more than a bundle may hold.

    Whatever else tar knows (links, devices, extended headers of any length) is refused by its header.
    """

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream
        self._left = _LARGEST

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Yield the members; the content of each has to be read before the next."""
        while any(block := self._read(tarfile.BLOCKSIZE)):
            member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
            if member.type not in {tarfile.REGTYPE, tarfile.AREGTYPE}:
                raise ValueError(f"{member.name[:80]!r} is no plain file")
            yield member
        # To its very end: only there the sum over all of it is checked.
        while rest := self._stream.read(_PIECE):
            self._left -= len(rest)
            if any(rest) or self._left < 0:
                raise ValueError("something follows its end")

    def content(self, member: tarfile.TarInfo, limit: int) -> Iterator[bytes]:
        """Yield a member's content in pieces."""
        if not 0 <= member.size <= limit:
            raise ValueError(f"{member.name[:80]} has {member.size} bytes")
        for begin in range(0, member.size, _PIECE):
            yield self._read(min(_PIECE, member.size - begin))
        self._read(-member.size % tarfile.BLOCKSIZE)

    def _read(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {_LARGEST} bytes")
        try:
            data = self._stream.read(size)
        except OSError as error:
            raise ValueError(str(error)) from error
        if len(data) != size:
            raise ValueError("it is cut short")
        return data


def _unpack(archive: _Archive, directory: Path) -> dict[str, Any]:
    """Unpack every member that the manifest lists, and see that it is what the manifest says."""
    members = archive.members()
    first = next(members, None)
    if first is None or first.name != MANIFEST:
        raise ValueError(f"it does not begin with {MANIFEST}")
    manifest: dict[str, Any] = json.loads(b"".join(archive.content(first, _LARGEST_MANIFEST)))
    if manifest["format"] != _FORMAT:
        raise ValueError(f"its format is {_short(manifest['format'])}, not {_FORMAT}")
    waiting = dict(manifest["members"])
    if len(waiting) > _MOST_MEMBERS:
        raise ValueError(f"it lists {len(waiting)} members")
    for member in members:
        listed = waiting.pop(member.name, None)
        if listed is None:
            raise ValueError(f"{member.name[:80]!r} is not in its list, or there twice")
        if Path(member.name).name != member.name or member.name in {"", ".", ".."}:
            raise ValueError(f"{member.name[:80]!r} is no plain name")
        largest = LIMIT if member.name.startswith("result-") else _LARGEST_MEMBER
        found = _store(directory / member.name, archive.content(member, largest))
        if found != (listed["size"], listed["sha256"]):
            raise ValueError(f"{member.name} is not what its list says")
    if waiting:
        raise ValueError(f"{next(iter(waiting))[:80]!r} is missing")
    return manifest


def _store(path: Path, content: Iterable[bytes]) -> tuple[int, str]:
    """Write a file and return its size and hash.

    :raises InfrastructureError: when it cannot be written.
    """
    digest = hashlib.sha256()
    size = 0
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as target:
            for piece in content:
                digest.update(piece)
                size += len(piece)
                target.write(piece)
    except OSError as error:
        raise InfrastructureError(f"cannot unpack to {path}: {error.strerror}", hint="check the free space") from error
    return size, digest.hexdigest()


def _trials(manifest: Mapping[str, Any], directory: Path) -> list[Kept]:
    """Return the trials of a manifest whose members were all checked; their results are read, too."""
    version = text(manifest["zdlab"])
    found: dict[int, Kept] = {}
    for trial in manifest["trials"]:
        try:
            case = Case.from_json(trial["case"])
            number, arm = natural(trial["number"]), text(trial["arm"])
            members = (f"kernel-{case.kernel}", f"image-{case.image}", f"result-{number:04}.gz")
            for name, content in zip(members, (case.kernel, case.image, None), strict=True):
                listed = manifest["members"].get(name)
                if listed is None or content not in {None, listed["sha256"]}:
                    raise ValueError(f"the {name.partition('-')[0]} of trial {number} is not in it")
            kernel, image, result = (directory / name for name in members)
            kept = Kept(number, arm, case, kernel, image, result, version).checked()
        except InfrastructureError as error:
            raise ValueError(error.message) from error
        if number in found:
            raise ValueError(f"trial {number} is there twice")
        found[number] = kept
    if not found:
        raise ValueError("it holds no trial")
    return list(found.values())


def _short(value: Any) -> str:
    return repr(value)[:40]
