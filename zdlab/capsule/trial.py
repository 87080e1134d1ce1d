"""Trials in capsules: what each arm is run from, one trial, and many side by side."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Final

from zdlab.capsule.case import Case, run_case
from zdlab.capsule.result import observation
from zdlab.capsule.wire import unpacked
from zdlab.errors import LabError, ZdlabError
from zdlab.experiment.model import Slot, Trial
from zdlab.experiment.run import Report
from zdlab.experiment.trial import ArmSetup, broken, evaluate, prepare_task
from zdlab.experiment.workloads import GUEST_TOOLS
from zdlab.guest.image import Image
from zdlab.guest.kernels import KernelFile
from zdlab.lab.resources import located
from zdlab.plan.capsule import Placement
from zdlab.topology.loader import TopologyFile

#: The file of a trial that holds what came out of its capsule, as it came.
RESULT: Final = "result.gz"
#: Nanoseconds between samples: they cost instructions of the capsule's only CPU.
SAMPLE_INTERVAL: Final = 50_000_000
#: Virtual seconds a capsule takes before its traffic begins and after it ended, about; only the time left needs it.
_AROUND: Final = 2.0


class StoppedError(Exception):
    """The run is being ended."""


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
        return Case(
            kernel=self.kernel.sha256,
            release=self.kernel.release,
            image=self.image.sha256,
            qemu=self.qemu,
            memory_mib=self.placement.memory >> 20,
            seed=slot.seed,
            append=self.placement.append,
            task=task.to_json(),
            boot={name: (str(files.kernel), str(files.initrd), files.release) for name, files in self.arm.boot.items()},
        )

    def seconds(self) -> float:
        """Return about how many virtual seconds a trial takes."""
        works = self.placement.topology.workloads.values()
        return _AROUND + max((work.duration + work.start) / 1e9 for work in works)


def run_capsule_trial(slot: Slot, setup: CapsuleSetup, report: Callable[[float, str], None]) -> Trial:
    """Run one trial in a capsule. What goes wrong with it is in its state, not raised.

    :raises LabError: when the kernel refuses something the topology file asks for.
    """
    started = time.monotonic()
    case = setup.case(slot)
    try:
        result = run_case(case, setup.kernel.path, setup.image.path, report)
        header, pieces = unpacked(result)
        seen = observation(header, pieces)
        _, jobs = prepare_task(slot, setup.arm, installed=PurePosixPath(GUEST_TOOLS))
        trial = evaluate(slot, setup.arm.plan, jobs, seen)
        clock = {name: header[name] for name in ("booted_ns", "built_ns", "ended_ns")}
        raw: dict[str, Any] = {**trial.raw, "capsule": {**clock, "result": hashlib.sha256(result).hexdigest()}}
        files = {**trial.files, RESULT: gzip.compress(result, 6, mtime=0)}
        trial = replace(trial, raw=raw, files=files, accelerators=("tcg",))
    except ZdlabError as error:
        if isinstance(error, LabError) and error.origin:
            raise
        trial = broken(slot, error)
    return replace(trial, raw={**trial.raw, "case": case.to_json()}, seconds=time.monotonic() - started)


class Capsules:
    """Runs trials of an experiment in capsules side by side.

    :param parallel: how many at once.
    """

    def __init__(self, source: TopologyFile, setups: Mapping[str, CapsuleSetup], parallel: int) -> None:
        self._source = source
        self._setups = setups
        self._parallel = parallel
        self._stop = threading.Event()
        self._virtual: dict[int, float] = {}

    def __call__(self, slots: Sequence[Slot], report: Report) -> Iterator[Trial]:
        """Yield the trials as they end.

        :raises KeyboardInterrupt: at Ctrl-C, after all capsules were ended.
        """
        begun = time.monotonic()
        total = sum(self._setups[slot.arm].seconds() for slot in slots)

        def run(slot: Slot) -> Trial:
            def heard(virtual: float, phase: str) -> None:
                if self._stop.is_set():
                    raise StoppedError
                self._virtual[slot.number] = virtual
                rate = sum(self._virtual.values()) / (time.monotonic() - begun)
                left = max(0.0, total - sum(self._virtual.values())) / rate if rate else None
                report(slot, f"{phase} ({virtual:.1f} virtual s; {rate:.2f} in a real second)", left)

            with located(self._source, slot.arm):
                return run_capsule_trial(slot, self._setups[slot.arm], heard)

        with ThreadPoolExecutor(self._parallel) as pool:
            waiting: list[Future[Trial]] = [pool.submit(run, slot) for slot in slots]
            try:
                for future in as_completed(waiting):
                    yield future.result()
            finally:
                self._stop.set()
                for future in waiting:
                    future.cancel()


def usual_parallel() -> int:
    """Return how many capsules run at once when nobody says: as many as there are CPUs for this process."""
    return len(os.sched_getaffinity(0))
