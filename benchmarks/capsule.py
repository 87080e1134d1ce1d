"""Where the time of a trial under the virtual clock goes, and what each part of the setup costs.

Run as ``.venv/bin/python -m benchmarks.capsule [RUNS]``. One trial (500 flows through a 200 Mbit/s tbf) runs as it
always does, then with one thing switched at a time. The computer's seconds are the CPU's (QEMU's user and system
time), the smallest of the runs, so that what else the computer does matters little.
"""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.virtual import ExactCase
from zdlab.capsule import machine
from zdlab.capsule.case import Case, run_case
from zdlab.capsule.trial import CapsuleSetup
from zdlab.capsule.wire import unpacked
from zdlab.errors import GuestError
from zdlab.experiment.model import Slot

_CASE: Final = ExactCase("virtual-scale", "tbf-500-stock", 1)

#: Changes QEMU's arguments.
Change = Callable[[list[str]], list[str]]


@dataclass(frozen=True)
class Variant:
    """One thing that is otherwise.

    :param change: of QEMU's arguments.
    :param interval: nanoseconds between samples; as ever when ``None``.
    """

    name: str
    change: Change = list
    interval: int | None = None


def _words(old: str, new: str) -> Change:
    """Return what replaces a part of an argument."""

    def change(command: list[str]) -> list[str]:
        changed = [word.replace(old, new) for word in command]
        if changed == command:
            raise ValueError(f"no argument has {old!r}")
        return changed

    return change


VARIANTS: Final = (
    Variant("as ever"),
    Variant("not recorded", _words(",rr=record,rrfile=/dev/null", "")),
    Variant("clock source: ACPI's timer", _words("clocksource=tsc tsc=reliable", "clocksource=acpi_pm")),
    Variant("a tick also when idle (`nohz=off`)", _words("nokaslr", "nohz=off nokaslr")),
    Variant("the kernel prints all it says (`ignore_loglevel`)", _words(" quiet ", " ignore_loglevel ")),
    Variant("no console", _words("console=ttyS0 quiet", "quiet")),
    Variant("samples every 10 ms", interval=10_000_000),
    Variant("samples every second", interval=1_000_000_000),
)


@contextmanager
def _changed(change: Change) -> Iterator[None]:
    whole = machine.capsule_command

    def command(spec: machine.CapsuleSpec, directory: Path, program: str) -> list[str]:
        return change(whole(spec, directory, program))

    machine.capsule_command = command
    try:
        yield
    finally:
        machine.capsule_command = whole


def _used() -> float:
    """Return the CPU seconds of the processes that ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _silent(_seconds: float, _phase: str) -> None:
    pass


def _run(case: Case, setup: CapsuleSetup) -> tuple[float, dict[str, Any]]:
    before = _used()
    header, _ = unpacked(run_case(case, setup.kernel.path, setup.image.path, _silent))
    return _used() - before, header


def _case(setup: CapsuleSetup, interval: int | None) -> Case:
    case = setup.case(Slot(0, 0, _CASE.arm, _CASE.seed))
    if interval is None:
        return case
    return replace(case, task={**case.task, "intervals": dict.fromkeys(case.task["intervals"], interval)})


def _row(name: str, *values: object) -> None:
    sys.stdout.write(f"| {name} | {' | '.join(map(str, values))} |\n")


def variants(setup: CapsuleSetup, runs: int) -> None:
    """Print what each variant takes."""
    sys.stdout.write("| what is otherwise | CPU s | virtual s | instructions while traffic flows, 10^9 |\n")
    sys.stdout.write("| --- | ---: | ---: | ---: |\n")
    for variant in VARIANTS:
        case = _case(setup, variant.interval)
        with _changed(variant.change):
            found = [_run(case, setup) for _ in range(runs)]
        seconds, header = min(found, key=lambda item: item[0])
        before, after = header["observation"]["effort"]
        busy = (after["ns"] - before["ns"]) - (after["idle_ns"] - before["idle_ns"])
        _row(variant.name, f"{seconds:.1f}", f"{header['ended_ns'] / 1e9:.2f}", f"{busy / 1e9:.3f}")


def _kernel_alone(setup: CapsuleSetup) -> tuple[float, float]:
    """Return CPU and virtual seconds until the kernel would start the first program."""
    case = replace(_case(setup, None), append=("rdinit=/nothing",))
    before = _used()
    try:
        run_case(case, setup.kernel.path, setup.image.path, _silent)
    except GuestError as error:
        moments = [float(found[1]) for line in error.console if (found := re.match(r"\[ *([0-9.]+)\].*panic", line))]
        return _used() - before, moments[0]
    raise RuntimeError("a kernel without a first program did not panic")


def _without_traffic(setup: CapsuleSetup) -> tuple[float, dict[str, Any]]:
    case = _case(setup, None)
    return _run(replace(case, task={**case.task, "works": [], "watched": []}), setup)


def parts(setup: CapsuleSetup, runs: int) -> None:
    """Print what the parts of a trial take."""
    whole = min((_run(_case(setup, None), setup) for _ in range(runs)), key=_first)
    empty = min((_without_traffic(setup) for _ in range(runs)), key=_first)
    kernel = min(_kernel_alone(setup) for _ in range(runs))
    header = empty[1]
    rest = (header["ended_ns"] - header["booted_ns"]) / 1e9
    sys.stdout.write("| part | CPU s | virtual s |\n| --- | ---: | ---: |\n")
    _row("QEMU's start and the kernel, to the first program", f"{kernel[0]:.1f}", f"{kernel[1]:.2f}")
    _row(
        "… and imports, building the lab, counters twice, no traffic",
        f"{empty[0]:.1f}",
        f"{header['ended_ns'] / 1e9:.2f}",
    )
    _row("of which after the imports", "", f"{rest:.2f}")
    _row("… and the traffic: the whole trial", f"{whole[0]:.1f}", f"{whole[1]['ended_ns'] / 1e9:.2f}")


def _first(item: Sequence[Any]) -> float:
    return float(item[0])


def main() -> None:
    """Measure and print."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    setup = _CASE.setup()
    parts(setup, runs)
    sys.stdout.write("\n")
    variants(setup, runs)


if __name__ == "__main__":
    main()
