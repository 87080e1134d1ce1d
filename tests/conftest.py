"""What all tests share: the command as users run it, in directories of its own, and a look at what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOPOLOGIES = ROOT / "topologies"


class Sandbox:
    """The command with runtime and data directories of its own.

    Every process it starts, directly or not, inherits them, so that all of them can be found again.
    """

    def __init__(self, directory: Path) -> None:
        self.python = sys.executable
        self.runtime = directory / "run"
        self.data = directory / "data"
        for path in (self.runtime, self.data):
            path.mkdir(mode=0o700)
        self.environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_DATA_HOME": str(self.data),
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
        finished = subprocess.run(
            [*prefix, *self.argv(*arguments)],
            input=stdin,
            capture_output=True,
            env=self.environment,
            cwd=self.data,
            timeout=timeout,
            check=False,
        )
        return Done(finished.returncode, finished.stdout, finished.stderr)

    def start(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """Start a verb in a process group of its own, as a shell does."""
        return subprocess.Popen(
            self.argv(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            cwd=self.data,
            process_group=0,
        )

    def up(self, topology: str | Path, *arguments: str) -> None:
        """Bring a lab up; a topology's text becomes a file."""
        done = self.zdlab("up", self.file(topology), *arguments)
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
        """Return what is left: processes, and anything in the runtime directory."""
        return [f"{pid} {line}" for pid, line in self.processes().items()] + [
            str(path) for path in self.runtime.glob("zdlab/*")
        ]

    def await_nothing_left(self) -> None:
        """Give what was killed a moment to go; fail when something stays."""
        await_that(lambda: not self.left(), lambda: f"left behind: {self.left()}", seconds=5)

    def end(self) -> None:
        """Kill what still runs, so that one test's failure stays its own."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


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
