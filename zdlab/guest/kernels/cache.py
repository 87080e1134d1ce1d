"""Finding kernels by name or path, listing what is built, and removing what nobody needs any more."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import Timeout

from zdlab.errors import InfrastructureError, MissingToolError, UsageError
from zdlab.guest.kernels.build import Progress, build_kernel, built_dir, kernel_key, tree_lock
from zdlab.guest.kernels.inspect import KernelFile, inspect_kernel
from zdlab.guest.kernels.registry import recipes
from zdlab.paths import cache_dir


@dataclass(frozen=True)
class ListedKernel:
    """A kernel of the registry.

    :param path: ``None`` until it is built.
    :param size: bytes of the image, 0 until it is built.
    :param note: why it cannot be built here; empty when it can.
    """

    name: str
    description: str
    path: Path | None
    release: str
    sha256: str
    size: int
    built: datetime | None
    note: str


@dataclass(frozen=True)
class CachedKernel:
    """A built kernel in the cache.

    :param path: its directory.
    :param size: bytes, logs included.
    :param current: whether the registry would still use it.
    """

    path: Path
    name: str
    size: int
    built: datetime
    current: bool


@dataclass(frozen=True)
class CachedTree:
    """A source tree in the cache, with its objects. Without it, the next build takes minutes longer.

    :param size: bytes.
    :param used: when something was last built in it.
    """

    path: Path
    size: int
    used: datetime


def resolve_kernel(name: str, base: Path | None = None, progress: Progress | None = None) -> KernelFile:
    """Return the kernel a machine asks for; one of the registry is built when it is not there yet.

    :param name: a name of the registry, or a path (anything with a slash).
    :param base: directory a relative path starts from; the current one when ``None``.
    :raises UsageError: when there is no such kernel, or the file is none.
    :raises KernelBuildError: when it does not build.
    """
    if "/" not in name:
        return build_kernel(name, progress=progress)
    try:
        path = Path(os.path.abspath((base or Path.cwd()) / Path(name).expanduser()))  # noqa: PTH100 - keeps links
        found = path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"cannot look for the kernel {name!r}: {error}") from error
    if not found:
        raise UsageError(f"there is no kernel {path}", hint="name a bzImage, or a kernel of `zdlab kernels list`")
    return inspect_kernel(path)


def list_kernels() -> list[ListedKernel]:
    """Return the kernels of the registry, built or not."""
    found = []
    for name, recipe in recipes().items():
        note = ""
        path: Path | None = None
        try:
            path = built_dir() / kernel_key(name)[0] / "bzImage"
        except MissingToolError as error:
            note = f"{error.message} ({error.hint})"
        if path is None or not path.is_file():
            found.append(ListedKernel(name, recipe.description, None, "", "", 0, None, note))
            continue
        kernel, status = inspect_kernel(path), path.stat()
        made = datetime.fromtimestamp(status.st_mtime, UTC)
        found.append(
            ListedKernel(name, recipe.description, path, kernel.release, kernel.sha256, status.st_size, made, note)
        )
    return found


def list_cached() -> list[CachedKernel]:
    """Return every built kernel, also those of earlier patches, configurations and sources; the newest first."""
    current = set()
    for name in recipes():
        with contextlib.suppress(MissingToolError):
            current.add(kernel_key(name)[0])
    found = []
    for path in built_dir().iterdir():
        image = path / "bzImage"
        if path.name.startswith(".") or not image.is_file():
            continue
        made = datetime.fromtimestamp(image.stat().st_mtime, UTC)
        name = path.name.rpartition("-")[0]
        found.append(CachedKernel(path, name, _size(path), made, path.name in current))
    return sorted(found, key=lambda kernel: kernel.built, reverse=True)


def list_trees() -> list[CachedTree]:
    """Return the source trees in the cache, the most recently used first."""
    trees = [path for path in cache_dir("kernels", "trees").iterdir() if path.is_dir()]
    found = [CachedTree(path, _size(path), _used(path)) for path in trees]
    return sorted(found, key=lambda tree: tree.used, reverse=True)


def remove_kernel(kernel: CachedKernel) -> None:
    """Remove a built kernel. One that a guest was started from goes on running.

    :raises InfrastructureError: when it cannot be removed.
    """
    # Renamed first: a kernel half removed must not be taken for one that is built.
    gone = kernel.path.with_name(f".{kernel.path.name}.gone")
    with contextlib.suppress(FileNotFoundError):
        kernel.path.rename(gone)
    _remove(gone)


def remove_tree(tree: CachedTree) -> bool:
    """Remove a source tree and its objects; return whether it was, for one that is being built in stays.

    :raises InfrastructureError: when it cannot be removed.
    """
    lock = tree_lock(tree.path.name)
    try:
        with lock.acquire(timeout=0):
            _remove(tree.path)
    except Timeout:
        return False
    return True


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InfrastructureError(f"cannot remove {path}: {error.strerror}") from error


def _size(directory: Path) -> int:
    total = 0
    for below, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(below) / name).lstat().st_blocks * 512
    return total


def _used(tree: Path) -> datetime:
    logs = [path.stat().st_mtime for path in tree.glob("objects-*/build.log")]
    return datetime.fromtimestamp(max([*logs, tree.stat().st_mtime]), UTC)
