"""The order of trials, the statistics, and what they let one say."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zdlab.errors import UsageError
from zdlab.experiment.model import Slot, Trial, Verdict
from zdlab.experiment.run import judge_experiment, least_blocks, selected_arms, trial_lab, usual_blocks
from zdlab.experiment.schedule import schedule
from zdlab.experiment.statistics import compare, holm, needed_blocks, rule_of_three
from zdlab.experiment.verdict import judge, overall
from zdlab.lab.registry import NAME_LENGTH
from zdlab.measure.queues import Queue
from zdlab.topology import parse_topology
from zdlab.topology.expectations import parse_expectation

_ARMS = st.lists(st.sampled_from("abcdef"), min_size=1, unique=True)
_SEEDS = st.integers(0, 2**31)


@given(_ARMS, st.integers(1, 12), _SEEDS)
def test_every_arm_runs_once_in_a_block_and_all_arms_of_a_block_share_its_seed(
    arms: list[str], blocks: int, seed: int
) -> None:
    slots = schedule(arms, blocks, seed)

    assert [slot.number for slot in slots] == list(range(len(arms) * blocks))
    seeds = []
    for block, members in itertools.groupby(slots, lambda slot: slot.block):
        of_block = list(members)
        assert sorted(slot.arm for slot in of_block) == sorted(arms)
        (shared,) = {slot.seed for slot in of_block}
        assert shared > 0
        seeds.append((block, shared))
    assert [block for block, _ in seeds] == list(range(blocks))
    assert len({shared for _, shared in seeds}) == blocks


def test_the_name_of_a_trials_lab_is_its_own_however_long_those_of_experiment_and_arm() -> None:
    names = [trial_lab("e" * 31, Slot(number, 0, "a" * 31, 1), pid) for number in (9, 10) for pid in (4194303, 4194304)]

    assert len(set(names)) == 4
    assert all(len(name) <= NAME_LENGTH for name in names)
    assert names[0].endswith(".9.4194303")
    assert trial_lab("exp", Slot(3, 1, "stock", 1), 77) == "exp.stock.3.77"


@given(_ARMS, st.integers(1, 6), st.integers(1, 6), _SEEDS)
def test_more_blocks_leave_the_first_ones_as_they_were(arms: list[str], blocks: int, more: int, seed: int) -> None:
    assert schedule(arms, blocks + more, seed)[: len(arms) * blocks] == schedule(arms, blocks, seed)


@given(_ARMS, st.integers(1, 6), _SEEDS)
def test_a_block_has_the_same_seed_whatever_arms_are_run(arms: list[str], blocks: int, seed: int) -> None:
    alone = schedule(arms[:1], blocks, seed)

    assert {slot.block: slot.seed for slot in schedule(arms, blocks, seed)} == {s.block: s.seed for s in alone}


def test_every_arm_comes_first_about_as_often() -> None:
    first = Counter(slot.arm for slot in schedule(["a", "b"], 400, 1) if slot.number % 2 == 0)

    assert 150 < first["a"] < 250
    assert first["a"] + first["b"] == 400
    assert schedule(["a", "b"], 8, 1) != schedule(["a", "b"], 8, 2)


@pytest.mark.parametrize("blocks", range(6, 13))
def test_blocks_that_all_agree_have_the_smallest_p_value_there_is(blocks: int) -> None:
    values = [-1.0 - 0.1 * number for number in range(blocks)]

    assert compare(values).p == pytest.approx(2 / 2**blocks)
    assert compare([-1.0] * blocks).p == pytest.approx(2 / 2**blocks)


@settings(max_examples=25)  # each draws a bootstrap too
@given(st.lists(st.integers(-50, 50), min_size=2, max_size=8))
def test_the_p_value_is_that_of_counting_all_flips_of_signs(differences: list[int]) -> None:
    total = abs(sum(differences))
    flips = [sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in _signs(len(differences))]
    extreme = sum(1 for flipped in flips if abs(flipped) >= total)

    assert compare([float(value) for value in differences]).p == pytest.approx(extreme / len(flips))


def _signs(count: int) -> itertools.product[tuple[int, ...]]:
    return itertools.product((-1, 1), repeat=count)


def test_mean_and_interval_are_those_of_a_known_sample() -> None:
    # Differences of Darwin's maize (Fisher 1935): mean 2.617, t interval 0.004 to 5.229, p of all flips 0.0526.
    darwin = [6.125, -8.375, 1, 2, 0.75, 2.875, 3.5, 5.125, 1.75, 3.625, 7, 3, 9.375, 7.5, -6]
    found = compare(darwin)

    assert found.mean == pytest.approx(2.6167, abs=1e-3)
    assert found.blocks == 15
    assert found.p == pytest.approx(0.0526, abs=0.01)
    assert found.low == pytest.approx(0.004, abs=1.2)
    assert found.high == pytest.approx(5.229, abs=1.2)
    assert found.low < found.mean < found.high
    assert compare(darwin) == found


def test_differences_that_are_the_same_in_every_block_are_their_own_interval() -> None:
    same = compare([-3.0] * 6)
    none = compare([0.0] * 6)

    assert (same.mean, same.low, same.high, same.p) == (-3, -3, -3, 2 / 64)
    assert (none.mean, none.low, none.high, none.p) == (0, 0, 0, 1)


@pytest.mark.parametrize("differences", [[], [1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_what_cannot_be_compared_is_refused(differences: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two finite differences"):
        compare(differences)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.01, 0.02, 0.03, 0.04], [0.04, 0.06, 0.06, 0.06]),
        ([0.5, 0.9], [1.0, 1.0]),
    ],
)
def test_holms_adjustment_is_the_published_one(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_adjusted_p_values_are_never_smaller_and_keep_their_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)

    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    ordered = [q for _, q in sorted(zip(p_values, adjusted, strict=True))]
    assert ordered == sorted(ordered)


def test_the_blocks_needed_are_the_fewest_that_can_decide() -> None:
    assert [needed_blocks(comparisons) for comparisons in (1, 2, 4)] == [6, 7, 8]
    assert 2 / 2 ** needed_blocks(1) < 0.05 <= 2 / 2 ** (needed_blocks(1) - 1)


def test_nothing_seen_in_n_chances_bounds_the_rate_by_three_over_n() -> None:
    assert rule_of_three(3000) == 0.001
    assert rule_of_three(0) == float("inf")


_FULL = Queue("a", "eth0", "1:", "tbf", 1, "B", full_after_s=0.5)
_ROOMY = Queue("a", "eth0", "1:", "tbf", 1, "B")


def _trials(arm: str, values: Sequence[Mapping[str, float]], **changes: Any) -> list[Trial]:
    fields: dict[str, Any] = {"state": "done", "queues": (_FULL,)} | changes
    return [
        Trial(Slot(block, block, arm, 1), figures=figures, nodes={"a": figures}, **fields)
        for block, figures in enumerate(values)
    ]


def _drops(*counts: float) -> list[dict[str, float]]:
    return [{"qdisc_drops": count, "retransmits": count, "packets": 1000.0} for count in counts]


def _judged(text: str, trials: Sequence[Trial], control: str | None = "stock") -> tuple[Verdict, str]:
    verdict, (answer,) = judge([parse_expectation(text)], trials, control=control)
    assert answer.verdict == verdict
    assert answer.text == text
    return verdict, answer.reason


STOCK = _trials("stock", _drops(90, 95, 100, 105, 110, 99))
CLEAN = _trials("deep", _drops(0, 0, 0, 0, 0, 0))


def test_a_bound_passes_when_it_holds_in_every_trial_and_says_how_much_was_seen() -> None:
    verdict, reason = _judged("deep.qdisc_drops == 0", STOCK + CLEAN)

    assert verdict == "pass"
    assert reason == "holds in all 6 trials, 6000 packets; at most 0.0005 a packet with 95 % confidence"
    assert _judged("deep.a.qdisc_drops == 0", STOCK + CLEAN)[0] == "pass"
    assert _judged("stock.qdisc_drops >= 90", STOCK + CLEAN) == ("pass", "holds in all 6 trials")


def test_what_is_not_of_packets_is_not_held_against_their_number() -> None:
    trials = _trials("stock", [{"flows_without_data": 0, "packets": 1000}] * 6)

    assert _judged("stock.flows_without_data == 0", trials) == ("pass", "holds in all 6 trials")


def test_a_bound_fails_when_one_trial_breaks_it() -> None:
    trials = STOCK + _trials("deep", _drops(0, 0, 4, 0, 7, 0))

    assert _judged("deep.qdisc_drops == 0", trials) == ("fail", "does not hold in 2 of 6 trials (worst: 7)")
    assert _judged("stock.qdisc_drops <= 109", STOCK + CLEAN)[0] == "fail"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("deep.retransmits < stock.retransmits", "pass"),
        ("deep.retransmits <= stock.retransmits", "pass"),
        ("deep.retransmits > stock.retransmits", "fail"),
        ("stock.retransmits > deep.retransmits", "pass"),
        ("stock.retransmits < deep.retransmits", "fail"),
        ("stock.retransmits >= 0.5 * deep.retransmits", "pass"),
        ("stock.a.retransmits > 2 * deep.a.retransmits", "pass"),
    ],
)
def test_a_clear_difference_is_told_in_either_direction(text: str, verdict: str) -> None:
    found, reason = _judged(text, STOCK + CLEAN)

    assert found == verdict
    assert "p = 0.0312 over 6 blocks" in reason


def test_the_factor_moves_the_margin() -> None:
    trials = STOCK + _trials("deep", _drops(*(0.96 * count for count in (90, 95, 100, 105, 110, 99))))

    assert _judged("deep.retransmits >= 0.95 * stock.retransmits", trials)[0] == "pass"
    assert _judged("deep.retransmits >= 0.97 * stock.retransmits", trials)[0] == "fail"


def test_no_difference_at_all_satisfies_at_most_and_not_less() -> None:
    same = [Trial(Slot(t.slot.number, t.slot.block, "deep", 1), "done", figures=t.figures) for t in STOCK]

    assert _judged("deep.retransmits <= stock.retransmits", STOCK + same)[0] == "pass"
    assert _judged("deep.retransmits >= stock.retransmits", STOCK + same)[0] == "pass"
    assert _judged("deep.retransmits < stock.retransmits", STOCK + same)[0] == "fail"


def test_blocks_that_disagree_are_inconclusive() -> None:
    verdict, reason = _judged(
        "deep.retransmits < stock.retransmits", STOCK + _trials("deep", _drops(80, 110, 90, 120, 100, 99))
    )

    assert verdict == "inconclusive"
    assert "do not agree enough" in reason


def test_too_few_blocks_are_inconclusive_however_clear() -> None:
    verdict, reason = _judged("deep.retransmits < stock.retransmits", STOCK[:5] + CLEAN)

    assert verdict == "inconclusive"
    assert reason == "5 blocks cannot decide (it holds in 5); at least 6 are needed"


def test_several_comparisons_need_more_than_each_alone() -> None:
    expectations = [parse_expectation(f"deep.{name} < stock.{name}") for name in ("retransmits", "qdisc_drops")]
    verdict, answers = judge(expectations, STOCK + CLEAN, control="stock")

    assert [answer.verdict for answer in answers] == ["inconclusive", "inconclusive"]
    assert verdict == "inconclusive"
    more = _trials("stock", _drops(*range(90, 97))) + _trials("deep", _drops(*[0] * 7))
    assert judge(expectations, more, control="stock")[0] == "pass"


@pytest.mark.parametrize(
    ("trials", "reason"),
    [
        (STOCK + _trials("deep", _drops(0, 0), state="hung", error="stood still"), "2 of 2 trials of deep hung: stood"),
        (STOCK + _trials("deep", _drops(0), state="failed", error="no QEMU"), "1 of 1 trials of deep failed: no QEMU"),
        (STOCK, "no trial of deep was run"),
        (STOCK + _trials("deep", [{"qdisc_drops": 0, "flows_without_data": 3}]), "flows moved no data (3 in the"),
        (STOCK + _trials("deep", [{"retransmits": 0}]), "qdisc_drops was not measured in every trial of deep"),
        (
            _trials("stock", _drops(0, 0), queues=(_ROOMY,)) + CLEAN,
            "no queue was full in 2 of 2 trials of the control arm stock: the traffic could not have shown drops",
        ),
        (
            [*_trials("stock", _drops(0, 0), queues=(_ROOMY,)), *_trials("stock", _drops(0)), *CLEAN],
            "no queue was full in 2 of 3 trials of the control arm stock",
        ),
        (CLEAN, "the control arm stock was not run"),
        (CLEAN + [replace(trial, state="failed") for trial in STOCK], "no trial of the control arm stock was finished"),
    ],
)
def test_trials_that_could_not_have_shown_anything_are_invalid(trials: list[Trial], reason: str) -> None:
    verdict, said = _judged("deep.qdisc_drops == 0", trials)

    assert verdict == "invalid"
    assert reason in said


@pytest.mark.parametrize(
    ("busy", "said"),
    [
        ((0.99, 0.97), "could not have shown drops; its CPU was busy 97 % of the time"),
        ((0.99, 0.5), "have shown drops"),
    ],
)
def test_a_busy_cpu_is_named_where_it_kept_the_queue_from_filling(busy: tuple[float, float], said: str) -> None:
    idle = _trials("stock", [{"qdisc_drops": 0, "cpu_busy": share} for share in busy], queues=(_ROOMY,))

    verdict, reason = _judged("deep.qdisc_drops == 0", idle + CLEAN)

    assert verdict == "invalid"
    assert said in reason
    assert ("CPU" in reason) == (min(busy) > 0.9)


def test_a_full_queue_or_a_drop_in_every_control_trial_is_pressure_enough() -> None:
    assert _judged("deep.qdisc_drops == 0", _trials("stock", _drops(0, 1)) + CLEAN)[0] == "pass"
    assert _judged("deep.qdisc_drops == 0", _trials("stock", _drops(2, 1), queues=()) + CLEAN)[0] == "pass"


def test_a_nodes_drops_are_held_against_that_nodes_queues() -> None:
    elsewhere = [replace(trial, nodes={"b": {"qdisc_drops": 9.0}}, queues=()) for trial in STOCK]

    assert _judged("deep.qdisc_drops == 0", elsewhere + CLEAN)[0] == "pass"
    verdict, reason = _judged("deep.a.qdisc_drops == 0", elsewhere + CLEAN)
    assert verdict == "invalid"
    assert reason.startswith("no queue of a was full in 6 of 6 trials of the control arm stock")
    # Sent again is what was lost anywhere.
    assert _judged("deep.a.retransmits == 0", elsewhere + CLEAN)[0] == "pass"


def test_drops_that_were_seen_need_no_control() -> None:
    dropping = _trials("zd", _drops(3, 4))

    assert _judged("zd.qdisc_drops > 0", dropping) == ("pass", "holds in all 2 trials")
    assert _judged("zd.qdisc_drops == 0", dropping)[0] == "fail"
    assert _judged("zd.qdisc_drops <= 3", dropping)[0] == "fail"
    assert _judged("zd.qdisc_drops <= 4", dropping)[0] == "invalid"
    assert _judged("zd.qdisc_drops > 3", dropping)[0] == "invalid"
    assert _judged("zd.retransmits < 0.1 * deep.retransmits", dropping + CLEAN)[0] == "invalid"


def test_only_nothing_seen_bounds_a_rate() -> None:
    assert _judged("stock.qdisc_drops > 0", STOCK) == ("pass", "holds in all 6 trials")
    assert _judged("stock.qdisc_drops >= 0", _trials("stock", _drops(0, 3))) == ("pass", "holds in all 2 trials")


def test_what_does_not_need_pressure_is_judged_without() -> None:
    stock = _trials("stock", [{"throughput_bps": 5.0, "qdisc_drops": 0}], queues=(_ROOMY,))

    assert _judged("stock.throughput_bps > 4", stock)[0] == "pass"
    assert _judged("stock.throughput_bps > 6", stock)[0] == "fail"


def test_flows_without_data_may_themselves_be_asked_for() -> None:
    assert _judged("stock.flows_without_data == 0", _trials("stock", [{"flows_without_data": 2}]))[0] == "fail"


@pytest.mark.parametrize(
    ("verdicts", "one"),
    [
        ([], "inconclusive"),
        (["pass", "pass"], "pass"),
        (["pass", "inconclusive"], "inconclusive"),
        (["inconclusive", "invalid", "pass"], "invalid"),
        (["invalid", "fail", "pass"], "fail"),
    ],
)
def test_the_worst_answer_decides(verdicts: list[Verdict], one: Verdict) -> None:
    assert overall(verdicts) == one


_TOPOLOGY = """\
nodes: {a: {kind: host}, b: {kind: host}}
links: {w: {subnet: 10.0.0.0/24, ends: {a: {}, b: {}}}}
workloads: {bulk: {tool: tcp_stream, from: a, to: b}}
arms: {stock: null, deep: null, other: null}
expectations: [deep.qdisc_drops == 0, other.qdisc_drops == 0]
"""


def test_expectations_about_arms_that_were_not_run_are_left_out() -> None:
    outcome = judge_experiment(parse_topology(_TOPOLOGY, "exp.yaml"), ("stock", "deep"), STOCK + CLEAN)

    assert [answer.text for answer in outcome.answers] == ["deep.qdisc_drops == 0"]
    assert (outcome.experiment, outcome.verdict) == ("exp", "pass")
    assert [trial.slot.block for trial in outcome.of("deep")] == list(range(6))


def test_arms_are_chosen_in_the_order_of_the_file() -> None:
    source = parse_topology(_TOPOLOGY)

    assert selected_arms(source, ()) == ("stock", "deep", "other")
    assert selected_arms(source, ("other", "stock")) == ("stock", "other")
    with pytest.raises(UsageError, match="has no arm 'x'"):
        selected_arms(source, ("x",))
    for missing, problem in (("arms", "no arms to compare"), ("workloads", "no workloads")):
        text = "\n".join(line for line in _TOPOLOGY.splitlines() if not line.startswith((missing, "expect")))
        with pytest.raises(UsageError, match=problem):
            selected_arms(parse_topology(text), ())


def test_there_are_as_many_blocks_as_the_comparisons_of_the_arms_that_run_need() -> None:
    names = ("retransmits", "timeouts", "lost", "packets", "qdisc_drops", "socket_drops", "cpu_seconds")
    compared = ", ".join(f"{arm}.{name} < stock.{name}" for arm in ("deep", "other") for name in names)
    source = parse_topology(_TOPOLOGY.replace("[deep", f"[{compared}, deep"))

    assert least_blocks(source, ("stock",)) < 8
    assert usual_blocks(source, ("stock",)) == usual_blocks(parse_topology(_TOPOLOGY), ("stock", "deep")) == 8
    assert least_blocks(source, ("stock", "deep")) == usual_blocks(source, ("stock", "deep")) == 9
    assert usual_blocks(source, ("stock", "deep", "other")) == 10
    assert usual_blocks(parse_topology(f"{_TOPOLOGY}blocks: 3"), ("stock", "deep", "other")) == 3


def test_a_failed_trial_makes_a_run_invalid_whatever_was_asked() -> None:
    broken = replace(STOCK[0], state="failed", error="panic")

    assert judge([], [broken, *CLEAN], control="stock")[0] == "invalid"
    assert judge([], [*STOCK, *CLEAN], control="stock")[0] == "inconclusive"


@pytest.mark.parametrize(
    ("required", "reason"),
    [
        ("stock.a.qdisc_drops > 0", "does not hold in 1 of 2 trials (worst: 0)"),
        ("stock.qdisc_drops > 0", ""),
        ("stock.retransmits > 100", "does not hold in 2 of 2 trials (worst: 0)"),
    ],
)
def test_what_is_required_must_show_in_every_trial_or_the_run_is_invalid(required: str, reason: str) -> None:
    """The queue of the control arm that dropped may not be the one that was meant."""
    stock = [replace(trial, nodes={"a": {"qdisc_drops": 5.0 * trial.slot.block}}) for trial in STOCK[:2]]
    zd = _trials("zd", _drops(0, 0))

    verdict, (answer,) = judge(
        [parse_expectation("zd.qdisc_drops == 0")],
        [replace(trial, figures={**trial.figures, "retransmits": 0.0}) for trial in stock] + zd,
        control="stock",
        requires=[parse_expectation(required)],
    )

    assert verdict == answer.verdict == ("invalid" if reason else "pass")
    assert not reason or answer.reason == f"{required} is required, and {reason}"


def test_drops_that_are_required_are_all_the_pressure_there_has_to_be() -> None:
    """Of several controls only some may be run."""
    trials = _trials("stock-gso", _drops(9, 9)) + _trials("zd-gso", _drops(0, 0))
    expectations = [parse_expectation("zd-gso.qdisc_drops == 0")]

    assert judge(expectations, trials, control="stock")[0] == "invalid"
    required = [parse_expectation("stock-gso.qdisc_drops > 0")]
    assert judge(expectations, trials, control="stock", requires=required)[0] == "pass"
