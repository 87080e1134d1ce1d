"""Labs from the outside: start one, reach its nodes, end it. Blocking; what scripts, tests and the CLI use."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from zdlab.errors import LabError, UsageError
from zdlab.guest.agent_client import RawSamples
from zdlab.lab.connection import Completed, Connection, LabProcess, restored
from zdlab.lab.launch import Launch, Shepherd, start_shepherd
from zdlab.lab.registry import LabInfo, claim, find_lab
from zdlab.lab.request import AcceleratorRequest, BootFiles, LabRequest
from zdlab.lab.shepherd import LOG, SOCKET
from zdlab.paths import runtime_dir
from zdlab.plan.outline import Outline

#: Takes what is being done.
Progress = Callable[[str], None]

_END_SECONDS: Final = 15.0


class Lab:
    """A running lab.

    :param info: as ``zdlab ps`` lists it.
    :param lifeline: the lab ends when this closes, until it is detached; ``None`` for one that was attached to.
    :param shepherd: its outermost process, when this process started it.
    """

    def __init__(
        self,
        info: LabInfo,
        lifeline: socket.socket | None = None,
        shepherd: Shepherd | None = None,
    ) -> None:
        self.info = info
        self._lifeline = lifeline
        self._shepherd = shepherd
        self._directory = runtime_dir() / info.name

    @property
    def name(self) -> str:
        """Name of the lab."""
        return self.info.name

    @classmethod
    def start(
        cls,
        outline: Outline,
        boot: Mapping[str, BootFiles],
        *,
        name: str | None = None,
        topology: str = "",
        accelerator: AcceleratorRequest | None = None,
        progress: Progress | None = None,
        launch: Launch = start_shepherd,
        capsule: bool = False,
    ) -> Lab:
        """Build a lab and return when all its nodes are ready. It ends with this process, however that ends.

        :param boot: what each machine boots from (:func:`zdlab.lab.resources.boot_files`).
        :param name: the outline's when ``None``.
        :param topology: the file it is made from.
        :param launch: how its outermost process is started.
        :param capsule: the computer is a capsule.
        :raises ZdlabError: when it cannot be built; nothing is left of it then.
        """
        chosen = outline.name if name is None else name
        directory, lock = claim(chosen)
        request = LabRequest(
            name=chosen,
            directory=directory,
            topology=str(Path(topology).resolve()) if topology else "",
            nodes=tuple(outline.kinds),
            kinds=outline.kinds,
            places=outline.places,
            ends=outline.ends,
            operations=outline.operations,
            boot=dict(boot),
            accelerator=accelerator,
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            capsule=capsule,
        )
        ours, shepherd = _start_shepherd(request, lock, launch)
        try:
            _await_ready(ours, directory, progress or (lambda _text: None))
        except BaseException:
            ours.close()
            _await_gone(directory)
            shepherd.wait(_END_SECONDS)
            raise
        return cls(find_lab(chosen), ours, shepherd)

    @classmethod
    def attach(cls, name: str | None = None) -> Lab:
        """Return a lab that runs, by name or as the only one.

        :raises UsageError: when there is none.
        """
        return cls(find_lab(name))

    def __enter__(self) -> Lab:
        """Return the lab."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the lab."""
        self.down()

    def status(self) -> dict[str, Any]:
        """Return the state of the lab and its nodes."""
        with self._connect("status", {}) as connection:
            return connection.reply()

    def detach(self) -> None:
        """Let the lab outlive this process.

        :raises ZdlabError: when it is gone.
        """
        with self._connect("detach", {}) as connection:
            connection.reply()
        self._close_lifeline()

    def down(self) -> None:
        """End the lab and return when nothing is left of it; fine when it is gone already.

        :raises LabError: when it does not end.
        """
        with contextlib.suppress(UsageError, LabError), self._connect("down", {}) as connection:
            connection.reply()
        self._close_lifeline()
        _await_gone(self._directory)
        if self._shepherd is not None:
            self._shepherd.wait(_END_SECONDS)
            self._shepherd = None

    def spawn(
        self,
        node: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        terminal: tuple[int, int] | None = None,
        on_stdout: Callable[[bytes], None] | None = None,
    ) -> LabProcess:
        """Start a program in a node.

        :param terminal: rows and columns of a terminal of its own.
        :raises LabError: when it cannot be started.
        """
        header = {"node": node, "argv": list(argv), "env": dict(env or {}), "cwd": cwd, "terminal": terminal}
        return LabProcess(self._connect("exec", header), on_stdout)

    def run(
        self,
        node: str,
        argv: Sequence[str],
        *,
        input: bytes = b"",  # noqa: A002 - as in subprocess.run
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
    ) -> Completed:
        """Run a program in a node to its end.

        :raises LabError: when it cannot be started.
        :raises TimeoutError: when it still runs after ``timeout`` seconds; it is killed.
        """
        process = self.spawn(node, argv, env=env, cwd=cwd)
        try:
            process.write(input)
            process.close_stdin()
            return process.wait(timeout)
        finally:
            process.kill()

    def open(self, verb: str, header: Mapping[str, Any]) -> Connection:
        """Return a connection for a verb that streams (``exec``, ``console``), for interactive use."""
        return self._connect(verb, header)

    def put_file(self, node: str, path: str, data: bytes, mode: int = 0o600) -> None:
        """Write a file in a node."""
        with self._connect("put", {"node": node, "path": path, "mode": mode}, data) as connection:
            connection.reply()

    def get_file(self, node: str, path: str) -> bytes:
        """Read a file of a node."""
        with self._connect("get", {"node": node, "path": path}) as connection:
            connection.reply()
            return connection.all_bytes()

    def counters(self, node: str) -> dict[str, Any]:
        """Return one snapshot of all a node counts."""
        with self._connect("counters", {"node": node}) as connection:
            return connection.reply()

    def start_sampling(self, node: str, interval_ns: int) -> None:
        """Begin to take samples in a node."""
        with self._connect("sample", {"node": node, "interval_ns": interval_ns}) as connection:
            connection.reply()

    def stop_sampling(self, node: str) -> RawSamples:
        """End sampling in a node and return the samples."""
        with self._connect("samples", {"node": node}) as connection:
            header = connection.reply()["header"]
            return RawSamples(header, connection.all_bytes())

    def console_log(self, machine: str) -> bytes:
        """Return what a machine's console printed."""
        with self._connect("logs", {"node": machine}) as connection:
            connection.reply()
            return connection.all_bytes()

    def supervisor_log(self) -> str:
        """Return what the supervisor had to say."""
        return _log(self._directory)

    def _close_lifeline(self) -> None:
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None

    def _connect(self, verb: str, header: Mapping[str, Any], data: bytes = b"") -> Connection:
        return Connection(self._directory / SOCKET, verb, header, data)


