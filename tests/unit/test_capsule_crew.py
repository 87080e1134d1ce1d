"""Capsules side by side: how long they still take, and that one stop ends all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from zdlab.capsule.crew import Heard, Pace, StoppedError, run_crew
from zdlab.capsule.machine import Report


def _clock(*moments: float) -> Iterator[float]:
    yield from moments


def _flow(report: Report) -> None:
    """Be a capsule that takes long: ten seconds when nobody stops it."""
    for _ in range(1000):
        report(0.0, "flows")
        time.sleep(0.01)


def test_the_time_left_is_what_is_to_come_at_the_pace_so_far() -> None:
    moments = _clock(0.0, 10.0, 20.0, 40.0, 50.0)
    pace = Pace({"one": 4.0, "two": 4.0}, clock=lambda: next(moments))

    assert pace.heard("one", 2.0, "booting") == Heard("booting", 2.0, 0.2, 30.0)
    assert pace.heard("two", 2.0, "booting") == Heard("booting", 2.0, 0.2, 20.0)
    # Longer than was thought, it is not done yet.
    late = pace.heard("two", 6.0, "flows").left
    assert late is not None
    assert late == pytest.approx((2.0 + 0.5) / (8.0 / 40.0))
    pace.ended("one")
    ended = pace.heard("two", 6.5, "flows").left
    assert ended == pytest.approx(0.5 / (8.5 / 50.0))


def test_before_anything_is_known_no_time_is_named() -> None:
    moments = _clock(0.0, 0.0)

    assert Pace({1: 4.0}, clock=lambda: next(moments)).heard(1, 0.0, "booting") == Heard("booting", 0.0, 0.0, None)


def test_everything_is_done_and_heard_of() -> None:
    seen: list[tuple[int, float]] = []

    def work(item: int, report: Report) -> int:
        report(float(item), "flows")
        return item * item

    found = dict(
        run_crew(
            work, [3, 1, 2], 2, expected=lambda _: 1.0, show=lambda item, heard: seen.append((item, heard.virtual))
        )
    )

    assert found == {1: 1, 2: 4, 3: 9}
    assert sorted(seen) == [(1, 1.0), (2, 2.0), (3, 3.0)]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_what_ends_the_caller_ends_all_capsules(stop: type[BaseException]) -> None:
    """None of the capsules here comes to its end, and those that wait do not begin."""
    begun: list[int] = []
    ended: list[int] = []

    def work(item: int, report: Report) -> int:
        begun.append(item)
        try:
            if item:
                _flow(report)
        except StoppedError:
            ended.append(item)
            raise
        return item

    def consume() -> None:
        crew = run_crew(work, range(20), 3, expected=lambda _: 1.0, show=lambda _item, _heard: None)
        with closing(crew):
            next(crew)
            raise stop

    with pytest.raises(stop):
        consume()

    assert sorted(begun) == [0, *sorted(ended)]
    assert len(begun) < 20


def test_the_error_of_one_ends_all() -> None:
    def work(item: int, report: Report) -> int:
        if item:
            _flow(report)
        raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        list(run_crew(work, range(20), 3, expected=lambda _: 1.0, show=lambda _item, _heard: None))
