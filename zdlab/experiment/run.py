"""Running an experiment: all trials in their order, each recorded as it ends, then the verdict."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

from zdlab.errors import UsageError
from zdlab.experiment.model import Clock, Outcome, Slot, Trial
from zdlab.experiment.schedule import schedule
from zdlab.experiment.statistics import needed_blocks
from zdlab.experiment.trial import ArmSetup, run_trial
from zdlab.experiment.verdict import judge
from zdlab.lab.registry import NAME_LENGTH
from zdlab.lab.request import AcceleratorRequest
from zdlab.lab.resources import located
from zdlab.topology.expectations import Expectation, parse_expectation
from zdlab.topology.loader import TopologyFile

#: Trials of each arm when a file says nothing and its comparisons need no more.
_BLOCKS: Final = 8


@dataclass(frozen=True)
class Options:
    """What the command line decides of a run.

    :param arms: the arms to run; all when empty.
    :param blocks: trials of each arm.
    :param seed: decides the order of trials and what they leave to chance.
    """

    seed: int
    blocks: int
    arms: tuple[str, ...] = ()
    accelerator: AcceleratorRequest | None = None
    keep_on_failure: bool = False
    clock: Clock = "real"


@dataclass(frozen=True)
class Event:
    """Where a run is: a trial's phase, or its end.

    :param done: trials finished, of ``total``.
    :param seconds_left: an estimate, ``None`` before the first trial ended.
    """

    slot: Slot
    phase: str
    done: int
    total: int
    seconds_left: float | None
    trial: Trial | None = None


class Report(Protocol):
    """Takes what a trial is doing."""

    def __call__(self, slot: Slot, phase: str, guess: float | None = None) -> None:
        """Take a phase, and about how many seconds the whole run may still take."""


#: Runs trials and yields them as they end, in whatever order that is; closing it ends what is under way.
Conductor = Callable[[Sequence[Slot], Report], Generator[Trial, None, None]]


class TrialSink(Protocol):
    """Keeps finished trials."""

    def add(self, trial: Trial) -> None:
        """Keep a trial; afterwards it survives this process."""

    def finished(self) -> Sequence[Trial]:
        """Return the trials kept so far, those of an earlier process included."""


def selected_arms(source: TopologyFile, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the arms to run, in the order of the file.

    :raises UsageError: when the file has no arms or not these, or no traffic.
    """
    known = source.arm_names()
    if not source.base.workloads:
        raise UsageError(f"{source.file} has no workloads: there is nothing to measure", hint="add workloads:")
    if not known:
        raise UsageError(f"{source.file} has no arms to compare", hint="add arms: with at least one name")
    for arm in wanted:
        if arm not in known:
            raise UsageError(f"{source.file} has no arm {arm!r}", hint=f"its arms: {', '.join(known)}")
    return tuple(arm for arm in known if not wanted or arm in wanted)


def least_blocks(source: TopologyFile, arms: Sequence[str]) -> int:
    """Return the fewest trials of each arm with which all comparisons can be decided."""
    _, asked = _sentences(source, arms)
    return needed_blocks(sum(1 for expectation in asked if expectation.right is not None))


def usual_blocks(source: TopologyFile, arms: Sequence[str]) -> int:
    """Return how many trials of each arm are run when nobody says: the file's number, or enough for all comparisons."""
    return source.base.blocks or max(_BLOCKS, least_blocks(source, arms))


def run_experiment(
    source: TopologyFile,
    conduct: Conductor,
    options: Options,
    sink: TrialSink,
    progress: Callable[[Event], None],
) -> Outcome:
    """Run what is not finished yet of an experiment, and judge all of it.

    :param conduct: runs the trials.
    :raises TopologyError: when a kernel cannot do what the topology asks for: no trial would get further.
    :raises KeyboardInterrupt: at Ctrl-C, after what was under way was taken down; finished trials are kept.
    """
    arms = selected_arms(source, options.arms)
    slots = schedule(arms, options.blocks, options.seed)
    kept = {trial.slot.number for trial in sink.finished() if trial.state == "done"}
    waiting = [slot for slot in slots if slot.number not in kept]
    before, begun = len(slots) - len(waiting), time.monotonic()
    done = 0

    def left(guess: float | None = None) -> float | None:
        return (time.monotonic() - begun) / done * (len(waiting) - done) if done and guess is None else guess

    def report(slot: Slot, phase: str, guess: float | None = None) -> None:
        progress(Event(slot, phase, before + done, len(slots), left(guess)))

    with closing(conduct(waiting, report)) as trials:
        for trial in trials:
            sink.add(trial)
            done += 1
            progress(Event(trial.slot, "finished", before + done, len(slots), left(), trial))
            if trial.kept_lab is not None:
                return replace(judge_experiment(source, arms, sink.finished()), kept_lab=trial.kept_lab)
    return judge_experiment(source, arms, sink.finished())


def trial_lab(experiment: str, slot: Slot, pid: int) -> str:
    """Return the name of a trial's lab, which no other one has: where it is too long, experiment and arm give way."""
    own = f".{slot.number}.{pid}"
    return f"{experiment}.{slot.arm}"[: NAME_LENGTH - len(own)] + own


def one_by_one(source: TopologyFile, setups: Mapping[str, ArmSetup], options: Options) -> Conductor:
    """Return what runs trials on this computer, one after the other.

    :param setups: by arm, for every arm that is run.
    """

    def conduct(slots: Sequence[Slot], report: Report) -> Generator[Trial, None, None]:
        for slot in slots:
            with located(source, slot.arm):
                yield run_trial(
                    slot,
                    setups[slot.arm],
                    lab_name=trial_lab(source.name, slot, os.getpid()),
                    topology=source.file,
                    accelerator=options.accelerator,
                    keep_on_failure=options.keep_on_failure,
                    phase=partial(report, slot),
                )

    return conduct


def judge_experiment(source: TopologyFile, arms: Sequence[str], trials: Sequence[Trial]) -> Outcome:
    """Return the outcome of trials; what is required or expected of arms that were not run is left out."""
    required, asked = _sentences(source, arms)
    verdict, answers = judge(asked, trials, control=source.base.control_arm(), requires=required)
    return Outcome(source.name, verdict, answers, tuple(arms), tuple(trials))


def _sentences(source: TopologyFile, arms: Sequence[str]) -> tuple[list[Expectation], list[Expectation]]:
    """Return what a file requires and what it expects of these arms."""
    required, asked = (
        [item for item in map(parse_expectation, texts) if all(figure.arm in arms for figure in item.figures())]
        for texts in (source.base.requires, source.base.expectations)
    )
    return required, asked
