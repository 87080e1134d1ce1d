"""What a guest's initramfs holds, gathered from the computer's own programs and their libraries."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zdlab.errors import ImageError, MissingToolError
from zdlab.guest.image import cpio, gather
from zdlab.paths import images_dir

#: Debian's own interpreter: one from elsewhere may need libraries and paths an image does not have.
PYTHON: Final = Path("/usr/bin/python3")
#: Programs a guest has beside BusyBox, and the Debian package each comes from.
PROGRAMS: Final[Mapping[str, str]] = {
    "bash": "bash",
    "bridge": "iproute2",
    "ethtool": "ethtool",
    "ip": "iproute2",
    # Not BusyBox's, which would run its own applets in place of the programs above.
    "sh": "dash",
    "ss": "iproute2",
    "tc": "iproute2",
}
#: Data of tc: the shapes of delay that netem knows by name.
_TC_DATA: Final = "lib/*/tc/*.dist"
#: Threads load it when they end; nothing links with it.
_THREAD_LIBRARY: Final = "libgcc_s.so.1"
#: What a capsule runs, and the packages of others that needs, all of them pure Python.
_CAPSULE: Final = "zdlab.capsule.inside"
_PACKAGES: Final = ("platformdirs", "pyroute2", "qemu.qmp")
_SYSTEM_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
_TEXTS: Final[Mapping[str, str]] = {
    # tcpdump gives its rights up for those of a user of its name.
    "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\ntcpdump:x:100:100::/:/bin/false\n",
    "/etc/group": "root:x:0:\ntcpdump:x:100:\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "/etc/profile": "PS1='\\h:\\w# '\n",
}


@dataclass(frozen=True)
class Contents:
    """Everything in an image.

    :param entries: by path in the guest.
    :param inputs: the files of the computer it was made from.
    """

    entries: Mapping[str, cpio.Entry]
    inputs: frozenset[Path]


def system_program(name: str, package: str) -> Path:
    """Return the path of a program of the computer.

    :raises MissingToolError: when it is not installed.
    """
    found = shutil.which(name, path=_SYSTEM_PATH)
    if found is None:
        raise MissingToolError(f"the program {name} is missing", hint=f"apt-get install {package}")
    return Path(found)


def sources() -> dict[str, Path]:
    """Return the programs of the computer that go into every image, by their path in the guest.

    :raises MissingToolError: when one is not installed.
    """
    programs = {f"/usr/bin/{name}": system_program(name, package) for name, package in PROGRAMS.items()}
    programs["/usr/bin/busybox"] = system_program("busybox", "busybox-static")
    programs["/usr/bin/python3"] = system_program("python3", "python3")
    return programs


def contents(extra: Mapping[str, Path], *, capsule: bool = False) -> Contents:
    """Return everything in the image.

    :param extra: further files, by their path in the guest; programs come with their libraries.
    :param capsule: with the engine itself, so that the guest can build labs and run trials.
    :raises MissingToolError: when a program of the computer is missing.
    :raises ImageError: when something cannot be read or compiled.
    """
    gathered = _Gathered()
    gathered.entries |= {
        "/dev/console": cpio.character_device(5, 1),
        "/root": cpio.directory(0o700),
        "/lib": cpio.symlink("usr/lib"),
        "/lib64": cpio.symlink("usr/lib64"),
        "/bin": cpio.symlink("usr/bin"),
        "/sbin": cpio.symlink("usr/bin"),
        "/usr/sbin": cpio.symlink("bin"),
    }
    gathered.entries |= {path: cpio.file(text.encode()) for path, text in _TEXTS.items()}
    for path, source in sources().items():
        gathered.add(path, source)
    for source in sorted(Path("/usr").glob(_TC_DATA)):
        gathered.add(str(source), source)
    for path, source in extra.items():
        gathered.add(path, source)
    _add_python(gathered, capsule=capsule)
    _add_init(gathered)
    gathered.add_libraries()
    _add_busybox_links(gathered)
    return Contents(gathered.entries, frozenset(gathered.inputs))


class _Gathered:
    """What has been found so far."""

    def __init__(self) -> None:
        self.entries: dict[str, cpio.Entry] = {}
        self.inputs: set[Path] = set()
        self._programs: list[Path] = []

    def add(self, path: str, source: Path) -> None:
        """Add a file; one that is executable stays so, and a program's libraries are remembered."""
        data = self.read(source)
        executable = os.access(source, os.X_OK)
        self.entries[path] = cpio.file(data, 0o755 if executable else 0o644)
        if data.startswith(b"\x7fELF"):
            self._programs.append(source)

    def read(self, source: Path) -> bytes:
        """Return a file's content.

        :raises ImageError: when it cannot be read.
        """
        self.inputs.add(source)
        try:
            return source.read_bytes()
        except OSError as error:
            raise ImageError(f"cannot read {source}: {error.strerror}", hint="it belongs in the image") from error

    def add_libraries(self) -> None:
        """Add the shared libraries that programs need."""
        for library in _libraries(self._programs):
            path = _guest_library(library)
            self.entries.setdefault(path, cpio.file(self.read(library), 0o755))


