"""How the trials of ``zdlab run`` are carried out: on this computer one by one, or in capsules side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zdlab.cli.replays import paced
from zdlab.errors import UsageError
from zdlab.experiment.run import Conductor, Options, one_by_one
from zdlab.experiment.setup import prepare_arms
from zdlab.results.store import RunStore
from zdlab.topology.loader import TopologyFile

Show = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Chosen:
    """How trials are carried out.

    :param provenance: what goes into the run's record.
    :param repeat: repeats a trial of each arm and returns what that showed; ``None`` under the real clock, where
        nothing comes out the same twice.
    """

    conduct: Conductor
    provenance: dict[str, Any]
    repeat: Callable[[RunStore, Sequence[str], Show], Mapping[str, str]] | None = None


def chosen_conductor(
    source: TopologyFile, options: Options, *, neper_dir: Path | None, parallel: int | None, progress: Show
) -> Chosen:
    """Return how the trials of a run are carried out.

    :raises UsageError: when an option does not go with the clock.
    :raises ZdlabError: when a kernel, the image or the traffic tool is not to be had.
    """
    if options.clock == "real":
        if parallel is not None:
            raise UsageError(
                "trials side by side would disturb each other", hint="--parallel goes with --clock virtual"
            )
        setups, provenance = prepare_arms(
            source, options.arms, accelerator=options.accelerator, neper_dir=neper_dir, progress=progress
        )
        return Chosen(one_by_one(source, setups, options), provenance)
    if options.accelerator is not None:
        raise UsageError("a capsule runs on the emulator, which counts instructions", hint="leave out --accel")
    if options.keep_on_failure:
        raise UsageError("a lab ends with its capsule", hint="leave out --keep-on-failure")
    from zdlab.capsule.crew import Heard
    from zdlab.capsule.repeat import repeat_arms
    from zdlab.capsule.setup import prepare_capsules
    from zdlab.capsule.trial import Capsules, usual_parallel

    capsules, provenance = prepare_capsules(source, options.arms, neper_dir=neper_dir, progress=progress)
    at_once = parallel or usual_parallel()

    def repeat(store: RunStore, arms: Sequence[str], show: Show) -> Mapping[str, str]:
        def heard(arm: str, word: Heard) -> None:
            show(paced(f"repeating {arm}", word), None)

        return repeat_arms(store, arms, at_once, heard)

    return Chosen(Capsules(source, capsules, at_once), provenance, repeat)
