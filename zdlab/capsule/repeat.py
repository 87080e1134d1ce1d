"""Repeating trials in capsules, and finding the first thing that came out otherwise."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from zdlab.capsule.case import Case, run_case
from zdlab.capsule.machine import Report
from zdlab.capsule.trial import RESULT
from zdlab.capsule.wire import LIMIT, WireError, unpacked
from zdlab.errors import InfrastructureError, UsageError
from zdlab.experiment.model import IDENTICAL
from zdlab.guest.image import find_image
from zdlab.guest.kernels import inspect_kernel
from zdlab.results.store import RunStore


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
    return next(_differences(header, other), None) or next(_pieces(pieces, others), "the order of pieces")


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


def kept_trial(store: RunStore, number: int) -> tuple[Case, bytes]:
    """Return what decided a trial of a run, and what came out of it.

    :raises UsageError: when the run has no such trial, or it did not run in a capsule to its end.
    :raises InfrastructureError: when it is not readable.
    """
    records = [record for record in store.raw() if record["trial"]["number"] == number]
    if not records:
        raise UsageError(f"the run {store.name} has no trial {number}", hint="zdlab results --csv lists them")
    record = records[-1]
    if record["state"] != "done" or "case" not in record:
        why = f"is {record['state']}" if "case" in record else "ran under the real clock"
        raise UsageError(f"trial {number} of {store.name} {why}: there is nothing to repeat", hint="choose another")
    path = store.directory / f"{number:04}-{record['trial']['arm']}" / RESULT
    return Case.from_json(record["case"]), read_result(path.read_bytes() if path.is_file() else b"")


def read_result(data: bytes) -> bytes:
    """Return a result that was kept.

    :raises InfrastructureError: when it is not readable.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            result = stream.read(LIMIT)
    except (OSError, EOFError) as error:
        raise InfrastructureError(f"a kept result is not readable: {error}") from error
    return result


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


def kernel_of(store: RunStore, arm: str) -> str:
    """Return where the kernel of an arm was when it ran."""
    return str(store.description()["provenance"]["capsules"][arm]["kernel"]["path"])


def replay_trial(store: RunStore, number: int, report: Report) -> str:
    """Repeat a trial of a run; return ``identical``, or the first thing that differs.

    :raises UsageError: when there is no such trial, or its kernel or image is gone.
    :raises GuestError: when it does not come to a result.
    """
    case, expected = kept_trial(store, number)
    arm = next(trial.slot.arm for trial in store.finished() if trial.slot.number == number)
    return compare_results(expected, run_case(case, *files_of(case, kernel_of(store, arm)), report))


def repeat_arms(
    store: RunStore, arms: Sequence[str], parallel: int, show: Callable[[str, float | None], None]
) -> dict[str, str]:
    """Repeat one trial of each arm that has one; return what that showed, by arm."""
    chosen = {trial.slot.arm: trial.slot.number for trial in store.finished() if trial.state == "done"}

    def repeat(arm: str) -> str:
        return replay_trial(store, chosen[arm], lambda _seconds, phase: show(f"repeating {arm}: {phase}", None))

    known = [arm for arm in arms if arm in chosen]
    return dict(zip(known, side_by_side(repeat, known, parallel), strict=True))


_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


def side_by_side(work: Callable[[_Item], _Found], items: Sequence[_Item], parallel: int) -> list[_Found]:
    """Do pieces of work, some at once; what one raises is raised when all are done."""
    with ThreadPoolExecutor(parallel) as pool:
        return list(pool.map(work, items))
