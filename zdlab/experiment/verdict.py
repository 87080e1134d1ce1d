"""From trials to verdicts: what holds, what does not, what cannot be said, what could not have been shown. Pure."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from zdlab.experiment.model import Answer, Trial, Verdict
from zdlab.experiment.statistics import LEVEL, Comparison, compare, holm, needed_blocks, rule_of_three
from zdlab.topology.expectations import Expectation, Figure
from zdlab.topology.metrics import METRICS

_COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "==": operator.eq,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
#: What only shows when a queue overflows.
_NEEDS_PRESSURE: Final = frozenset(
    {"qdisc_drops", "qdisc_drops_per_gb", "retransmits", "retransmits_per_gb", "timeouts", "socket_drops"}
)
#: Part of the time from which on a CPU is taken for what limits the traffic.
_SATURATED: Final = 0.9
#: Of a node, what only a queue of that very node makes.
_OF_OWN_QUEUES: Final = frozenset({"qdisc_drops"})


@dataclass(frozen=True)
class _Compared:
    """A comparison waiting for its corrected p-value."""

    index: int
    comparison: Comparison


def judge(
    expectations: Sequence[Expectation],
    trials: Sequence[Trial],
    *,
    control: str | None,
    requires: Sequence[Expectation] = (),
) -> tuple[Verdict, tuple[Answer, ...]]:
    """Answer every expectation, and all of them together.

    :param control: the arm in which the problem must have shown.
    :param requires: bounds that must hold in every trial, or no answer can be given.
    """
    # Drops that are required show the problem: nothing else needs to.
    pressed = any(required.left.metric in _NEEDS_PRESSURE for required in requires)
    missed = next(filter(None, (_missed(required, trials) for required in requires)), "")
    answers: dict[int, Answer] = {}
    needed = needed_blocks(sum(1 for expectation in expectations if expectation.right is not None))
    waiting: list[_Compared] = []
    for index, expectation in enumerate(expectations):
        problem = _invalid(expectation, trials) or missed
        if not problem and not pressed and _rests_on_absence(expectation, trials):
            problem = next(filter(None, (_idle(figure, trials, control) for figure in expectation.figures())), "")
        if problem:
            answers[index] = Answer(expectation.text, "invalid", problem)
        elif expectation.right is None:
            answers[index] = _bound(expectation, trials)
        else:
            differences = _differences(expectation, trials)
            if len(differences) < needed:
                answers[index] = _too_few(expectation, differences, needed)
            else:
                waiting.append(_Compared(index, compare(differences)))
    adjusted = holm([item.comparison.p for item in waiting])
    for item, p in zip(waiting, adjusted, strict=True):
        answers[item.index] = _compared(expectations[item.index], item.comparison, p, trials)
    ordered = tuple(answers[index] for index in range(len(expectations)))
    verdicts = [answer.verdict for answer in ordered]
    if missed or any(trial.state != "done" for trial in trials):
        # Whatever was asked: not all that was to be run was, or what was run showed nothing.
        verdicts.append("invalid")
    return overall(verdicts), ordered


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """Return one verdict for several: a failure outweighs all, then what is invalid, then what is open."""
    for verdict in ("fail", "invalid", "inconclusive"):
        if verdict in verdicts:
            return verdict
    return "pass" if verdicts else "inconclusive"


def _invalid(expectation: Expectation, trials: Sequence[Trial]) -> str:
    """Return why the trials could not have shown anything about an expectation, empty when they could."""
    arms = {figure.arm for figure in expectation.figures()}
    for arm in arms:
        of_arm = [trial for trial in trials if trial.slot.arm == arm]
        for state, words in (("hung", "hung"), ("failed", "failed")):
            broken = [trial for trial in of_arm if trial.state == state]
            if broken:
                return f"{len(broken)} of {len(of_arm)} trials of {arm} {words}: {broken[0].error}"
        if not of_arm:
            return f"no trial of {arm} was run"
        silent = [trial for trial in of_arm if trial.figures.get("flows_without_data", 0) > 0]
        if silent and expectation.left.metric != "flows_without_data":
            count = silent[0].figures["flows_without_data"]
            return f"in {len(silent)} of {len(of_arm)} trials of {arm} flows moved no data ({count:g} in the first)"
        for figure in expectation.figures():
            if figure.arm == arm and any(_value(figure, trial) is None for trial in of_arm):
                return f"{figure.metric} was not measured in every trial of {arm}"
    return ""


def _missed(required: Expectation, trials: Sequence[Trial]) -> str:
    """Return how finished trials miss what is required of them, empty when none does."""
    answer = _bound(required, trials)
    return f"{required.text} is required, and {answer.reason}" if answer.verdict == "fail" else ""


def _rests_on_absence(expectation: Expectation, trials: Sequence[Trial]) -> bool:
    """Tell whether the answer rests on something that did not happen: only then it might not have been able to.

    A drop that was counted needs no control, whether it was wished for or not.
    """
    if expectation.bound is None:
        return True
    holds = _COMPARE[expectation.operator]
    held = all(holds(value, expectation.bound) for value in _of(expectation.left, trials).values())
    return held == (expectation.operator in {"==", "<=", "<"})


def _idle(figure: Figure, trials: Sequence[Trial], control: str | None) -> str:
    """Return why the traffic may not have pressed the queues a figure depends on, empty when it has.

    The control arm tells, in each of its trials: a queue that never drops may never be full either.
    """
    if figure.metric not in _NEEDS_PRESSURE:
        return ""
    controls = [trial for trial in trials if trial.slot.arm == control and trial.state == "done"]
    if not controls:
        if any(trial.slot.arm == control for trial in trials):
            return f"no trial of the control arm {control} was finished"
        return f"the control arm {control} was not run"
    node = figure.node if figure.metric in _OF_OWN_QUEUES else None
    idle = sum(1 for trial in controls if not trial.full(node))
    if not idle:
        return ""
    queue = "no queue" + (f" of {node}" if node else "")
    return (
        f"{queue} was full in {idle} of {len(controls)} trials of the control arm {control}: "
        f"the traffic could not have shown drops{_slow(controls)}"
    )


def _slow(trials: Sequence[Trial]) -> str:
    """Return that a CPU may have been what limited the traffic, where it is known, as a capsule's is."""
    busy = [trial.figures["cpu_busy"] for trial in trials if "cpu_busy" in trial.figures]
    if not busy or min(busy) < _SATURATED:
        return ""
    return f"; its CPU was busy {100 * min(busy):.0f} % of the time, so that the CPU was the limit and not the queue"


