"""Tests begin anew on the emulator's faults and on nothing else."""

from __future__ import annotations

import pytest

from tests.emulator import emulator_failed

BREAKPOINT = "[    0.909673] Code: 48 0f 4f d0 48 39 d6 5b 5d c3 c3 48 89 f9 eb c7 66 <90> c3 8b 05 33 ea c8 00 85 c0"


@pytest.mark.parametrize(
    ("line", "failed"),
    [
        ("[    0.9] Oops: int3: 0000 [#1] SMP", True),
        (BREAKPOINT, True),
        ("machine a ended: QEMU exited by signal SIGSEGV", True),
        ("machine a ended: QEMU exited by signal SIGKILL", False),
        ("[    0.9] Oops: general protection fault: 0000 [#1] SMP", False),
        ("[    0.9] Kernel panic - not syncing: Fatal exception in interrupt", False),
        ("[    0.9] Code: 48 0f 4f d0 <48> 8b bf a0 00 00 00", False),
    ],
)
def test_only_the_faults_of_an_unsound_emulator_are_forgiven(line: str, failed: bool) -> None:
    assert emulator_failed(["something else", line], unsound=True) is failed
    assert not emulator_failed([line], unsound=False)
