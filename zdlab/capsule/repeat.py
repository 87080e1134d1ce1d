"""Repeating trials in capsules, and finding the first thing that came out otherwise."""

from __future__ import annotations

import gzip
import io
import json
import shlex
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import zdlab
from zdlab.capsule.case import Case, command_of, none_came_out, run_case
from zdlab.capsule.crew import Heard, run_crew
from zdlab.capsule.machine import Report
from zdlab.capsule.trial import RESULT
from zdlab.capsule.wire import LIMIT, WireError, unpacked
from zdlab.errors import GuestError, InfrastructureError, UsageError, ZdlabError
from zdlab.experiment.model import IDENTICAL
from zdlab.experiment.setup import tool_versions
from zdlab.guest.image import find_image
from zdlab.guest.kernels import inspect_kernel
from zdlab.results.store import RunStore

#: Virtual seconds a trial takes of which nothing is known, and nanoseconds none takes.
_UNKNOWN: Final = 5.0
_LONGEST: Final = 10**15


def compare_results(expected: bytes, found: bytes) -> str:
    """Return ``identical``, or the first thing that differs between two results of capsules.

    :raises InfrastructureError: when what was expected is no result.
    """
    if expected == found:
        return IDENTICAL
    try:
        (header, pieces), (other, others) = unpacked(expected), unpacked(found)
    except WireError as error:
        raise InfrastructureError(f"results cannot be compared: {error}") from error
    # Counters say more than moments: these move with whatever else is different.
    first = min(_differences(header, other), key=_rank, default=None)
    return first or next(_pieces(pieces, others), "the order of pieces")


def _rank(difference: str) -> int:
    path = difference.partition(" ")[0]
    return 2 if path.endswith("_ns") else int(not path.startswith("observation.after"))


