"""Building guest kernels: cached by content, reproducible, with progress, failing with the compiler's own lines."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from zdlab.errors import KernelBuildError, MissingToolError, UsageError
from zdlab.guest.kernels.inspect import KernelFile, inspect_kernel
from zdlab.guest.kernels.registry import KernelRecipe, recipe
from zdlab.guest.kernels.source import Source, debian_source, prepare_tree, user_source
from zdlab.paths import cache_dir

#: Takes what is being done, and how much of it is done (0 to 1), ``None`` where nobody knows.
Progress = Callable[[str, float | None], None]

#: Changes whenever the way a kernel is built does.
_FORMAT: Final = "2"
#: Steps make prints for a kernel of this size; only the progress shown depends on it.
_USUAL_STEPS: Final = 2000
_STEP: Final = re.compile(r"^\s+(CC|AS|LD|AR|HOSTCC|GEN|OBJCOPY|VDSO|LDS)\s")
_COMPLAINT: Final = re.compile(
    r"error|undefined reference|\*\*\*|No such file|No space left|not found|warning: \(", re.IGNORECASE
)
#: Fixed so that equal inputs give equal bytes (Documentation/kbuild/reproducible-builds.rst).
_REPRODUCIBLE: Final = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "zdlab",
    "KBUILD_BUILD_HOST": "zdlab",
    "KBUILD_BUILD_VERSION": "1",
    "LOCALVERSION": "",
    "LC_ALL": "C",
    "TZ": "UTC",
}
#: What ccache has not seen it need not run the preprocessor on first: make writes each file's dependencies anyway.
_CCACHE: Final = {"CCACHE_DEPEND": "1"}
#: What a build may see of the caller's environment: anything else could change the result.
_PASSED_ON: Final = {"PATH", "HOME", "TMPDIR", "CCACHE_DIR", "CCACHE_DISABLE"}


def built_dir() -> Path:
    """Return the directory of finished kernels: one directory for each, named ``NAME-KEY``."""
    return cache_dir("kernels", "built")


def tree_lock(work: str) -> FileLock:
    """Return the lock of a source tree in the cache."""
    return FileLock(cache_dir("kernels") / f"{work}.lock")


def kernel_key(
    name: str, source_dir: Path | None = None, patches: Sequence[Path] = ()
) -> tuple[str, KernelRecipe, Source]:
    """Return what names the kernel's content in the cache: source, configuration, patches and compiler.

    :param patches: of the user's, on top of the kernel's own.
    :raises UsageError: when the registry has no such kernel, or a patch cannot be read.
    :raises MissingToolError: when source or compiler are not installed.
    """
    chosen = recipe(name)
    chosen = replace(chosen, patches=(*chosen.patches, *map(_readable, patches)))
    source = debian_source(chosen.source) if source_dir is None else user_source(source_dir)
    digest = hashlib.sha256(f"{_FORMAT}\0{source.key}\0{_version('gcc')}\0{_version('ld')}".encode())
    for path in (*chosen.config, *chosen.patches):
        digest.update(b"\0" + path.read_bytes())
    return f"{name}-{digest.hexdigest()[:16]}", chosen, source


def _readable(patch: Path) -> Path:
    """Return a patch's absolute path."""
    try:
        patch.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the patch {patch}: {error.strerror}", hint="name a file") from error
    return patch.resolve()


def build_kernel(
    name: str,
    *,
    source_dir: Path | None = None,
    patches: Sequence[Path] = (),
    progress: Progress | None = None,
) -> KernelFile:
    """Return a kernel of the registry, built unless the cache has it.

    Its directory also holds ``config`` and ``build.log``.

    :param source_dir: a kernel tree to build instead of Debian's; it is copied, never written to.
    :param patches: of the user's, applied in this order after the kernel's own.
    :raises KernelBuildError: when it does not build; carries the compiler's lines.
    """
    report = progress or (lambda _text, _fraction: None)
    report("looking at the source", None)
    key, chosen, source = kernel_key(name, source_dir, patches)
    target = built_dir() / key
    if not (target / "bzImage").is_file():
        with _locked(source, report):
            if not (target / "bzImage").is_file():  # another process may have built it while this one waited
                _build(source, chosen, target, report)
    return inspect_kernel(target / "bzImage", target / "config")


