"""What an experiment under the virtual clock needs before its first trial: each arm's placement, kernel and image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zdlab.capsule.trial import CapsuleSetup
from zdlab.errors import UsageError
from zdlab.experiment.setup import computer, described, own_version, tool_versions, tools_for
from zdlab.experiment.trial import ArmSetup
from zdlab.guest.image import build_image
from zdlab.guest.kernels import KernelFile, resolve_kernel
from zdlab.guest.kernels import Progress as KernelProgress
from zdlab.lab.nested import suited_to_capsule
from zdlab.lab.resources import boot_files, carried_boot
from zdlab.plan.build import Plan, build_plan
from zdlab.plan.capsule import Placement, PlacementError, place
from zdlab.plan.operations import AddQdisc
from zdlab.topology.loader import TopologyFile
from zdlab.traffic import guest_programs


def prepare_capsules(
    source: TopologyFile,
    arms: Sequence[str],
    *,
    neper_dir: Path | None = None,
    progress: Callable[[str, float | None], None],
) -> tuple[dict[str, CapsuleSetup], dict[str, Any]]:
    """Return what each arm's trials are run from, and the provenance that goes into the run's record.

    Kernels that are not there yet are built.

    :raises TopologyError: when an arm does not fit into a capsule, or its kernel lacks something; names the line.
    :raises ZdlabError: when a kernel, the image or the traffic tool is not to be had.
    """
    tools = tools_for(source, arms, neper_dir)
    versions = tool_versions()
    programs = guest_programs(tools)
    setups: dict[str, CapsuleSetup] = {}
    kernels: dict[str, dict[str, dict[str, str]]] = {}
    for arm in arms:
        try:
            placement = place(source.arm(arm))
        except PlacementError as error:
            raise source.error(error.path, error.message, hint=error.hint, arm=arm) from error
        plan = suited_to_capsule(build_plan(placement.topology, source.name))
        kernel = _kernel(source, arm, placement, plan, progress)
        boot, guests, _ = boot_files(plan, source, programs, arm=arm, progress=progress, in_capsule=True)
        carried, inside = carried_boot(boot, plan.guests())
        image = build_image({**programs, **carried}, capsule=True)
        setups[arm] = CapsuleSetup(placement, ArmSetup(plan, inside, tools), kernel, image, versions["qemu"])
        kernels[arm] = {name: described(guest) for name, guest in guests.items()}
    return setups, {
        **own_version(),
        "traffic": {"origin": tools.origin, "sha256": tools.sha256},
        "capsules": {
            arm: {
                "form": setup.placement.form,
                "memory": setup.placement.memory,
                "kernel": {"name": setup.placement.kernel, **described(setup.kernel)},
                "guests": kernels[arm],
                "image": setup.image.sha256,
            }
            for arm, setup in setups.items()
        },
        **versions,
        "computer": computer(),
        "plans": {
            arm: [operation.describe() for operation in setup.arm.plan.operations] for arm, setup in setups.items()
        },
    }


def _kernel(source: TopologyFile, arm: str, placement: Placement, plan: Plan, progress: KernelProgress) -> KernelFile:
    """Find or build a capsule's kernel, and refuse one that lacks what the arm needs before it is booted."""
    machine = placement.kernel_of
    path = ("nodes",) if machine is None else ("nodes", machine, "kernel")
    try:
        kernel = resolve_kernel(placement.kernel, Path(source.file).parent, progress)
    except UsageError as error:
        raise source.error(path, error.message, hint=error.hint, arm=arm) from error
    kinds = {item.kind for item in plan.operations if isinstance(item, AddQdisc) and plan.on_computer(item.node)}
    missing = kernel.missing(sorted(kinds), features=["capsule", "nested"] if plan.guests() else ["capsule"])
    if missing:
        listed = ", ".join(f"{symbol} ({why})" for symbol, why in missing.items())
        message = f"the kernel {placement.kernel} lacks {listed}"
        raise source.error(path, message, hint="build these in (=y), or use another kernel or qdisc", arm=arm)
    return kernel