def _value(figure: Figure, trial: Trial) -> float | None:
    if figure.node is not None:
        return trial.nodes.get(figure.node, {}).get(figure.metric)
    return trial.figures.get(figure.metric)


def _of(figure: Figure, trials: Sequence[Trial]) -> dict[int, float]:
    """Return an arm's values by block."""
    values = {}
    for trial in trials:
        value = _value(figure, trial)
        if trial.slot.arm == figure.arm and trial.state == "done" and value is not None:
            values[trial.slot.block] = value
    return values


def _bound(expectation: Expectation, trials: Sequence[Trial]) -> Answer:
    """A bound must hold in every trial."""
    bound = expectation.bound if expectation.bound is not None else 0.0
    values = _of(expectation.left, trials)
    broken = {block: value for block, value in values.items() if not _COMPARE[expectation.operator](value, bound)}
    if broken:
        worst = max(broken.values(), key=lambda value: abs(value - bound))
        return Answer(
            expectation.text, "fail", f"does not hold in {len(broken)} of {len(values)} trials (worst: {worst:g})"
        )
    metric = METRICS[expectation.left.metric]
    reason = f"holds in all {len(values)} trials"
    if metric.count and bound == 0 and expectation.operator in {"==", "<="}:  # so that all of them are zero
        packets = sum(_of(Figure(expectation.left.arm, "packets", expectation.left.node), trials).values())
        if packets:
            reason += f", {packets:g} packets; at most {rule_of_three(packets):.2g} a packet with 95 % confidence"
    return Answer(expectation.text, "pass", reason)


def _differences(expectation: Expectation, trials: Sequence[Trial]) -> list[float]:
    """Return left minus factor times right, block by block."""
    if expectation.right is None:
        return []
    left, right = _of(expectation.left, trials), _of(expectation.right, trials)
    return [left[block] - expectation.factor * right[block] for block in sorted(left.keys() & right.keys())]


def _too_few(expectation: Expectation, differences: Sequence[float], needed: int) -> Answer:
    holds = sum(1 for difference in differences if _COMPARE[expectation.operator](difference, 0.0))
    seen = "1 block" if len(differences) == 1 else f"{len(differences)} blocks"
    reason = f"{seen} cannot decide (it holds in {holds}); at least {needed} are needed"
    return Answer(expectation.text, "inconclusive", reason)


def _compared(expectation: Expectation, comparison: Comparison, p: float, trials: Sequence[Trial]) -> Answer:
    wanted_below = expectation.operator in {"<", "<="}
    strict = expectation.operator in {"<", ">"}
    low, high = (comparison.low, comparison.high) if wanted_below else (-comparison.high, -comparison.low)
    left = _mean(_of(expectation.left, trials))
    right = _mean(_of(expectation.right, trials)) if expectation.right else 0.0
    unit = METRICS[expectation.left.metric].unit
    figures = (
        f"{left:.4g} against {right:.4g}{' ' + unit if unit else ''}, difference {comparison.mean:.4g} "
        f"[{comparison.low:.4g}, {comparison.high:.4g}], p = {p:.3g} over {comparison.blocks} blocks"
    )
    if low == high == 0:
        return Answer(expectation.text, "fail" if strict else "pass", f"no difference in any block: {figures}")
    if p < LEVEL and high < 0:
        return Answer(expectation.text, "pass", figures)
    if p < LEVEL and low > 0:
        return Answer(expectation.text, "fail", figures)
    return Answer(expectation.text, "inconclusive", f"the blocks do not agree enough: {figures}")


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values) if values else 0.0