def _differences(expected: Any, found: Any, path: str = "") -> Iterator[str]:
    """Yield what differs, in the order of the expected values."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for name, value in expected.items():
            below = f"{path}.{name}" if path else str(name)
            if name in found:
                yield from _differences(value, found[name], below)
            else:
                yield f"{below} is missing now"
        yield from (f"{path}.{name} is new" for name in found if name not in expected)
    elif isinstance(expected, list) and isinstance(found, list):
        for number, (value, other) in enumerate(zip(expected, found, strict=False)):
            yield from _differences(value, other, f"{path}[{number}]")
        if len(expected) != len(found):
            yield f"{path} has {len(found)} items now, {len(expected)} before"
    elif expected != found:
        yield f"{path} is {_short(found)} now, {_short(expected)} before"


def _pieces(expected: Mapping[str, bytes], found: Mapping[str, bytes]) -> Iterator[str]:
    for name, data in expected.items():
        other = found.get(name, b"")
        if data != other:
            pairs = enumerate(zip(data, other, strict=False))
            place = next((number for number, (one, two) in pairs if one != two), min(len(data), len(other)))
            yield f"{name} differs from byte {place} on"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def read_result(data: bytes) -> bytes:
    """Return a result that was kept.

    :raises InfrastructureError: when it is not readable, or larger than a result is.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            result = stream.read(LIMIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InfrastructureError(f"a kept result is not readable: {error}") from error
    if len(result) > LIMIT:
        raise InfrastructureError(f"a kept result unpacks to more than {LIMIT} bytes")
    return result


@dataclass(frozen=True, eq=False)
class Kept:
    """A trial that was kept with all it takes to repeat it.

    :param kept: the file of what came out of its capsule, gzip-compressed.
    :param zdlab: version it ran with.
    :param seconds: virtual ones it takes, about.
    """

    number: int
    arm: str
    case: Case
    kernel: Path
    image: Path
    kept: Path
    zdlab: str
    seconds: float = 0.0

    def checked(self) -> Kept:
        """Return the same with its seconds, after its result was read.

        :raises InfrastructureError: when that is not readable.
        """
        try:
            header, _ = unpacked(self.result())
        except WireError as error:
            raise InfrastructureError(f"the kept result of trial {self.number} is not readable: {error}") from error
        ended = header.get("ended_ns")
        if not isinstance(ended, int) or not 0 < ended < _LONGEST:
            return replace(self, seconds=_UNKNOWN)
        return replace(self, seconds=ended / 1e9)

    def result(self) -> bytes:
        """Return what came out of its capsule."""
        return read_result(self.kept.read_bytes() if self.kept.is_file() else b"")

    def repeat(self, report: Report) -> str:
        """Repeat it; return ``identical``, or the first thing that differs.

        :raises GuestError: when it comes to no result, though it did before.
        """
        expected = self.result()
        try:
            found = run_case(self.case, self.kernel, self.image, report)
        except GuestError as error:
            if "outside" not in unpacked(expected)[0]:
                raise
            found = none_came_out(error)
        return compare_results(expected, found)

    def unlike(self) -> list[str]:
        """Return in what this zdlab, on this computer, would run it otherwise than it was run, for people."""
        notes = []
        qemu = tool_versions()["qemu"]
        if self.case.qemu != qemu:
            notes.append(f"made with {self.case.qemu}; this is {qemu}, which may count otherwise")
        if self.zdlab != zdlab.__version__:
            notes.append(f"made with zdlab {self.zdlab}; this is {zdlab.__version__}")
        then, now = self.case.command, command_of(self.case)
        if then != now:
            gone, new = ([word for word in one if word not in other] for one, other in ((then, now), (now, then)))
            notes.append(f"QEMU gets other arguments now: {shlex.join(new)} in place of {shlex.join(gone)}")
        return notes


def kept_trials(store: RunStore, number: int | None = None) -> list[Kept]:
    """Return the trials of a run that can be repeated, or the one of that number.

    :raises UsageError: when there is none, or its kernel or image is gone.
    :raises InfrastructureError: when it is not readable.
    """
    description = store.description()
    if description.get("clock", "real") != "virtual":
        raise UsageError(
            f"{store.name} ran under the real clock: no two of its trials are alike",
            hint="zdlab run FILE --clock virtual",
        )
    if not store.finished():
        raise UsageError(f"no trial of {store.name} was finished", hint="zdlab run FILE --resume")
    # The last record of a trial counts: one that failed may have been run again.
    records = {record["trial"]["number"]: record for record in store.raw()}
    if number is not None and number not in records:
        raise UsageError(f"the run {store.name} has no trial {number}", hint="zdlab results --csv lists them")
    chosen = records.values() if number is None else [records[number]]
    return [_kept(store, record, description["provenance"]) for record in chosen]


def _kept(store: RunStore, record: Mapping[str, Any], provenance: Mapping[str, Any]) -> Kept:
    number, arm = record["trial"]["number"], record["trial"]["arm"]
    case = Case.from_json(record["case"])
    kernel, image = files_of(case, str(provenance["capsules"][arm]["kernel"]["path"]))
    path = store.directory / f"{number:04}-{arm}" / RESULT
    return Kept(number, arm, case, kernel, image, path, str(provenance["zdlab"])).checked()


def files_of(case: Case, kernel: str) -> tuple[Path, Path]:
    """Return the files of the kernel and the image a trial ran with.

    :param kernel: where the kernel was.
    :raises UsageError: when one is no longer there, or is another one now.
    """
    hint = "run the experiment again, or use a bundle, which holds them"
    image = find_image(case.image)
    if image is None:
        raise UsageError("the image this trial ran with is no longer in the cache", hint=hint)
    if not Path(kernel).is_file() or inspect_kernel(Path(kernel)).sha256 != case.kernel:
        raise UsageError(f"the kernel this trial ran with is no longer at {kernel}", hint=hint)
    return Path(kernel), image.path


def repeat_arms(
    store: RunStore, arms: Sequence[str], parallel: int, show: Callable[[str, Heard], None]
) -> dict[str, str]:
    """Repeat one trial of each arm that has one; return what that showed, by arm.

    What keeps one from being repeated is what its arm showed: the run's end does not hang on it.
    """
    chosen = {trial.slot.arm: trial.slot.number for trial in store.finished() if trial.state == "done"}
    found: dict[str, str] = {}
    trials: list[Kept] = []
    for arm in arms:
        if arm in chosen:
            try:
                trials += kept_trials(store, chosen[arm])
            except ZdlabError as error:
                found[arm] = _not_repeated(error)

    def repeat(kept: Kept, report: Report) -> str:
        try:
            return kept.repeat(report)
        except ZdlabError as error:
            return _not_repeated(error)

    for kept, text in run_crew(
        repeat, trials, parallel, expected=lambda kept: kept.seconds, show=lambda kept, heard: show(kept.arm, heard)
    ):
        found[kept.arm] = text
    return {arm: found[arm] for arm in arms if arm in found}


def _not_repeated(error: ZdlabError) -> str:
    return f"not repeated: {error.message}"
