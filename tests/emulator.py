"""Faults of QEMU that end guests of several CPUs now and then, and tests that begin anew on exactly those."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final

from zdlab.cli.checkup import several_cpus
from zdlab.errors import GuestError
from zdlab.experiment.setup import tool_versions
from zdlab.lab.client import Lab
from zdlab.lab.request import BootFiles
from zdlab.plan.build import Plan

#: How often something may begin anew.
ATTEMPTS: Final = 4
#: What a kernel says when it meets a breakpoint it knows nothing of: at the top of a trace, in it where an interrupt
#: was met by it, and at its end, where the byte that was to be run next is the second one of a nop. And what is said of
#: a QEMU that crashes, which nothing a guest does may make it do.
_WORDS: Final = re.compile(
    r"Oops: int3|asm_exc_int3|Code: .* (?:66 <90>|0f <1f> 44 00 00)|QEMU exited by signal SIGSEGV"
)


@cache
def unsound_cpus() -> bool:
    """Tell whether this computer's QEMU now and then gets code wrong that the kernel patches below several CPUs."""
    return not several_cpus(tool_versions()["qemu"]).good


def emulator_failed(said: Iterable[str], *, unsound: bool | None = None) -> bool:
    """Tell from an error and the console's last lines whether a guest ended by a fault of the emulator.

    To flip a static key the kernel writes a breakpoint over code that another CPU may be about to run: zD's switch is
    one, and at boot there are others. QEMU's multithreaded emulation (seen with 7.2) now and then raises it when the
    kernel no longer expects one, and the guest panics in whatever code that was. Mended in QEMU 8.1 (commit
    deba78709ae8, "accel/tcg: Always lock pages before translation"; found by others in
    https://github.com/multipath-tcp/mptcp_net-next/issues/471). More rarely it crashes, at boot, too.

    :param unsound: whether there is an emulator with that fault; whether this computer's is one when ``None``.
    """
    return (unsound_cpus() if unsound is None else unsound) and any(_WORDS.search(line) for line in said)


def start_lab(plan: Plan, boot: Mapping[str, BootFiles]) -> Lab:
    """Build a lab, anew where a guest did not boot for that.

    :raises ZdlabError: when it cannot be built for another reason.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return Lab.start(plan.outline(), boot)
        except GuestError as error:
            if not emulator_failed((error.message, *error.console)):
                raise
    return Lab.start(plan.outline(), boot)
