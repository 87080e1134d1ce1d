"""A run's directory.

``run.json`` says what was run with what; ``trials.jsonl.gz`` holds the record of every trial (a gzip member a line,
so that a broken end loses one trial at most); a directory for each trial, like ``0003-stock``, holds its series
(``samples.jsonl.gz``), what its traffic tools wrote and its consoles; ``results.sqlite`` holds the figures, for
questions. A trial stands in the database only when all else of it is on disk.
"""

from __future__ import annotations

import gzip
import json
import secrets
import shutil
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from zdlab.errors import InfrastructureError, UsageError
from zdlab.experiment.model import Slot, Trial
from zdlab.measure.queues import Queue
from zdlab.paths import results_dir

RUN: Final = "run.json"
TRIALS: Final = "trials.jsonl.gz"
DATABASE: Final = "results.sqlite"

#: What the description of any run has.
_NEEDED: Final = {
    "experiment": str,
    "topology_file": str,
    "topology": str,
    "arms": list,
    "blocks": int,
    "seed": int,
    "provenance": dict,
}
#: What a gzip member begins with here: no name, no time (RFC 1952).
_MEMBER: Final = bytes.fromhex("1f8b080000000000")
_PIECE: Final = 1 << 16

_SCHEMA: Final = """
create table if not exists trials (
    number integer primary key, block integer not null, arm text not null, seed integer not null,
    state text not null, error text not null, accelerators text not null, seconds real not null
);
create table if not exists metrics (
    trial integer not null references trials (number), node text not null, name text not null, value real not null,
    primary key (trial, node, name)
);
create table if not exists lost (
    trial integer not null references trials (number), place text not null, packets integer not null,
    primary key (trial, place)
);
create table if not exists queues (
    trial integer not null references trials (number), node text not null, interface text not null,
    handle text not null, kind text not null, size integer not null, unit text not null, frame integer not null,
    peak integer not null, drops integer not null, full_after_s real,
    primary key (trial, node, interface, handle)
);
"""


class RunStore:
    """One run on disk; a :class:`zdlab.experiment.run.TrialSink`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def create(cls, experiment: str, description: Mapping[str, Any], base: Path | None = None) -> RunStore:
        """Make the directory of a new run.

        :raises InfrastructureError: when it cannot be written.
        """
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        directory = (base or results_dir()) / f"{stamp}-{experiment}-{secrets.token_hex(2)}"
        store = cls(directory)
        try:
            directory.mkdir(mode=0o700, parents=True)
            (directory / RUN).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
            with store._database() as database:
                database.executescript(_SCHEMA)
        except (NotADirectoryError, PermissionError) as error:
            problem = f"cannot write the results in {directory}: {error.strerror}"
            raise InfrastructureError(problem, hint="name another directory with --results") from error
        except (OSError, sqlite3.Error) as error:
            raise _unwritable(directory, error) from error
        return store

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.directory.name

    def description(self) -> dict[str, Any]:
        """Return what was run with what.

        :raises InfrastructureError: when it is not readable.
        """
        try:
            found = json.loads((self.directory / RUN).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InfrastructureError(f"the run {self.name} is not readable: {error}") from error
        values = found if isinstance(found, dict) else {}
        for key, kind in _NEEDED.items():
            if not isinstance(values.get(key), kind):
                raise InfrastructureError(f"the run {self.name} is not readable: {RUN} has no {key} as runs have it")
        return values

    def amend(self, **values: Any) -> None:
        """Add to what is recorded of the run.

        :raises InfrastructureError: when it cannot be written.
        """
        partial = self.directory / f"{RUN}.partial"
        try:
            partial.write_text(json.dumps({**self.description(), **values}, indent=1) + "\n", encoding="utf-8")
            partial.replace(self.directory / RUN)
        except OSError as error:
            raise _unwritable(self.directory, error) from error

    def add(self, trial: Trial) -> None:
        """Keep a trial.

        :raises InfrastructureError: when the disk is full or not writable; earlier trials stay readable.
        """
        record = trial_record(trial)
        line = gzip.compress(json.dumps(record, separators=(",", ":")).encode() + b"\n", mtime=0)
        try:
            self._write_files(trial)
            _append(self.directory / TRIALS, line)
            with self._database() as database:
                _insert(database, trial)
        except (OSError, sqlite3.Error) as error:
            raise _unwritable(self.directory, error) from error

    def _write_files(self, trial: Trial) -> None:
        directory = self.directory / f"{trial.slot.number:04}-{trial.slot.arm}"
        if directory.exists():  # the trial failed before, and was run again
            shutil.rmtree(directory)
        if trial.files:
            directory.mkdir(mode=0o700, exist_ok=True)
        for name, data in trial.files.items():
            (directory / name).write_bytes(data)

    def finished(self) -> Sequence[Trial]:
        """Return the trials in the order of their numbers, without their raw records."""
        try:
            with self._database() as database:
                return _trials(database)
        except sqlite3.Error as error:
            raise InfrastructureError(f"the run {self.name} is not readable: {error}") from error

    def raw(self) -> list[dict[str, Any]]:
        """Return the raw records of all trials, without those that were not written to their end.

        :raises InfrastructureError: when they are not readable.
        """
        try:
            data = (self.directory / TRIALS).read_bytes()
            return [json.loads(line) for line in _members(data)]
        except (OSError, ValueError) as error:
            raise InfrastructureError(f"the raw trials of {self.name} are not readable: {error}") from error

    def _database(self) -> _Database:
        return _Database(self.directory / DATABASE)


def trial_record(trial: Trial) -> dict[str, Any]:
    """Return everything there is to say of a trial apart from its files, as plain values."""
    return {
        "trial": asdict(trial.slot),
        "state": trial.state,
        "error": trial.error,
        "seconds": trial.seconds,
        "figures": trial.figures,
        "nodes": trial.nodes,
        "lost": trial.lost,
        "queues": [asdict(queue) for queue in trial.queues],
        **trial.raw,
    }


def _append(path: Path, data: bytes) -> None:
    """Add to a file, all or nothing."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as stream:
            stream.write(data)
    except OSError:
        with path.open("r+b") as stream:
            stream.truncate(size)
        raise


