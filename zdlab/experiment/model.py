"""What an experiment consists of and yields: slots, trials, answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from zdlab.measure.queues import Queue

Clock = Literal["real", "virtual"]
Verdict = Literal["pass", "fail", "inconclusive", "invalid"]
#: What repeating a trial shows when all is well.
IDENTICAL: Final = "identical"
#: How a trial ended. ``failed``: the lab or the traffic tool broke; ``hung``: nothing moved any more.
TrialState = Literal["done", "failed", "hung"]


@dataclass(frozen=True)
class Slot:
    """One trial to run.

    :param number: place in the whole run, from 0.
    :param seed: of everything the trial leaves to chance; the same for all arms of a block.
    """

    number: int
    block: int
    arm: str
    seed: int


@dataclass(frozen=True)
class Trial:
    """A trial that was run.

    :param error: what went wrong, for one that is not ``done``.
    :param figures: the metrics of the whole lab; ``nodes`` those of each node.
    :param lost: packets lost by place.
    :param queues: the queues with a limit, and what became of them.
    :param accelerators: what its guests ran on.
    :param seconds: how long it took with building and ending its lab.
    :param kept_lab: the lab that was left running for a look.
    :param raw: everything recorded, for the raw file; empty for one that was loaded.
    :param files: what goes into files beside it, by name.
    """

    slot: Slot
    state: TrialState
    error: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    nodes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)
    queues: tuple[Queue, ...] = ()
    accelerators: tuple[str, ...] = ()
    seconds: float = 0.0
    kept_lab: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)

    def full(self, node: str | None = None) -> bool:
        """Tell whether a queue was full, or a qdisc dropped, of one node when it is named."""
        figures = self.figures if node is None else self.nodes.get(node, {})
        full = any(queue.full for queue in self.queues if node in {None, queue.node})
        return full or figures.get("qdisc_drops", 0) > 0


@dataclass(frozen=True)
class Answer:
    """The verdict on one expectation, with the reason in a sentence."""

    text: str
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    :param answers: one for each expectation, in the order of the file.
    :param kept_lab: the lab of a trial that went wrong, when it was left running; the run ended there.
    :param clock: what its trials were timed by.
    :param forms: what became of each arm's machines under the virtual clock.
    :param repeats: what repeating a trial of each arm showed: ``identical``, or the first difference; empty for a
        run whose trials were not repeated.
    """

    experiment: str
    verdict: Verdict
    answers: tuple[Answer, ...]
    arms: tuple[str, ...]
    trials: tuple[Trial, ...]
    kept_lab: str | None = None
    clock: Clock = "real"
    forms: Mapping[str, str] = field(default_factory=dict)
    repeats: Mapping[str, str] = field(default_factory=dict)

    @property
    def repeatable(self) -> bool | None:
        """Whether trials were repeated and came out identical; ``None`` when none was repeated."""
        return all(found == IDENTICAL for found in self.repeats.values()) if self.repeats else None

    def of(self, arm: str) -> list[Trial]:
        """Return an arm's finished trials by block."""
        done = [trial for trial in self.trials if trial.slot.arm == arm and trial.state == "done"]
        return sorted(done, key=lambda trial: trial.slot.block)
