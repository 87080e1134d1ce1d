"""Kernel source trees: unpacked or copied once, patched for whichever kernel is built, the rest left untouched.

All kernels of one source share a tree and its objects. Going from one series of patches to another changes only
the files the patches name, so that make compiles only what depends on them. A tree of the user's is copied and
followed file by file; it is never written to.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zdlab.errors import KernelBuildError, MissingToolError, UsageError
from zdlab.paths import cache_dir

_STATE: Final = "zdlab-tree.json"
_SOURCES: Final = Path("/usr/src")
#: The bulk of what an earlier build leaves inside a tree; the tree's own ``make mrproper`` knows the rest.
_PRODUCT: Final = re.compile(r"\.(o|a|ko|cmd|mod)$|^(vmlinux|bzImage|\.config)$")


@dataclass(frozen=True)
class Source:
    """Where a kernel's source comes from: an archive of a package, or a directory of the user's.

    :param work: name of the directory in the cache where it is built.
    :param key: names its content.
    :param files: of a directory: size and time of change by path.
    """

    path: Path
    work: str
    key: str
    files: Mapping[str, str] | None = None


def debian_source(package: str) -> Source:
    """Return the source that a Debian package installed.

    :raises MissingToolError: when the package is not installed.
    """
    archive = _SOURCES / f"{package}.tar.xz"
    if not archive.is_file():
        raise MissingToolError(f"the kernel source {archive} is missing", hint=f"apt-get install {package}")
    key = _archive_key(archive)
    return Source(archive, key, key)


def user_source(directory: Path) -> Source:
    """Return a kernel tree of the user's.

    :raises UsageError: when it is no kernel tree.
    :raises KernelBuildError: when it cannot be read.
    """
    directory = directory.resolve()
    if not (directory / "Kconfig").is_file() or not (directory / "arch" / "x86").is_dir():
        raise UsageError(f"{directory} is no kernel source tree", hint="name the directory that holds Kconfig")
    try:
        files = dict(_walk(directory))
    except OSError as error:
        raise KernelBuildError(f"cannot read {error.filename}: {error.strerror}") from error
    content = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]
    place = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return Source(directory, f"{directory.name}-{place}", content, files)


def prepare_tree(source: Source, patches: Sequence[Path]) -> Path:
    """Return a tree with exactly these patches applied. The caller holds the lock of the source.

    :raises KernelBuildError: when the source cannot be unpacked or a patch does not apply.
    """
    work = cache_dir("kernels", "trees") / source.work
    tree = work / "linux"
    state = _State(work)
    if state.broken or not (tree / "Kconfig").is_file():
        # The objects go too: what is unpacked is older than they are, and make would trust them.
        shutil.rmtree(work, ignore_errors=True)
        state = _State(work)
        if source.files is None:
            _unpack(source.path, work)
    if source.files is not None:
        _follow(source, source.files, tree, state)
    _switch_patches(tree, patches, state)
    return tree


class _State:
    """What was done to a tree: the patches in it, by their text, and the user's files it was copied from.

    A tree that is being changed is marked; if the mark is found later, the change was cut short.
    """

    def __init__(self, work: Path) -> None:
        self._path = work / _STATE
        self.applied: list[str] = []
        self.files: dict[str, str] = {}
        self.broken = False
        try:
            saved = json.loads(self._path.read_text())
            self.applied, self.files, self.broken = saved["applied"], saved["files"], saved["busy"]
        except (OSError, ValueError, KeyError):
            self.broken = work.exists()

    def begin(self) -> None:
        """Mark the tree as being changed."""
        self._save(busy=True)

    def done(self) -> None:
        """Note that the tree is as described."""
        self._save(busy=False)

    def _save(self, *, busy: bool) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps({"applied": self.applied, "files": self.files, "busy": busy}))
        partial.replace(self._path)


def _archive_key(archive: Path) -> str:
    """Return a hash of an archive's content, remembered by its size and time of change."""
    status = archive.stat()
    memory = cache_dir("kernels") / "archives.json"
    try:
        known: dict[str, str] = json.loads(memory.read_text())
    except (OSError, ValueError):
        known = {}
    stamp = f"{archive}:{status.st_size}:{status.st_mtime_ns}"
    if stamp not in known:
        with archive.open("rb") as stream:
            known[stamp] = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
        partial = memory.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(known))
        partial.replace(memory)
    return known[stamp]


