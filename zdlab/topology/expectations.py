"""Expectations: one checkable sentence each, over arms and metrics.

::

    zd.qdisc_drops == 0                              holds in every trial
    zd.a.retransmits <= 10                           the same, of node a alone
    zd.retransmits < stock.retransmits               paired comparison of two arms
    zd.throughput_bps >= 0.95 * stock.throughput_bps paired comparison with a margin
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from zdlab.errors import MistakeError

Operator = Literal["==", "<=", ">=", "<", ">"]

_FIGURE: Final = r"([A-Za-z][A-Za-z0-9_-]*)\.(?:([A-Za-z][A-Za-z0-9_-]*)\.)?([a-z][a-z0-9_]*)"
_NUMBER: Final = r"([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)"
_SENTENCE: Final = re.compile(rf"\s*{_FIGURE}\s*(==|<=|>=|<|>)\s*(?:{_NUMBER}|(?:{_NUMBER}\s*\*\s*)?{_FIGURE})\s*")


@dataclass(frozen=True)
class Figure:
    """A metric of an arm: of the whole lab, or of one node."""

    arm: str
    metric: str
    node: str | None = None

    def __str__(self) -> str:
        """Write it the way a topology does."""
        return ".".join(part for part in (self.arm, self.node, self.metric) if part)


@dataclass(frozen=True)
class Expectation:
    """``left operator bound``, where the bound is a number or ``factor * right``.

    :param bound: the number compared with; ``None`` when another arm is compared with.
    :param right: the other arm's figure; ``None`` when a number is compared with.
    :param factor: what the right figure is multiplied by.
    """

    text: str
    left: Figure
    operator: Operator
    bound: float | None = None
    right: Figure | None = None
    factor: float = 1.0

    def figures(self) -> tuple[Figure, ...]:
        """Return the figures the sentence speaks of."""
        return (self.left,) if self.right is None else (self.left, self.right)


def parse_expectation(text: str) -> Expectation:
    """Read one sentence.

    :raises MistakeError: when it is not one; says how to write it.
    """
    match = _SENTENCE.fullmatch(text) if len(text) <= 512 else None
    if match is None:
        raise MistakeError(
            f"{text[:80]!r} is not an expectation",
            "write ARM.METRIC OPERATOR NUMBER, or ARM.METRIC OPERATOR [FACTOR *] ARM.METRIC, "
            "like zd.retransmits < stock.retransmits",
        )
    arm, node, metric, operator, number, factor, other_arm, other_node, other_metric = match.groups()
    left = Figure(arm, metric, node)
    clean = " ".join(text.split())
    if number is not None:
        return Expectation(clean, left, operator, bound=float(number))  # type: ignore[arg-type]
    right = Figure(other_arm, other_metric, other_node)
    if operator == "==":
        raise MistakeError("two arms are never compared with ==", "say what may be larger, with <= or >=")
    if right.arm == left.arm:
        raise MistakeError(
            "an expectation compares two different arms", f"compare {left.arm} with another arm, or with a number"
        )
    return Expectation(
        clean,
        left,
        operator,  # type: ignore[arg-type]
        right=right,
        factor=float(factor) if factor else 1.0,
    )
