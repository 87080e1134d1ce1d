"""Where ``tcp_stream`` and ``tcp_rr`` come from: neper's own when the user has them, ours otherwise.

Ours are compiled from ``images/traffic`` once for each state of source, flags and compiler, and cached.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from filelock import FileLock

from zdlab.errors import MissingToolError, TrafficError, UsageError
from zdlab.paths import cache_dir, images_dir

PROGRAMS = ("tcp_stream", "tcp_rr")

#: Where a guest's image has them.
GUEST_TOOLS: Final = PurePosixPath("/usr/bin")

Origin = Literal["zdlab", "neper"]

_FLAGS = ("-std=gnu11", "-D_GNU_SOURCE", "-pthread", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Wconversion")
_SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
_COMPILE_SECONDS = 300


@dataclass(frozen=True)
class TrafficTools:
    """The traffic programs of a run.

    :param directory: holds ``tcp_stream`` and ``tcp_rr``.
    :param origin: whose they are; ``neper`` knows fewer flags than ``zdlab``.
    :param sha256: of each program, by its name: what a run's provenance records.
    """

    directory: Path
    origin: Origin
    sha256: dict[str, str]

    def program(self, name: str) -> Path:
        """Return the path of the program ``name``.

        :raises TrafficError: when there is no such program.
        """
        if name not in self.sha256:
            raise TrafficError(f"there is no traffic tool {name!r}", hint=f"use one of {', '.join(PROGRAMS)}")
        return self.directory / name


def guest_programs(tools: TrafficTools) -> dict[str, Path]:
    """Return the programs by their path in a guest."""
    return {str(GUEST_TOOLS / name): tools.program(name) for name in tools.sha256}


def traffic_tools(
    neper_dir: Path | None = None, *, own_flags: Collection[str] = (), search_path: str | None = None
) -> TrafficTools:
    """Find neper's programs, or compile ours.

    :param neper_dir: a directory that must hold neper's programs.
    :param own_flags: flags they will be given that neper does not know: it is not looked for then.
    :param search_path: directories, as in ``PATH``, to look for neper in when ``neper_dir`` is not given;
        by default the environment's ``PATH``. A directory counts when it holds both programs.
    :raises UsageError: when ``neper_dir`` lacks a program, or neper a flag.
    :raises MissingToolError: when there is no compiler.
    :raises TrafficError: when our programs cannot be compiled.
    """
    if neper_dir is not None:
        missing = [name for name in PROGRAMS if not _is_program(neper_dir / name)]
        if missing:
            raise UsageError(
                f"{neper_dir} has no program {' and no '.join(missing)}",
                hint="build neper there with make, or leave out --neper-dir to use zdlab's own tools",
            )
        if own_flags:
            raise UsageError(
                f"neper has no {' and no '.join(sorted(own_flags))}, which a workload's args name",
                hint="leave them out of the file, or leave out --neper-dir to use zdlab's own tools",
            )
        return _tools(neper_dir.resolve(), "neper")
    if own_flags:
        return compile_tools()
    if search_path is None:
        search_path = os.environ.get("PATH", "")
    for entry in search_path.split(os.pathsep):
        if entry and all(_is_program(Path(entry) / name) for name in PROGRAMS):
            return _tools(Path(entry).resolve(), "neper")
    return compile_tools()


def compile_tools(*, sanitize: bool = False, cache: Path | None = None) -> TrafficTools:
    """Compile our programs, or take them from the cache.

    :param sanitize: build with the address and undefined-behaviour sanitizers, for tests.
    :param cache: the directory to keep them in; by default zdlab's own cache.
    :raises MissingToolError: when there is no compiler.
    :raises TrafficError: when they do not compile; the message ends with the compiler's lines.
    """
    source = images_dir() / "traffic"
    compiler = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("cc")
    if compiler is None:
        raise MissingToolError("no C compiler for the traffic tools", hint="apt-get install gcc libc6-dev")
    flags = (*_FLAGS, *(_SANITIZERS if sanitize else ()))
    files = sorted([*source.glob("*.c"), *source.glob("*.h")])
    home = cache_dir("traffic") if cache is None else cache
    target = home / _key(files, flags, compiler)
    with FileLock(home / "lock", mode=0o600):
        if not all(_is_program(target / name) for name in PROGRAMS):
            _compile_into(target, source, compiler, flags)
    return _tools(target, "zdlab")


def _is_program(path: Path) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)  # noqa: PTH113 - False where one may not look


def _tools(directory: Path, origin: Origin) -> TrafficTools:
    sums = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in PROGRAMS}
    return TrafficTools(directory, origin, sums)


def _key(files: Iterable[Path], flags: Iterable[str], compiler: str) -> str:
    """Digest of all that decides what the compiler makes."""
    digest = hashlib.sha256()
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    for part in (compiler, version, platform.machine(), *flags):
        digest.update(f"{part}\0".encode())
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:24]


def _compile_into(target: Path, source: Path, compiler: str, flags: tuple[str, ...]) -> None:
    """Compile beside ``target`` and move into place, so that ``target`` is whole or absent."""
    common = sorted(path.name for path in source.glob("*.c") if path.stem not in PROGRAMS)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as made:
        directory = Path(made) / "out"
        directory.mkdir(mode=0o700)
        for name in PROGRAMS:
            # The working directory keeps the programs free of where the source lies.
            command = [compiler, *flags, "-o", str(directory / name), f"{name}.c", *common, "-lm"]
            try:
                done = subprocess.run(
                    command,
                    cwd=source,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=_COMPILE_SECONDS,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise TrafficError(f"cannot compile {name}: {error}") from error
            if done.returncode != 0:
                lines = done.stderr.strip().splitlines()[:20]
                raise TrafficError(
                    f"cannot compile {name}:\n" + "\n".join(lines),
                    hint="apt-get install gcc libc6-dev",
                )
        if target.exists():  # left by something that removed one of the programs
            shutil.rmtree(target)
        directory.rename(target)