def _start_shepherd(request: LabRequest, lock: int, launch: Launch) -> tuple[socket.socket, Shepherd]:
    ours, theirs = socket.socketpair()
    try:
        shepherd = launch(theirs, lock)
    finally:
        theirs.close()
        os.close(lock)
    with contextlib.suppress(BrokenPipeError):
        ours.sendall(pickle.dumps(request))
    return ours, shepherd


def _await_ready(channel: socket.socket, directory: Path, progress: Progress) -> None:
    with channel.makefile("rb") as stream:
        for line in stream:
            message = json.loads(line)
            if "progress" in message:
                progress(message["progress"])
            elif "error" in message:
                raise restored(message["error"])
            elif "failed" in message:
                raise LabError(message["failed"], hint=message["hint"])
            elif "ready" in message:
                return
    said = _log(directory)
    raise LabError(
        "the lab's supervisor died while building it" + (f":\n{said}" if said else ""),
        hint="if nobody killed it, this is a bug in zdlab",
    )


def _await_gone(directory: Path) -> None:
    deadline = time.monotonic() + _END_SECONDS
    while directory.exists():
        if time.monotonic() > deadline:
            raise LabError(f"the lab {directory.name} does not end", hint="zdlab ps shows its supervisor's pid")
        time.sleep(0.01)


def _log(directory: Path) -> str:
    try:
        return (directory / LOG).read_text(errors="replace")[-4000:].strip()
    except OSError:
        return ""
