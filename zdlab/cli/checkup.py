"""What ``zdlab doctor`` tries: each finding comes from doing the thing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from zdlab.agent.taps import tun_problem
from zdlab.cli.remains import Remains, adopt_orphans, left_since
from zdlab.errors import GuestError, MissingToolError, ZdlabError
from zdlab.experiment.setup import tool_versions
from zdlab.guest.image.contents import PROGRAMS, system_program
from zdlab.guest.kernels import list_kernels
from zdlab.guest.qemu.command import find_qemu
from zdlab.guest.qemu.version import parse_version
from zdlab.lab.client import Lab
from zdlab.lab.resources import boot_files
from zdlab.plan.build import build_plan
from zdlab.topology import parse_topology
from zdlab.traffic import guest_programs, traffic_tools

_NAMESPACES = """
name: doctor
nodes: {a: {kind: host}, b: {kind: host}}
links:
  wire:
    subnet: 192.0.2.0/24
    ends: {a: {qdisc: {kind: tbf, rate: 100mbit, burst: 32kb, limit: 100kb}}, b: {}}
"""
_GUEST = """
name: doctor
nodes: {a: {kind: machine, memory: 256mb}, b: {kind: host}}
links: {wire: {subnet: 192.0.2.0/24, ends: {a: {}, b: {}}}}
"""


_SEVERAL = "several emulated CPUs"
_SEVERAL_FIX = "leave cpus at 1 where guests are emulated, or install QEMU 8.1 or later; KVM does not have this"
#: The first version of QEMU that emulates them soundly.
_SOUND = (8, 1)


@dataclass(frozen=True)
class Finding:
    """One check.

    :param fix: what to do when it is not good.
    :param needed: zdlab is of no use without.
    """

    check: str
    good: bool
    detail: str
    fix: str = ""
    needed: bool = True


#: Finds something out, and takes a while perhaps.
Attempt = Callable[[], Iterable[Finding]]


def attempts(*, guest: bool) -> Iterator[tuple[str, Attempt]]:
    """Yield what is tried, cheap things first, each with a word for it; to be carried out in this order."""
    adopt_orphans()
    before = Remains.now(_name())
    yield "programs", _programs
    yield "devices", _devices
    yield "namespaces", lambda: _lab("namespaces, veth, qdisc, flow", _NAMESPACES)
    if guest:
        yield "a guest", _guest
    yield "what is left", lambda: _left(before)


def _name() -> str:
    """Return the name of the labs that are tried."""
    return f"doctor.{os.getpid()}"


def _left(before: Remains) -> Iterator[Finding]:
    left = left_since(before, _name())
    detail = "; ".join(left) or "no process, namespace, mount, interface or directory"
    yield Finding("nothing left behind", not left, detail, "this is a bug in zdlab; zdlab gc removes directories")


def _devices() -> Iterator[Finding]:
    tun = tun_problem()
    yield Finding("tap devices", not tun, tun or "/dev/net/tun opens", "modprobe tun; chmod 0666 /dev/net/tun")
    yield _kvm()


def _kvm() -> Finding:
    """Say whether the device opens; only booting a kernel proves more, which the guest's line does."""
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Finding("KVM device", True, "/dev/kvm opens; the guest below proves it or not", needed=False)
    fix = "join the group kvm, or live with TCG"
    return Finding("KVM device", False, "/dev/kvm does not open: guests are emulated", fix, needed=False)


def _programs() -> Iterator[Finding]:
    others = {"busybox": "busybox-static", "tcpdump": "tcpdump", "gcc": "build-essential"}
    for name, package in {**PROGRAMS, **others}.items():
        try:
            yield Finding(f"program {name}", True, str(system_program(name, package)))
        except MissingToolError as error:
            yield Finding(f"program {name}", False, error.message, error.hint)
    try:
        yield Finding("QEMU", True, find_qemu())
    except MissingToolError as error:
        yield Finding("QEMU", False, error.message, error.hint)
    else:
        yield several_cpus(tool_versions()["qemu"])


def several_cpus(version: str) -> Finding:
    """Say whether QEMU can be trusted to emulate several CPUs at once.

    Before 8.1 it runs code that was changed under it now and then (its commit deba78709ae8, "accel/tcg: Always lock
    pages before translation"); kernels change theirs at boot and for each static key.

    :param version: the first line of what ``--version`` says.
    """
    found = parse_version(version)
    if found is None:
        return Finding(_SEVERAL, False, f"no version in {version!r}", _SEVERAL_FIX, needed=False)
    good = found >= _SOUND
    words = version.partition(" (")[0].removeprefix("QEMU emulator ")
    detail = words if good else f"{words}: a guest with cpus above 1 panics now and then, or QEMU crashes"
    return Finding(_SEVERAL, good, detail, _SEVERAL_FIX, needed=False)


def _guest() -> Iterator[Finding]:
    built = [kernel.name for kernel in list_kernels() if kernel.path is not None]
    if "stock" not in built:
        yield Finding("kernel stock", False, "not built yet", "zdlab kernels build stock")
        return
    yield Finding("kernel stock", True, "built")
    yield from _lab("guest boots and sends a flow", _GUEST)


def _lab(check: str, text: str) -> Iterator[Finding]:
    """Build a lab, send one flow through it, and take it down."""
    source = parse_topology(text, "doctor")
    plan = build_plan(source.base, source.name)
    accelerator = ""
    try:
        tools = traffic_tools()
        boot, _, _ = boot_files(plan, source, guest_programs(tools))
        with Lab.start(plan.outline(), boot, name=_name()) as lab:
            for node in lab.status()["nodes"]:
                if "accelerator" in node:
                    accelerator = f"on {node['accelerator']} ({node['accelerator_reason']}); "
            client = "/usr/bin" if boot else str(tools.directory)
            arguments = ["-l", "0.5", "--nolog"] if tools.origin == "zdlab" else ["-l", "1", "--nolog"]
            server = lab.spawn("b", [str(Path(tools.directory) / "tcp_stream"), *arguments])
            done = lab.run("a", [f"{client}/tcp_stream", "-c", "-H", "192.0.2.2", *arguments], timeout=60)
            server.kill()
            if done.returncode:
                yield Finding(check, False, done.stderr.decode("utf-8", "replace").strip(), "zdlab logs; is it a bug?")
                return
        yield Finding(check, True, f"{accelerator}built, one flow sent, taken down")
    except GuestError as error:
        tail = " | ".join(error.console[-3:])
        yield Finding(check, False, f"{error.message} {tail}", error.hint)
    except (ZdlabError, TimeoutError) as error:
        hint = error.hint if isinstance(error, ZdlabError) else "the computer is very slow, or a firewall interferes"
        yield Finding(check, False, str(error), hint)