def _guest_library(path: Path) -> str:
    """Return where a library goes: below /usr, as merged systems have it."""
    text = str(path)
    return text if text.startswith("/usr/") else f"/usr{text}"


def _libraries(programs: Iterable[Path]) -> list[Path]:
    """Return the shared libraries programs need, the dynamic linker included, under the names they ask for."""
    found: set[Path] = set()
    for program in programs:
        # ldd runs the dynamic linker on the program; these are the computer's own, not a stranger's.
        result = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
        for line in result.stdout.splitlines():
            name, arrow, target = line.strip().partition(" => ")
            path = (target if arrow else name).split(" (")[0].strip()
            if path == "not found":
                raise ImageError(f"{program} needs {name}, which is not installed", hint="apt-file search it")
            if path.startswith("/"):
                found.add(Path(path))
    libc = next((path for path in found if path.name == "libc.so.6"), None)
    if libc is not None and (libc.parent / _THREAD_LIBRARY).exists():
        found.add(libc.parent / _THREAD_LIBRARY)
    return sorted(found)


def _add_init(gathered: _Gathered) -> None:
    source = images_dir() / "init" / "init.c"
    gathered.read(source)
    compiler = system_program("gcc", "build-essential")
    gathered.inputs.add(compiler)
    with tempfile.TemporaryDirectory(prefix="zdlab-init-") as directory:
        target = Path(directory) / "init"
        command = [str(compiler), "-static", "-O2", "-Wall", "-Wextra", "-s", "-Wl,--build-id=none"]
        try:
            result = subprocess.run(
                [*command, "-o", str(target), str(source)], capture_output=True, text=True, check=False
            )
            if result.returncode:
                raise ImageError(f"init does not compile:\n{result.stderr}")
            gathered.entries["/init"] = cpio.file(target.read_bytes(), 0o755)
            library = subprocess.run(
                [str(compiler), "-print-file-name=libc.a"], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise ImageError(f"init cannot be compiled: {error}", hint="apt-get install build-essential") from error
    gathered.inputs.add(Path(library.stdout.strip()))


def _add_busybox_links(gathered: _Gathered) -> None:
    """Add a link for each of BusyBox's commands that nothing better provides."""
    program = system_program("busybox", "busybox-static")
    try:
        listed = subprocess.run([str(program), "--list"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ImageError(f"{program} does not run: {error}", hint="apt-get install busybox-static") from error
    for name in listed.stdout.split():
        if name not in {"busybox", "init", "linuxrc"}:
            gathered.entries.setdefault(f"/usr/bin/{name}", cpio.symlink("busybox"))


def package_directories() -> list[Path]:
    """Return where the packages of others lie that a capsule needs.

    :raises ImageError: when one is not installed.
    """
    found = []
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise ImageError(f"the Python package {name} is missing", hint=f"pip install {name}")
        found.append(Path(spec.submodule_search_locations[0]).parents[name.count(".")])
    return list(dict.fromkeys(found))


def _add_python(gathered: _Gathered, *, capsule: bool) -> None:
    """Add the agent and the part of Python's standard library that it, and small scripts, need, compiled."""
    script = Path(gather.__file__)
    # Isolated, and with modules that are otherwise frozen loaded from their files, where they can be found.
    command = [str(PYTHON), "-I", "-S", "-B", "-X", "frozen_modules=off", str(script), str(script.parents[3])]
    command += [_CAPSULE, "--", *map(str, package_directories())] if capsule else ["--"]
    environment = {"PATH": _SYSTEM_PATH, "LC_ALL": "C.UTF-8"}
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    except OSError as error:
        raise ImageError(f"cannot run {PYTHON}: {error.strerror}", hint="apt-get install python3") from error
    if result.returncode:
        raise ImageError(f"{PYTHON} cannot load the agent:\n{result.stderr}")
    found = json.loads(result.stdout)
    for path, data in found["files"].items():
        gathered.entries[path] = cpio.file(base64.b64decode(data))
    for path in map(Path, found["inputs"]):
        gathered.inputs.add(path)
        if path.suffix == ".so":
            gathered.add(str(path), path)
    gathered.entries[f"{found['library']}/lib-dynload"] = cpio.directory()
    for package in (f"{gather.AGENT_ROOT}/{name}" for name in gather.BARE):
        if any(path.startswith(f"{package}/") for path in found["files"]):
            gathered.entries[f"{package}/__init__.py"] = cpio.file(b"")
    for name in ("start.py", "capsule.py") if capsule else ("start.py",):
        start = images_dir() / "init" / name
        gathered.entries[f"{gather.AGENT_ROOT}/{name}"] = cpio.file(gathered.read(start))
