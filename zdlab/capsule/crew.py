"""Capsules side by side: one stop for all of them, and how fast they get on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Final, TypeVar

from zdlab.capsule.machine import Report

#: Virtual seconds a capsule that takes longer than was thought is taken to need yet: it is not done.
_LATE: Final = 0.5

_Item = TypeVar("_Item", bound=Hashable)
_Found = TypeVar("_Found")


class StoppedError(Exception):
    """All capsules are being ended."""


@dataclass(frozen=True)
class Heard:
    """What one of several capsules is doing, and how fast they get on together.

    :param virtual: its virtual seconds so far.
    :param rate: virtual seconds of all of them in a real second.
    :param left: real seconds until all are done, about; ``None`` before anything is known.
    """

    phase: str
    virtual: float
    rate: float
    left: float | None


class Pace:
    """How far capsules that run side by side are.

    :param expected: about how many virtual seconds each takes.
    """

    def __init__(self, expected: dict[Hashable, float], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._expected = expected
        self._virtual: dict[Hashable, float] = {}
        self._done: set[Hashable] = set()
        self._clock = clock
        self._begun = clock()

    def heard(self, item: Hashable, virtual: float, phase: str) -> Heard:
        """Take a word of progress."""
        self._virtual[item] = virtual
        passed = sum(self._virtual.values())
        elapsed = self._clock() - self._begun
        rate = passed / elapsed if elapsed > 0 else 0.0
        return Heard(phase, virtual, rate, self._left() / rate if rate else None)

    def ended(self, item: Hashable) -> None:
        """Take the end of one."""
        self._done.add(item)

    def _left(self) -> float:
        """Return how many virtual seconds are still to come, never none while one of the capsules runs."""
        waiting = (item for item in self._expected if item not in self._done)
        return sum(max(_LATE, self._expected[item] - self._virtual.get(item, 0.0)) for item in waiting)


def run_crew(
    work: Callable[[_Item, Report], _Found],
    items: Sequence[_Item],
    parallel: int,
    *,
    expected: Callable[[_Item], float],
    show: Callable[[_Item, Heard], None],
) -> Generator[tuple[_Item, _Found], None, None]:
    """Do pieces of work that run a capsule each, some at once; yield what each found as it ends.

    What ends this, be it an error of one, Ctrl-C, or a caller that closes it, ends all capsules.

    :param work: gets the item, and what its capsule reports to.
    :param expected: about how many virtual seconds an item takes.
    """
    stop = threading.Event()
    pace = Pace({item: expected(item) for item in items})

    def run(item: _Item) -> _Found:
        def report(virtual: float, phase: str) -> None:
            if stop.is_set():
                raise StoppedError
            show(item, pace.heard(item, virtual, phase))

        found = work(item, report)
        pace.ended(item)
        return found

    with ThreadPoolExecutor(parallel) as pool:
        waiting: dict[Future[_Found], _Item] = {pool.submit(run, item): item for item in items}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            stop.set()
            for future in waiting:
                future.cancel()