def _unpack(archive: Path, work: Path) -> None:
    partial = work.with_name(f"{work.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    command = ["tar", "--extract", "--no-same-owner", "--file", str(archive), "--directory", str(partial)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
        (inner,) = [path for path in partial.iterdir() if path.is_dir()]
        inner.rename(partial / "linux")
        _State(partial).done()
        partial.rename(work)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        said = error.stderr.splitlines() if isinstance(error, subprocess.CalledProcessError) else [str(error)]
        raise KernelBuildError(
            f"cannot unpack {archive}", output=said[-20:], hint="check the free space, and the archive"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _walk(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield a user's source files: path, and what stat says of its content. Products of a build are left out."""
    pending = [""]
    while pending:
        below = pending.pop()
        with os.scandir(directory / below) as entries:
            for entry in entries:
                path = f"{below}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != ".git" and not path.endswith(("include/generated", "include/config")):
                        pending.append(f"{path}/")
                elif not _PRODUCT.search(entry.name):
                    status = entry.stat(follow_symlinks=False)
                    yield path, f"{status.st_size}:{status.st_mtime_ns}:{stat.S_IFMT(status.st_mode)}"


def _follow(source: Source, files: Mapping[str, str], tree: Path, state: _State) -> None:
    """Make the tree a copy of the user's, touching only what changed there since the last time.

    Copies are as new as the copying: a file that came back with an older time must still be compiled again.
    """
    changed = [path for path, stamp in files.items() if state.files.get(path) != stamp]
    gone = [path for path in state.files if path not in files]
    if not changed and not gone:
        return
    _switch_patches(tree, (), state)
    state.begin()
    try:
        for path in gone:
            (tree / path).unlink(missing_ok=True)
        for path in changed:
            target = tree / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copy(source.path / path, target, follow_symlinks=False)
    except OSError as error:
        raise KernelBuildError(
            f"cannot copy {source.path} to the cache: {error}", hint="check the free space"
        ) from error
    state.files = dict(files)
    # Tables, parsers and the like that a build in the user's tree made would be found before the new ones.
    subprocess.run(["make", "-s", "-C", str(tree), "mrproper"], check=False, capture_output=True)
    state.done()


def _switch_patches(tree: Path, patches: Sequence[Path], state: _State) -> None:
    wanted = [_text(path) for path in patches]
    keep = 0
    while keep < min(len(state.applied), len(wanted)) and state.applied[keep] == wanted[keep]:
        keep += 1
    while len(state.applied) > keep:
        _patch(tree, state.applied[-1], "--reverse", "an earlier patch", state)
        state.applied.pop()
        state.done()
    for path, text in zip(patches[keep:], wanted[keep:], strict=True):
        _patch(tree, text, "--forward", path.name, state)
        state.applied.append(text)
        state.done()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise KernelBuildError(f"cannot read the patch {path}: {error.strerror}") from error


def _patch(tree: Path, text: str, direction: str, name: str, state: _State) -> None:
    command = ["patch", "-p1", "--batch", "--no-backup-if-mismatch", "--fuzz=0", direction, "--directory", str(tree)]
    # A patch is tried first: one that applies in part would leave a tree nobody asked for.
    for arguments in ([*command, "--dry-run"], command):
        if arguments is command:
            state.begin()
        try:
            result = subprocess.run(
                arguments,
                input=text,
                capture_output=True,
                text=True,
                errors="surrogateescape",
                check=False,
                env=dict(os.environ, LC_ALL="C"),
            )
        except FileNotFoundError as error:
            raise MissingToolError("the program patch is missing", hint="apt-get install patch") from error
        if result.returncode:
            raise KernelBuildError(
                f"the patch {name} does not apply",
                output=(result.stdout + result.stderr).splitlines()[-40:],
                hint="rebase it on the source, or leave it out",
            )
