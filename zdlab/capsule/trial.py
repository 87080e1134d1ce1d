"""Trials in capsules: what each arm is run from, one trial, and many side by side."""

from __future__ import annotations

import gzip
import hashlib
import os
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Final

from zdlab.capsule import machine
from zdlab.capsule.case import Case, command_of, none_came_out, run_case
from zdlab.capsule.crew import Heard, run_crew
from zdlab.capsule.result import observation
from zdlab.capsule.wire import unpacked
from zdlab.errors import GuestError, LabError, ZdlabError
from zdlab.experiment.conclude import broken, concluded
from zdlab.experiment.model import Slot, Trial
from zdlab.experiment.run import Report
from zdlab.experiment.trial import ArmSetup, prepare_task
from zdlab.guest.image import Image
from zdlab.guest.kernels import KernelFile
from zdlab.lab.resources import located
from zdlab.plan.capsule import Placement
from zdlab.topology.loader import TopologyFile
from zdlab.traffic import GUEST_TOOLS

#: The file of a trial that holds what came out of its capsule, as it came.
RESULT: Final = "result.gz"
#: Nanoseconds between samples: they cost instructions of the capsule's only CPU.
SAMPLE_INTERVAL: Final = 50_000_000
#: Virtual seconds a capsule takes before its traffic begins and after it ended, about, and how many more when it
#: boots guests; only the time left needs them.
_AROUND: Final = 1.5
_GUESTS: Final = 1.5
#: MiB by which a capsule's memory may differ from what it is asked for.
_LAYOUTS: Final = 64
#: From one seed to the next; without a factor in common with the number of layouts, so that all of them come up.
_LAYOUT_STEP: Final = 13


def layout(seed: int) -> int:
    """Return by how many MiB a seed makes a capsule's memory larger.

    Where things lie in memory decides a little of what they cost, and always in the same way: in figures of one
    layout that is taken for a property of the kernel, however many seeds there are (Curtsinger and Berger,
    "Stabilizer", ASPLOS 2013). Arms of a block have the same seed, and the same memory.
    """
    return (seed - 1) * _LAYOUT_STEP % _LAYOUTS


@dataclass(frozen=True)
class CapsuleSetup:
    """What the trials of an arm are run from."""

    placement: Placement
    arm: ArmSetup
    kernel: KernelFile
    image: Image
    qemu: str

    def case(self, slot: Slot) -> Case:
        """Return what decides a trial."""
        installed = PurePosixPath(GUEST_TOOLS)
        task, _ = prepare_task(slot, self.arm, host_interval=SAMPLE_INTERVAL, installed=installed)
        case = Case(
            kernel=self.kernel.sha256,
            release=self.kernel.release,
            image=self.image.sha256,
            qemu=self.qemu,
            memory_mib=(self.placement.memory >> 20) + layout(slot.seed),
            seed=slot.seed,
            append=self.placement.append,
            command=(),
            task=task.to_json(),
            boot={name: (str(files.kernel), str(files.initrd), files.release) for name, files in self.arm.boot.items()},
        )
        return replace(case, command=command_of(case))

    def seconds(self) -> float:
        """Return about how many virtual seconds a trial takes."""
        works = self.placement.topology.workloads.values()
        around = _AROUND + (_GUESTS if self.arm.plan.guests() else 0.0)
        return around + max((work.duration + work.start) / 1e9 for work in works)


def run_capsule_trial(slot: Slot, setup: CapsuleSetup, report: machine.Report) -> Trial:
    """Run one trial in a capsule. What goes wrong with it is in its state, not raised.

    :raises LabError: when the kernel refuses something the topology file asks for.
    """
    started = time.monotonic()
    case = setup.case(slot)
    result = b""
    try:
        result = run_case(case, setup.kernel.path, setup.image.path, report)
        header, pieces = unpacked(result)
        seen = observation(header, pieces)
        _, jobs = prepare_task(slot, setup.arm, installed=PurePosixPath(GUEST_TOOLS))
        trial = concluded(slot, setup.arm.plan, jobs, seen)
        clock = {name: header[name] for name in ("booted_ns", "built_ns", "ended_ns")}
        raw = {**trial.raw, "capsule": {**clock, "result": hashlib.sha256(result).hexdigest()}}
        trial = replace(trial, raw=raw)
    except ZdlabError as error:
        if isinstance(error, LabError) and error.origin:
            raise
        trial = broken(slot, error)
        if not result and isinstance(error, GuestError):
            result = none_came_out(error)
    # One that failed can be repeated like any other, and is the one people want to look at again.
    return replace(
        trial,
        accelerators=("tcg",),
        raw={**trial.raw, "case": case.to_json()},
        files={**trial.files, **({RESULT: gzip.compress(result, 6, mtime=0)} if result else {})},
        seconds=time.monotonic() - started,
    )


class Capsules:
    """Runs trials of an experiment in capsules side by side.

    :param parallel: how many at once.
    """

    def __init__(self, source: TopologyFile, setups: Mapping[str, CapsuleSetup], parallel: int) -> None:
        self._source = source
        self._setups = setups
        self._parallel = parallel

    def __call__(self, slots: Sequence[Slot], report: Report) -> Generator[Trial, None, None]:
        """Yield the trials as they end.

        :raises KeyboardInterrupt: at Ctrl-C, after all capsules were ended.
        """

        def run(slot: Slot, heard: machine.Report) -> Trial:
            with located(self._source, slot.arm):
                return run_capsule_trial(slot, self._setups[slot.arm], heard)

        def show(slot: Slot, heard: Heard) -> None:
            report(slot, f"{heard.rate:.2f} virtual s/s, at {heard.virtual:.1f}: {heard.phase}", heard.left)

        crew = run_crew(run, slots, self._parallel, expected=lambda slot: self._setups[slot.arm].seconds(), show=show)
        with closing(crew):
            for _, trial in crew:
                yield trial


def usual_parallel() -> int:
    """Return how many capsules run at once when nobody says: as many as there are CPUs for this process."""
    return len(os.sched_getaffinity(0))
