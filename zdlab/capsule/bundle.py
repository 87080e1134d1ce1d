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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

import zdlab
from zdlab.capsule.case import Case
from zdlab.capsule.repeat import files_of, kept_trial, kernel_of, read_result
from zdlab.errors import InfrastructureError, UsageError
from zdlab.results.store import RunStore

MANIFEST: Final = "manifest.json"
_FORMAT: Final = 1
_PIECE: Final = 1 << 20
#: Nothing in a sound bundle is larger: the manifest, one member, all of it unpacked.
_LARGEST_MANIFEST: Final = 64 << 20
_LARGEST_MEMBER: Final = 1 << 30
_LARGEST: Final = 4 << 30
_MOST_MEMBERS: Final = 10_000


class BundleError(UsageError):
    """A file is no bundle, or not the one somebody made."""


@dataclass(frozen=True)
class Bundled:
    """A trial of a bundle, unpacked.

    :param expected: the file of its result, gzip-compressed.
    """

    number: int
    arm: str
    case: Case
    kernel: Path
    image: Path
    expected: Path

    def result(self) -> bytes:
        """Return the result it came to where the bundle was made."""
        return read_result(self.expected.read_bytes())


def write_bundle(store: RunStore, numbers: Iterable[int], target: Path) -> None:
    """Write trials of a run into a bundle.

    :raises UsageError: when there is no such trial, or its kernel or image is gone.
    :raises InfrastructureError: when it cannot be written.
    """
    arms = {trial.slot.number: trial.slot.arm for trial in store.finished()}
    members: dict[str, Path | bytes] = {}
    trials = []
    for number in numbers:
        case, result = kept_trial(store, number)
        kernel, image = files_of(case, kernel_of(store, arms[number]))
        members |= {f"kernel-{case.kernel}": kernel, f"image-{case.image}": image}
        members[f"result-{number:04}.gz"] = gzip.compress(result, 6, mtime=0)
        trials.append({"number": number, "arm": arms[number], "case": case.to_json()})
    manifest = {
        "format": _FORMAT,
        "zdlab": zdlab.__version__,
        "run": store.name,
        "topology": store.description()["topology"],
        "trials": trials,
        "members": {name: _listed(content) for name, content in members.items()},
    }
    try:
        with (
            target.open("xb") as raw,
            gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.USTAR_FORMAT) as archive,
        ):
            _add(archive, MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
            for name, content in members.items():
                _add(archive, name, content.read_bytes() if isinstance(content, Path) else content)
    except FileExistsError as error:
        raise UsageError(f"{target} is there already", hint="name another file with --output") from error
    except OSError as error:
        target.unlink(missing_ok=True)
        raise InfrastructureError(f"cannot write {target}: {error.strerror}", hint="check the free space") from error


def _listed(content: Path | bytes) -> dict[str, Any]:
    data = content.read_bytes() if isinstance(content, Path) else content
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def open_bundle(path: Path, directory: Path) -> list[Bundled]:
    """Check a bundle and unpack it.

    :param directory: an empty one of the user's own, where its files go.
    :raises BundleError: when anything about it is not as it should be; nothing of it was used then.
    :raises UsageError: when it cannot be read.
    """
    try:
        with (
            path.open("rb") as raw,
            gzip.GzipFile(fileobj=raw) as unpacked,
            tarfile.open(fileobj=cast(IO[bytes], _Bounded(unpacked)), mode="r|") as archive,
        ):
            manifest = _unpack(archive, directory)
    except OSError as error:
        raise BundleError(f"cannot read the bundle {path}: {error.strerror or error}", hint=_HINT) from error
    except (tarfile.TarError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path} is no bundle, or a broken one: {error}", hint=_HINT) from error
    return list(_trials(path, manifest, directory))


_HINT: Final = "have it made again with `zdlab bundle`"


class _Bounded:
    """Reads what was unpacked, up to a limit: a small file may unpack to anything."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream
        self._left = _LARGEST

    def read(self, size: int) -> bytes:
        """Read at most ``size`` bytes.

        :raises ValueError: beyond the limit.
        """
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {_LARGEST} bytes")
        return data


def _unpack(archive: tarfile.TarFile, directory: Path) -> dict[str, Any]:
    """Unpack every member that the manifest lists, and see that it is what the manifest says."""
    members = iter(archive)
    first = next(members, None)
    if first is None or first.name != MANIFEST:
        raise ValueError(f"it does not begin with {MANIFEST}")
    manifest: dict[str, Any] = json.loads(b"".join(_content(archive, first, _LARGEST_MANIFEST)))
    if manifest["format"] != _FORMAT:
        raise ValueError(f"its format is {manifest['format']!r}, not {_FORMAT}")
    waiting = dict(manifest["members"])
    if len(waiting) > _MOST_MEMBERS:
        raise ValueError(f"it lists {len(waiting)} members")
    for member in members:
        listed = waiting.pop(member.name, None)
        if listed is None:
            raise ValueError(f"{member.name[:80]!r} is not in its list, or there twice")
        _store(archive, member, listed, directory)
    if waiting:
        raise ValueError(f"{next(iter(waiting))} is missing")
    return manifest


def _store(archive: tarfile.TarFile, member: tarfile.TarInfo, listed: Mapping[str, Any], directory: Path) -> None:
    if Path(member.name).name != member.name or member.name in {".", ".."}:
        raise ValueError(f"{member.name[:80]!r} is no plain name")
    digest = hashlib.sha256()
    size = 0
    descriptor = os.open(directory / member.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as target:
        for piece in _content(archive, member, _LARGEST_MEMBER):
            digest.update(piece)
            size += len(piece)
            target.write(piece)
    if size != listed["size"] or digest.hexdigest() != listed["sha256"]:
        raise ValueError(f"{member.name} is not what its list says")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, limit: int) -> Iterator[bytes]:
    if member.type not in {tarfile.REGTYPE, tarfile.AREGTYPE}:
        raise ValueError(f"{member.name[:80]!r} is no plain file")
    if member.size > limit:
        raise ValueError(f"{member.name[:80]} has {member.size} bytes")
    stream = archive.extractfile(member)
    if stream is None:
        raise ValueError(f"{member.name[:80]} has no content")
    while piece := stream.read(_PIECE):
        yield piece


def _trials(path: Path, manifest: Mapping[str, Any], directory: Path) -> Iterator[Bundled]:
    """Yield the trials of a manifest whose members were all checked."""
    sums = {name: listed["sha256"] for name, listed in manifest["members"].items()}
    try:
        for trial in manifest["trials"]:
            case = Case.from_json(trial["case"])
            number, arm = int(trial["number"]), str(trial["arm"])
            names = {"kernel": f"kernel-{case.kernel}", "image": f"image-{case.image}"}
            for kind, name in names.items():
                if sums.get(name) != getattr(case, kind):
                    raise ValueError(f"the {kind} of trial {number} is not in it")
            result = f"result-{number:04}.gz"
            if result not in sums:
                raise ValueError(f"the result of trial {number} is not in it")
            yield Bundled(
                number, arm, case, directory / names["kernel"], directory / names["image"], directory / result
            )
    except (KeyError, TypeError, ValueError, AttributeError, InfrastructureError) as error:
        raise BundleError(f"{path} is no bundle, or a broken one: {error}", hint=_HINT) from error