def _members(data: bytes) -> Iterator[bytes]:
    """Yield what the whole members of a gzip file hold; after a broken one, go on at the next beginning."""
    start = 0
    while start >= 0:
        stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
        parts = []
        try:
            for offset in range(start, len(data), _PIECE):
                parts.append(stream.decompress(data[offset : offset + _PIECE]))
                if stream.eof:
                    yield b"".join(parts)
                    start = min(offset + _PIECE, len(data)) - len(stream.unused_data) - 1
                    break
        except zlib.error:
            pass
        start = data.find(_MEMBER, start + 1)


class _Database:
    """A connection for one piece of work, committed at its end and closed in any case."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> sqlite3.Connection:
        self._connection = sqlite3.connect(self._path)
        return self._connection

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._connection.commit()
        finally:
            self._connection.close()


def _insert(database: sqlite3.Connection, trial: Trial) -> None:
    slot = trial.slot
    for table in ("trials", "metrics", "lost", "queues"):
        column = "number" if table == "trials" else "trial"
        database.execute(f"delete from {table} where {column} = ?", (slot.number,))  # noqa: S608 - fixed names
    accelerators = ",".join(trial.accelerators)
    row = (slot.number, slot.block, slot.arm, slot.seed, trial.state, trial.error, accelerators, trial.seconds)
    database.execute("insert into trials values (?, ?, ?, ?, ?, ?, ?, ?)", row)
    figures = [(slot.number, "", name, value) for name, value in trial.figures.items()]
    figures += [(slot.number, node, name, v) for node, values in trial.nodes.items() for name, v in values.items()]
    database.executemany("insert into metrics values (?, ?, ?, ?)", figures)
    places = [(slot.number, place, count) for place, count in trial.lost.items()]
    database.executemany("insert into lost values (?, ?, ?)", places)
    queues = [(slot.number, *astuple(queue)) for queue in trial.queues]
    database.executemany("insert into queues values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", queues)


def _trials(database: sqlite3.Connection) -> list[Trial]:
    figures: dict[int, dict[str, dict[str, float]]] = {}
    for number, node, name, value in database.execute("select trial, node, name, value from metrics"):
        figures.setdefault(number, {}).setdefault(node, {})[name] = value
    lost: dict[int, dict[str, int]] = {}
    for number, place, count in database.execute("select trial, place, packets from lost"):
        lost.setdefault(number, {})[place] = count
    queues: dict[int, list[Queue]] = {}
    for number, *values in database.execute("select * from queues"):
        queues.setdefault(number, []).append(Queue(*values))
    found = []
    query = "select number, block, arm, seed, state, error, accelerators, seconds from trials order by number"
    for number, block, arm, seed, state, error, accelerators, seconds in database.execute(query):
        values = figures.get(number, {})
        found.append(
            Trial(
                Slot(number, block, arm, seed),
                state,
                error,
                figures=values.pop("", {}),
                nodes=values,
                lost=lost.get(number, {}),
                queues=tuple(queues.get(number, ())),
                accelerators=tuple(filter(None, accelerators.split(","))),
                seconds=seconds,
            )
        )
    return found


def list_runs() -> list[RunStore]:
    """Return all runs, the newest first."""
    found = [RunStore(path) for path in results_dir().iterdir() if (path / RUN).is_file()]
    return sorted(found, key=lambda run: run.name, reverse=True)


def find_run(name: str | None) -> RunStore:
    """Return a run by name or its directory, or the newest, of those with a part of their name when one is given.

    :raises UsageError: when there is none.
    """
    if name is not None and "/" in name:
        path = Path(name)
        if not (path / RUN).is_file():
            raise UsageError(f"{name} is not the directory of a run", hint="zdlab results --list")
        return RunStore(path)
    runs = list_runs()
    if not runs:
        raise UsageError("there are no results yet", hint="zdlab run FILE")
    if name is None:
        return runs[0]
    matching = [run for run in runs if run.name == name] or [run for run in runs if name in run.name]
    if not matching:
        raise UsageError(f"there is no run {name!r}", hint="zdlab results --list")
    return matching[0]


def _unwritable(directory: Path, error: Exception) -> InfrastructureError:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return InfrastructureError(
        f"cannot write the results in {directory}: {said}",
        hint="check free space; trials that were finished are kept, `zdlab run FILE --resume` goes on",
    )
