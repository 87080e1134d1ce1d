"""What a plan's machines boot from: kernels found or built and looked into, the image made, before a lab starts."""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from zdlab.agent.processes import MOST_FILES
from zdlab.agent.taps import tun_problem
from zdlab.errors import LabError, UsageError
from zdlab.guest.image import Image, build_image, holder_files
from zdlab.guest.kernels import KernelFile, Progress, resolve_kernel
from zdlab.lab.places import no_taps
from zdlab.lab.request import BootFiles
from zdlab.plan.build import Plan
from zdlab.plan.operations import AddQdisc, StartMachine
from zdlab.topology.loader import TopologyFile
from zdlab.topology.nodes import Bridge, Machine
from zdlab.topology.places import around, held, kernel_of

#: Names of what a machine boots from in the image of the machine around it.
KERNEL: Final = "bzImage"
INITRD: Final = "initrd"
#: Files a process with flows has open beside them, as ``images/traffic/net.c`` counts.
_OTHER_FILES: Final = 256


def boot_files(
    plan: Plan,
    source: TopologyFile,
    programs: Mapping[str, Path],
    *,
    arm: str | None = None,
    progress: Progress | None = None,
    in_capsule: bool = False,
) -> tuple[dict[str, BootFiles], dict[str, KernelFile], Image | None]:
    """Return what each machine boots from, the kernels themselves, and the image (``None`` without machines).

    :param programs: programs the image carries beside its own, by their path in the guest.
    :param in_capsule: the lab is built in a capsule, whose kernel has the devices it needs.
    :raises MissingToolError: when the machines' taps cannot be made here; before a kernel is built in vain.
    :raises TopologyError: when a kernel lacks what its machine needs; names the line.
    :raises KernelBuildError: when a kernel of the registry does not build.
    """
    starts = {operation.node: operation for operation in plan.operations if isinstance(operation, StartMachine)}
    if not starts:
        return {}, {}, None
    taps_here = any(start.nics and not start.place for start in starts.values())
    if taps_here and not in_capsule and (problem := tun_problem()):
        raise no_taps(problem)
    known: dict[str, KernelFile] = {}
    kernels: dict[str, KernelFile] = {}
    for start in starts.values():
        if start.kernel not in known:
            try:
                known[start.kernel] = resolve_kernel(start.kernel, Path(source.file).parent, progress)
            except UsageError as error:
                raise source.error((*start.origin, "kernel"), error.message, hint=error.hint, arm=arm) from error
        kernels[start.node] = known[start.kernel]
        _check(kernels[start.node], start, plan, source, arm)
    boot: dict[str, BootFiles] = {}
    image = build_image(programs)
    # The innermost first: a machine's image holds what the machines in it boot from.
    for name in sorted(starts, key=lambda node: -len(around(plan.topology, node))):
        inner = [child for child in starts if starts[child].place == name]
        carried = {path: file for child in inner for path, file in _carried(child, boot[child]).items()}
        own = image
        if held(plan.topology, name):
            own = build_image({**programs, **holder_files(machines=bool(inner)), **carried})
        boot[name] = BootFiles(kernels[name].path, own.path, kernels[name].release)
    for name, start in starts.items():
        if start.place:
            boot[name] = BootFiles(_directory(name) / KERNEL, _directory(name) / INITRD, boot[name].release)
    return boot, kernels, image


def check_open_files(plan: Plan, source: TopologyFile, *, arm: str | None = None) -> None:
    """Refuse flows that a host could not have, before anything is built: each is an open file of one process.

    Machines, and what lives in them, have limits of their own, which their init lifts.

    :raises TopologyError: when one workload has too many; names the line.
    """
    most = most_open_files() - _OTHER_FILES
    for name, work in plan.topology.workloads.items():
        here = [node for node in (work.source, work.to) if plan.on_computer(node)]
        if here and work.flows > most:
            raise source.error(
                ("workloads", name, "flows"),
                f"a process on {here[0]} can have {most} flows, not {work.flows}: every flow is an open file",
                hint=f"as root raise the limit (`ulimit -Hn {work.flows + _OTHER_FILES}`) before zdlab is started, "
                "divide the flows among several workloads, or make the host a machine",
                arm=arm,
            )


def most_open_files() -> int:
    """Return how many open files a program in a lab may have: agents raise the limit as far as the kernel lets them.

    It is tried, because no capability tells: not every root may.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= MOST_FILES:
        return MOST_FILES
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, MOST_FILES))
    except (OSError, ValueError):
        return hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MOST_FILES


def carried_boot(
    boot: Mapping[str, BootFiles], outermost: Iterable[str]
) -> tuple[dict[str, Path], dict[str, BootFiles]]:
    """Return what a capsule's image holds for its guests, by path there, and what they boot from in the capsule.

    :param boot: what :func:`boot_files` returned.
    :param outermost: the machines that are guests of the capsule itself.
    """
    files: dict[str, Path] = {}
    inside = dict(boot)
    for name in outermost:
        files |= _carried(name, boot[name])
        inside[name] = BootFiles(_directory(name) / KERNEL, _directory(name) / INITRD, boot[name].release)
    return (files | holder_files(machines=True) if files else {}), inside


def _directory(machine: str) -> Path:
    """Return where a machine's image has what a machine in it boots from."""
    return Path("/boot") / machine


def _carried(machine: str, files: BootFiles) -> dict[str, Path]:
    return {str(_directory(machine) / KERNEL): files.kernel, str(_directory(machine) / INITRD): files.initrd}


@contextmanager
def located(source: TopologyFile, arm: str | None) -> Iterator[None]:
    """Say of a lab's error which line of the topology led to it, where one did.

    :raises TopologyError: in place of such an error.
    """
    try:
        yield
    except LabError as error:
        if error.origin:
            raise source.error(error.origin, error.message, hint=error.hint, arm=arm) from error
        raise


def _check(kernel: KernelFile, start: StartMachine, plan: Plan, source: TopologyFile, arm: str | None) -> None:
    """Refuse a kernel that lacks what the machine needs, before it is booted."""
    lives = held(plan.topology, start.node)
    features = [
        feature
        for feature, needed in (
            ("namespaces", any(not isinstance(plan.topology.nodes[node], Machine) for node in lives)),
            ("bridge", any(isinstance(plan.topology.nodes[node], Bridge) for node in lives)),
            ("nested", any(isinstance(plan.topology.nodes[node], Machine) for node in lives)),
        )
        if needed
    ]
    missing = kernel.missing(features=features)
    if missing:
        listed = ", ".join(f"{symbol} ({why})" for symbol, why in missing.items())
        message = f"the kernel {start.kernel} of {start.node} lacks {listed}"
        hint = "build these in (=y), or use a kernel of `zdlab kernels list`"
        raise source.error((*start.origin, "kernel"), message, hint=hint, arm=arm)
    for operation in plan.operations:
        if not isinstance(operation, AddQdisc) or kernel_of(plan.topology, operation.node) != start.node:
            continue
        if kernel.missing([operation.kind]):
            (symbol,) = kernel.missing([operation.kind])
            message = f"the kernel {start.kernel} of {start.node} has no qdisc {operation.kind} ({symbol})"
            raise source.error(operation.origin, message, hint="choose another qdisc or kernel", arm=arm)
