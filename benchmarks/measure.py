"""What benchmarks share: repeated timing, and a line that says what was seen."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def seconds(work: Callable[[], object], runs: int) -> list[float]:
    """Return how long a piece of work took, each time."""
    taken = []
    for _ in range(runs):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return taken


def line(name: str, values: list[float]) -> str:
    """Describe a series of times: median, and the range in which all of them lie."""
    middle = statistics.median(values)
    return f"{name:<44} median {middle:7.3f} s   {min(values):.3f} to {max(values):.3f} s   {len(values)} runs"
