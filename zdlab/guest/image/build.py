"""Making and caching guest images: gzip-compressed initramfs archives, byte for byte the same for equal inputs.

gzip, because old kernels know nothing newer, but stored rather than squeezed: an emulated guest takes longer to
unpack nine megabytes than to copy twenty. Beside each image lies a list of the files it was made from. Looking
whether they are still the same costs a few milliseconds, making the image anew a second.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from filelock import FileLock

from zdlab.errors import ImageError
from zdlab.guest.image import contents, cpio, gather
from zdlab.paths import cache_dir

#: Stored: an emulated guest is ready 0.3 s sooner than with any other level.
_LEVEL: Final = 0
_SUFFIX: Final = ".cpio.gz"
_HERE: Final = Path(__file__).parent
_AGENT: Final = _HERE.parents[1] / "agent"


@dataclass(frozen=True)
class Image:
    """An initramfs in the cache.

    :param sha256: of the file.
    :param size: bytes of the file.
    :param made: when it was made.
    :param used: when it was last asked for.
    """

    path: Path
    sha256: str
    size: int
    made: datetime
    used: datetime


def build_image(extra: Mapping[str, Path], *, capsule: bool = False) -> Image:
    """Return the image with ``extra`` files in it, made anew only when something in it changed.

    :param extra: files to add, by their path in the guest; programs come with their libraries.
    :param capsule: with the engine itself, for the virtual clock.
    :raises ImageError: when it cannot be made or written.
    :raises MissingToolError: when a program of the computer is missing.
    """
    for path in extra:
        if not path.startswith("/") or ".." in path.split("/"):
            raise ImageError(f"{path!r} is no path in a guest", hint="give it from the root, such as /usr/bin/tool")
    directory = cache_dir("images")
    with _lock():
        record = directory / f"inputs-{_request(extra, capsule=capsule)}.json"
        sha256 = _known(record)
        if sha256 is None:
            made = contents.contents(extra, capsule=capsule)
            data = gzip.compress(cpio.archive(made.entries), _LEVEL, mtime=0)
            sha256 = hashlib.sha256(data).hexdigest()
            _publish(directory / f"{sha256}{_SUFFIX}", data)
            inputs = {str(path): _Stamp.of(path) for path in sorted({*made.inputs, *_own_files()})}
            _save(record, sha256, inputs)
        target = directory / f"{sha256}{_SUFFIX}"
        with contextlib.suppress(OSError):
            os.utime(record)
    return _describe(target, datetime.now(UTC))


def list_images() -> list[Image]:
    """Return the images in the cache, the most recently used first."""
    directory = cache_dir("images")
    used: dict[str, float] = {}
    for record in directory.glob("inputs-*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            name = json.loads(record.read_text())["image"]
            used[name] = max(used.get(name, 0.0), record.stat().st_mtime)
    found = []
    for path in directory.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            last = used.get(path.name.removesuffix(_SUFFIX), path.stat().st_mtime)
            found.append(_describe(path, datetime.fromtimestamp(last, UTC)))
    return sorted(found, key=lambda image: image.used, reverse=True)


def find_image(sha256: str) -> Image | None:
    """Return the image of a hash, ``None`` when the cache has it no more."""
    return next((image for image in list_images() if image.sha256 == sha256), None)


def remove_image(image: Image) -> None:
    """Remove an image from the cache. A guest that was started from it goes on running.

    :raises ImageError: when it cannot be removed.
    """
    with _lock():
        try:
            image.path.unlink(missing_ok=True)
            for record in cache_dir("images").glob("inputs-*.json"):
                if image.sha256 in record.read_text():
                    record.unlink()
        except OSError as error:
            raise ImageError(f"cannot remove {image.path}: {error.strerror}") from error


def _lock() -> FileLock:
    return FileLock(cache_dir("images") / ".lock")


def _describe(path: Path, used: datetime) -> Image:
    status = path.stat()
    made = datetime.fromtimestamp(status.st_mtime, UTC)
    return Image(path, path.name.removesuffix(_SUFFIX), status.st_size, made, used)


def _publish(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error.strerror}", hint="check the free space of the cache") from error
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Stamp:
    """What a file was when it was read: what stat said, and its content's hash in case stat says otherwise."""

    stat: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> _Stamp:
        try:
            with path.open("rb") as stream:
                return cls(cls.seen(path), hashlib.file_digest(stream, "sha256").hexdigest())
        except OSError as error:
            raise ImageError(f"cannot read {path}: {error.strerror}") from error

    @staticmethod
    def seen(path: Path) -> str:
        status = path.stat()
        return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _known(record: Path) -> str | None:
    """Return the hash of the image a record is about, ``None`` when there is none or an input changed."""
    try:
        saved = json.loads(record.read_text())
        sha256 = saved["image"]
        inputs = {path: _Stamp(**stamp) for path, stamp in saved["inputs"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not (record.parent / f"{sha256}{_SUFFIX}").is_file():
        return None
    touched = False
    for name, stamp in inputs.items():
        path = Path(name)
        try:
            if _Stamp.seen(path) == stamp.stat:
                continue
            now = _Stamp.of(path)
        except (OSError, ImageError):
            return None
        if now.sha256 != stamp.sha256:
            return None
        inputs[name] = now
        touched = True
    if touched:
        _save(record, sha256, inputs)
    return str(sha256)


def _save(record: Path, sha256: str, inputs: Mapping[str, _Stamp]) -> None:
    stamps = {path: {"stat": stamp.stat, "sha256": stamp.sha256} for path, stamp in inputs.items()}
    _publish(record, json.dumps({"image": sha256, "inputs": stamps}).encode())


def _own_files() -> Iterable[Path]:
    """Return the files whose change is another way of making images."""
    return [*(Path(module.__file__ or "") for module in (contents, cpio, gather)), Path(__file__)]


def _request(extra: Mapping[str, Path], *, capsule: bool) -> str:
    """Name what was asked for: where everything comes from and goes to. Contents are the record's."""
    asked = {**contents.sources(), **extra}
    parts = [f"{path}\0{source}" for path, source in sorted(asked.items())]
    # A module or a system's list of libraries that appears anew is no change of any file that was read.
    parts += sorted(path.name for path in _AGENT.glob("*.py"))
    parts += [str(contents.PYTHON.resolve()), str(_HERE)]
    if capsule:
        parts += ["capsule", *map(str, contents.package_directories())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
