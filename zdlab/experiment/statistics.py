"""Paired comparison of two arms over blocks: an interval for the mean difference, and an exact p-value. Pure.

Trials are the sampling units; what happens within one is not independent. The interval is a BCa bootstrap over
blocks (Efron 1987; ``scipy.stats.bootstrap``), the p-value an exact sign-flip permutation test
(``scipy.stats.permutation_test``). Several comparisons are corrected by Holm's method (Holm 1979).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

LEVEL: Final = 0.05
_RESAMPLES: Final = 9999
#: Sign flips are enumerated up to here and drawn at random beyond.
_EXACT: Final = 1 << 14


@dataclass(frozen=True)
class Comparison:
    """Differences of paired trials.

    :param low: lower end of the 95 % interval of the mean difference, ``high`` the upper one.
    :param p: two-sided.
    """

    mean: float
    low: float
    high: float
    p: float
    blocks: int


def compare(differences: Sequence[float]) -> Comparison:
    """Return mean, interval and p-value of paired differences; there must be at least two.

    :raises ValueError: when there are fewer, or one is not a number.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < 2 or not np.all(np.isfinite(values)):
        raise ValueError("a comparison needs at least two finite differences")
    mean = float(values.mean())
    if np.ptp(values) <= 1e-12 * max(1.0, abs(mean)):
        # All blocks agree to the bit: the interval is a point, and the sign-flip test counts its two extremes.
        p = 1.0 if abs(mean) <= 1e-12 else 2.0 / 2 ** len(values)
        return Comparison(mean, mean, mean, p, len(values))
    low, high = _interval(values)
    result = stats.permutation_test(
        (values,),
        lambda sample, axis: np.mean(sample, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_EXACT,
        alternative="two-sided",
        rng=np.random.default_rng(0),
    )
    return Comparison(mean, low, high, float(result.pvalue), len(values))


def _interval(values: np.ndarray) -> tuple[float, float]:
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                (values,),
                np.mean,
                confidence_level=1 - LEVEL,
                n_resamples=_RESAMPLES,
                method=method,
                rng=np.random.default_rng(0),
            ).confidence_interval
        if math.isfinite(found.low) and math.isfinite(found.high):
            return float(found.low), float(found.high)
    return float(values.min()), float(values.max())


def needed_blocks(comparisons: int) -> int:
    """Return the fewest blocks with which several comparisons can all be decided.

    A two-sided sign-flip test of n pairs cannot fall below 2 / 2^n; Holm's method multiplies the smallest p-value by
    the number of comparisons.
    """
    blocks = 1
    while comparisons * 2 / 2**blocks >= LEVEL:
        blocks += 1
    return blocks


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's step-down method."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def rule_of_three(observed: float) -> float:
    """Return the 95 % upper bound of a rate when nothing was seen in ``observed`` chances (Hanley 1983)."""
    return 3.0 / observed if observed > 0 else math.inf
