"""What all tests share: the command as users run it, in directories of its own, and a look at what it leaves."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.emulator import ATTEMPTS, emulator_failed

ROOT = Path(__file__).resolve().parents[1]
TOPOLOGIES = ROOT / "topologies"
NOBODY = 65534
_PR_SET_CHILD_SUBREAPER = 36
_OWN_NET = str(Path("/proc/self/ns/net").readlink())


def shell_line(words: str, python: str = sys.executable) -> str:
    """Return a line of shell in which the word ``zdlab``, not a path with that name in it, is the command."""
    return re.sub(r"(?<!\S)zdlab(?!\S)", f"{python} -m zdlab", words)


class Sandbox:
    """The command with runtime and data directories of its own.

    Every process it starts, directly or not, inherits them, so that all of them can be found again. Those that do not
    (programs may drop their environment) are found by their descent: this process adopts orphans. Whatever is looked
    for is this sandbox's alone, so that tests may run side by side.
    """

    def __init__(self, directory: Path) -> None:
        adopt_orphans()
        self._before = {(pid, started(pid)) for pid in descendants()}
        self.python = sys.executable
        self.runtime = directory / "run"
        self.data = directory / "data"
        self.temporary = directory / "tmp"
        for path in (self.runtime, self.data, self.temporary):
            path.mkdir(mode=0o700)
        self.environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_DATA_HOME": str(self.data),
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
        }

    def argv(self, *arguments: str | Path) -> list[str]:
        """Return the command line of a verb."""
        return [self.python, "-m", "zdlab", *map(str, arguments)]

    def zdlab(
        self, *arguments: str | Path, stdin: bytes = b"", timeout: float = 240, prefix: tuple[str, ...] = ()
    ) -> Done:
        """Run a verb to its end."""
        return self._finished([*prefix, *self.argv(*arguments)], stdin, timeout)

    def shell(self, line: str, timeout: float = 60) -> Done:
        """Run a line of bash in which ``zdlab`` is the command: for redirections."""
        return self._finished(["/bin/bash", "-c", shell_line(line, self.python)], b"", timeout)

    def _finished(self, argv: list[str], stdin: bytes, timeout: float) -> Done:
        finished = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            env=self.environment,
            cwd=self.data,
            timeout=timeout,
            check=False,
        )
        return Done(finished.returncode, finished.stdout, finished.stderr)

    def start(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """Start a verb in a process group of its own and with the usual signals, as a shell does.

        The tests may run under ``nohup``, or in the background of a script.
        """
        return subprocess.Popen(
            ["/usr/bin/env", "--default-signal=HUP,INT,TERM", *self.argv(*arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            cwd=self.data,
            process_group=0,
        )

    def up(self, topology: str | Path, *arguments: str) -> None:
        """Bring a lab up; a topology's text becomes a file."""
        for _ in range(ATTEMPTS):
            done = self.zdlab("up", self.file(topology), *arguments)
            if not done.status or not emulator_failed(done.err.splitlines()):
                break
        assert done.status == 0, done.err

    def file(self, topology: str | Path) -> Path:
        """Return the file of a topology."""
        if isinstance(topology, Path):
            return topology
        path = self.data / "topology.yaml"
        path.write_text(topology)
        return path

    def processes(self) -> dict[int, str]:
        """Return the command lines, by process id, of everything that was started here and still runs."""
        mark = f"XDG_RUNTIME_DIR={self.runtime}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return found

    def pid_of(self, words: str) -> int:
        """Return the process id of the one process whose command line contains the words."""
        found = [pid for pid, line in self.processes().items() if words in line]
        assert len(found) == 1, f"{words}: {self.processes()}"
        return found[0]

    def supervisor(self) -> int:
        """Return the process id of the only lab's supervisor."""
        (lab,) = self.zdlab("ps", "-o", "json").json()
        return int(lab["pid"])

    def left(self) -> list[str]:
        """Return what is left: processes, with namespaces they hold, and anything in directories for passing use."""
        processes = {**descendants(), **self.processes()}
        found = [f"{pid} {line}" for pid, line in processes.items() if (pid, started(pid)) not in self._before]
        return found + [str(path) for path in (*self.runtime.glob("zdlab/*"), *self.temporary.iterdir())]

    def await_nothing_left(self) -> None:
        """Give what was killed a moment to go; fail when something stays."""
        await_that(lambda: not self.left(), lambda: f"left behind: {self.left()}", seconds=5)

    def end(self) -> None:
        """Kill what still runs, so that one test's failure stays its own."""
        for pid in {**descendants(), **self.processes()}:
            if (pid, started(pid)) not in self._before:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def adopt_orphans() -> None:
    """Have processes whose parents end become children of this one rather than of init."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def started(pid: int) -> str:
    """Return when a process was started, which tells it from a later one of the same number; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def descendants() -> dict[int, str]:
    """Return all processes below this one that have not ended: command line, and network namespace if of their own."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE:
                namespace = str(Path(f"/proc/{process.pid}/ns/net").readlink())
                found[process.pid] = " ".join(process.cmdline()) + (f" in {namespace}" if namespace != _OWN_NET else "")
    return found


class Done:
    """A verb that ended."""

    def __init__(self, status: int, stdout: bytes, stderr: bytes) -> None:
        self.status = status
        self.stdout = stdout
        self.out = stdout.decode("utf-8", "replace")
        self.err = stderr.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return what it printed as JSON."""
        assert self.status in {0, 1, 4}, self.err
        return json.loads(self.out)


