"""What an experiment needs before its first trial: each arm's plan, kernels and image, and the record of it all."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import zdlab
from zdlab.experiment.run import Options
from zdlab.experiment.trial import ArmSetup
from zdlab.guest.kernels import KernelFile
from zdlab.guest.qemu.command import PROGRAM
from zdlab.lab.nested import suited_to_computer
from zdlab.lab.resources import boot_files, check_open_files
from zdlab.plan.build import build_plan
from zdlab.topology.arguments import own_flags
from zdlab.topology.loader import TopologyFile
from zdlab.traffic import TrafficTools, guest_programs, traffic_tools


def tools_for(source: TopologyFile, arms: Sequence[str], neper_dir: Path | None) -> TrafficTools:
    """Return the traffic tools for arms: neper's, where the user has it and it has all the flags these ask for.

    :raises UsageError: when ``neper_dir`` lacks a program, or neper a flag.
    :raises ZdlabError: when ours cannot be compiled.
    """
    workloads = [workload for arm in arms for workload in source.arm(arm).workloads.values()]
    return traffic_tools(neper_dir, own_flags={flag for workload in workloads for flag in own_flags(workload.args)})


def prepare_arms(
    source: TopologyFile,
    arms: Sequence[str],
    *,
    accelerator: str | None = None,
    neper_dir: Path | None = None,
    progress: Callable[[str, float | None], None],
) -> tuple[dict[str, ArmSetup], dict[str, Any]]:
    """Return the setup of each arm, and the provenance that goes into the run's record.

    Kernels that are not there yet are built.

    :param accelerator: what is forced for all machines.
    :raises ZdlabError: when a kernel, the image or the traffic tool is not to be had.
    """
    tools = tools_for(source, arms, neper_dir)
    setups: dict[str, ArmSetup] = {}
    kernels: dict[str, KernelFile] = {}
    image_hash = ""
    for arm in arms:
        plan = build_plan(source.arm(arm), source.name)
        check_open_files(plan, source, arm=arm)
        boot, known, image = boot_files(plan, source, guest_programs(tools), arm=arm, progress=progress)
        setups[arm] = ArmSetup(suited_to_computer(plan, boot, accelerator), boot, tools)
        kernels |= {f"{arm}.{node}": kernel for node, kernel in known.items()}
        image_hash = image.sha256 if image is not None else image_hash
    provenance = {
        **own_version(),
        "traffic": {"origin": tools.origin, "sha256": tools.sha256},
        "kernels": {place: described(kernel) for place, kernel in kernels.items()},
        "image": image_hash,
        **tool_versions(),
        "computer": computer(),
        "plans": {arm: [operation.describe() for operation in setup.plan.operations] for arm, setup in setups.items()},
    }
    return setups, provenance


def changed_since(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what a run's trials were made with that is not the same any more, from two provenances.

    Places and names do not matter, contents do; nor does zdlab's own revision.
    """
    before, after = (dict(_leaves(provenance)) for provenance in (recorded, now))
    return [
        f"{' '.join(path)}: {before.get(path, 'nothing')} then, {after.get(path, 'nothing')} now"
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path) and path[0] not in {"zdlab", "revision", "plans"} and path[-1] != "path"
    ]


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from _leaves(below, (*path, name))
    else:
        yield path, value


def described(kernel: KernelFile) -> dict[str, str]:
    """Return what is recorded of a kernel; the hash of its configuration is empty where that is not known."""
    lines = "".join(f"{symbol}={value}\n" for symbol, value in sorted((kernel.config or {}).items()))
    config = hashlib.sha256(lines.encode()).hexdigest() if lines else ""
    return {"path": str(kernel.path), "sha256": kernel.sha256, "release": kernel.release, "config_sha256": config}


def own_version() -> dict[str, str]:
    """Return zdlab's version, and its checkout's revision."""
    return {"zdlab": zdlab.__version__, "revision": _revision()}


def computer() -> dict[str, Any]:
    """Return what this computer is."""
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }


def tool_versions() -> dict[str, str]:
    """Return the versions of the computer's programs, empty for those that are missing, and of what computes."""
    libraries = {name: metadata.version(name) for name in ("numpy", "scipy")}
    return {"qemu": _version([PROGRAM, "--version"]), "iproute2": _version(["tc", "-V"]), **libraries}


def describe_run(
    source: TopologyFile, arms: Sequence[str], options: Options, provenance: dict[str, Any]
) -> dict[str, Any]:
    """Return what is recorded of a run before its first trial."""
    return {
        "experiment": source.name,
        "topology_file": str(Path(source.file).resolve()),
        "topology": source.text,
        "arms": list(arms),
        "blocks": options.blocks,
        "seed": options.seed,
        "accelerator_asked": options.accelerator,
        "clock": options.clock,
        "provenance": provenance,
    }


def _revision() -> str:
    """Return the checkout's revision, empty outside of one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _version(command: Sequence[str]) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return (result.stdout or result.stderr).partition("\n")[0].strip()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return ""