@contextlib.contextmanager
def _locked(source: Source, report: Progress) -> Iterator[None]:
    lock = tree_lock(source.work)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report("waiting for another build from this source", None)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _build(source: Source, chosen: KernelRecipe, target: Path, report: Progress) -> None:
    report("preparing the source", None)
    tree = prepare_tree(source, chosen.patches)
    # Named after the fragments, not their content: make knows what a changed configuration changes.
    objects = tree.parent / "-".join(["objects", *(path.stem for path in chosen.config)])
    try:
        objects.mkdir(exist_ok=True)
        with (objects / "build.log").open("w") as log:
            report("configuring", None)
            configure(tree, objects, chosen.config, log.write)
            _compile(tree, objects, report, log.write)
    except OSError as error:
        raise KernelBuildError(f"cannot write to {objects}: {error.strerror}", hint="check the free space") from error
    report("storing", 1.0)
    _publish(objects, target)


def _version(program: str) -> str:
    try:
        result = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise MissingToolError(f"the program {program} is missing", hint="apt-get install build-essential") from error
    return result.stdout.splitlines()[0]


def configure(tree: Path, objects: Path, fragments: Sequence[Path], log: Callable[[str], object]) -> None:
    """Write ``.config``: what the fragments say, nothing of what they leave open.

    :raises KernelBuildError: when the source does not take what a fragment says.
    """
    text = "".join(path.read_text(encoding="utf-8") + "\n" for path in fragments)
    merged = objects / "zdlab.config"
    merged.write_text(text)
    _make(tree, objects, (f"KCONFIG_ALLCONFIG={merged}", "allnoconfig"), log)
    have = dict(_settings((objects / ".config").read_text()))
    refused = [f"{name}={value}" for name, value in dict(_settings(text)).items() if have.get(name, "n") != value]
    if refused:
        raise KernelBuildError(
            f"the source does not take {', '.join(refused)}",
            hint="name what these symbols depend on in the fragment, or use a source that has them",
        )


def _settings(text: str) -> Iterator[tuple[str, str]]:
    for match in re.finditer(r"^(?:(CONFIG_\w+)=(.*)|# (CONFIG_\w+) is not set)$", text, re.MULTILINE):
        yield (match[1], match[2]) if match[1] else (match[3], "n")


def _compile(tree: Path, objects: Path, report: Progress, log: Callable[[str], object]) -> None:
    # Where objects are there already, only make knows how many of them it will make again.
    fresh = not (objects / "vmlinux").exists()
    steps = 0

    def line_came(line: str) -> None:
        nonlocal steps
        log(line)
        if _STEP.match(line):
            steps += 1
            report(f"compiling {line.rsplit(maxsplit=1)[-1]}", min(0.99, steps / _USUAL_STEPS) if fresh else None)

    _make(tree, objects, (f"-j{len(os.sched_getaffinity(0))}", "bzImage"), line_came)


def _make(tree: Path, objects: Path, arguments: Sequence[str], line_came: Callable[[str], object]) -> None:
    """Run make and hand over its lines as they come.

    :raises KernelBuildError: when make fails; carries the lines that say why.
    """
    environment = {name: value for name, value in os.environ.items() if name in _PASSED_ON} | _REPRODUCIBLE | _CCACHE
    compiler = "ccache gcc" if shutil.which("ccache") else "gcc"
    flags = f"-ffile-prefix-map={tree}=. -ffile-prefix-map={objects}=."
    command = ["make", "-C", str(tree), f"O={objects}", f"CC={compiler}", f"KCFLAGS={flags}", f"KAFLAGS={flags}"]
    lines: deque[str] = deque(maxlen=2000)
    try:
        process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
        )
    except OSError as error:
        raise MissingToolError("the program make is missing", hint="apt-get install build-essential") from error
    with process:
        assert process.stdout is not None  # noqa: S101 - Popen was given a pipe
        try:
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                line_came(line)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise KernelBuildError(
            f"make {arguments[-1]} failed", output=_complaint(lines), hint=f"the whole log: {objects / 'build.log'}"
        )


def _complaint(lines: Iterable[str]) -> list[str]:
    """Return what make and compiler said from the first complaint on; the last lines when none is recognised."""
    said = [line for line in lines if not _STEP.match(line)]
    first = next((number for number, line in enumerate(said) if _COMPLAINT.search(line)), max(0, len(said) - 20))
    return said[first : first + 40]


def _publish(objects: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        shutil.copyfile(objects / "arch/x86/boot/bzImage", partial / "bzImage")
        shutil.copyfile(objects / ".config", partial / "config")
        shutil.copyfile(objects / "build.log", partial / "build.log")
        partial.rename(target)
    except OSError as error:
        raise KernelBuildError(f"cannot write {target}: {error.strerror}", hint="check the free space") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