def await_that(condition: Callable[[], bool], complaint: Callable[[], str], *, seconds: float = 30) -> None:
    """Wait until something holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, complaint()
        time.sleep(0.02)


def computer() -> dict[str, list[str]]:
    """Return what a lab must not touch: the computer's interfaces, namespaces with names, and mounts."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout.splitlines()
    names = Path("/run/netns")
    return {
        "links": [line.partition(": <")[0] for line in links],
        "namespaces": sorted(path.name for path in names.iterdir()) if names.is_dir() else [],
        "mounts": Path("/proc/self/mounts").read_text().splitlines(),
    }


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """The command; after the test nothing of it may be left, and the computer must be as it was."""
    before = computer()
    made = Sandbox(tmp_path)
    try:
        yield made
        made.zdlab("down", "--all")
        made.await_nothing_left()
        assert computer() == before
    finally:
        made.end()


def bash_completes(directory: Path, words: list[str], environment: dict[str, str]) -> list[str]:
    """Return what bash makes of the last word of a command line of zdlab's.

    :param directory: where a program ``zdlab`` is put, and where bash runs.
    """
    program = directory / "zdlab"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m zdlab "$@"\n')
    program.chmod(0o755)
    script = (
        'source <(zdlab completion bash); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        "_zdlab_completion zdlab; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        ["/bin/bash", "--norc", "-c", script, "bash", "zdlab", *words],
        env={**environment, "PYTHONPATH": str(ROOT), "PATH": f"{directory}:{os.environ['PATH']}"},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


def without(setup: str) -> tuple[str, ...]:
    """Return the beginning of a command line that runs the rest where something is different.

    :param setup: shell commands, run in a mount namespace of their own.
    """
    return ("unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{setup}\nexec "$@"', "sh")


@pytest.fixture
def stranger() -> Iterator[Sandbox]:
    """The command as a user who is not root, with a copy of zdlab that such a user can read.

    Debian's own interpreter runs it: a virtual environment may be where only root can go.
    """
    home = Path(tempfile.mkdtemp(prefix="zdlab-test-"))
    home.chmod(0o755)
    for part in ("zdlab", "images"):
        shutil.copytree(ROOT / part, home / part, ignore=shutil.ignore_patterns("__pycache__"))
    (home / "site").mkdir()
    made = Sandbox(home)
    made.python = "/usr/bin/python3"
    made.environment |= {
        "PYTHONPATH": f"{home}:{home / 'site'}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
    }
    for path in [home, *home.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
    try:
        yield made
        made.await_nothing_left()
    finally:
        made.end()
        shutil.rmtree(home)


def as_nobody(stranger: Sandbox, setup: str = "true") -> tuple[str, ...]:
    """Return the beginning of a command line that runs the rest as a user who is not root."""
    packages = sysconfig.get_path("platlib")
    identity = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs")
    return (*without(f"mount --bind {packages} {stranger.data.parent / 'site'}\n{setup}"), *identity)


def answers_on_its_console(sandbox: Sandbox, machine: str) -> None:
    """See that a machine's console gives a shell to who presses Enter."""
    command = sandbox.argv("console", machine)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=sandbox.environment, cwd=sandbox.data
    ) as console:
        assert console.stdin is not None
        assert console.stdout is not None
        seen = b""
        for line in (b"\n", b"echo answer-$((40 + 2))\n"):
            console.stdin.write(line)
            console.stdin.flush()
            time.sleep(1)
        while b"answer-42" not in seen:
            piece = os.read(console.stdout.fileno(), 4096)
            assert piece, seen
            seen += piece
        console.kill()
