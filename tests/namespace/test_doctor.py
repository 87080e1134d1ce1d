"""The check-up of the computer, and what it notices of what labs leave."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT
from zdlab.cli.checkup import several_cpus

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Sandbox

#: Leaves something, in namespaces where that disturbs nobody, and prints what is noticed of it.
_NOTICE = """
import os, subprocess, sys
from zdlab.cli.remains import Remains, adopt_orphans, left_since
adopt_orphans()
before = Remains.now("doctor.1")
subprocess.run(["sh", "-c", sys.argv[1]], check=True)
print(*left_since(before, "doctor.1"), sep=chr(10))
"""


def test_the_check_up_leaves_nothing_and_says_so(sandbox: Sandbox) -> None:
    done = sandbox.zdlab("doctor", "--no-guest", "-o", "json")

    found = {row["check"]: row["result"] for row in done.json()}
    assert found["namespaces, veth, qdisc, flow"] == "ok"
    assert found["nothing left behind"] == "ok"


@pytest.mark.parametrize(
    ("version", "good"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)", False),
        ("QEMU emulator version 8.0.5", False),
        ("QEMU emulator version 8.1.0", True),
        ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)", True),
        ("", False),
    ],
)
def test_an_emulator_of_unsound_cpus_is_named(version: str, good: bool) -> None:
    finding = several_cpus(version)

    assert finding.good is good
    assert not finding.needed
    assert "8.1" in finding.fix


def test_findings_are_printed_as_they_are_found(sandbox: Sandbox) -> None:
    running = sandbox.start("doctor", "--no-guest")
    assert running.stdout is not None
    lines = [running.stdout.readline().decode() for _ in range(2)]
    assert running.poll() is None
    out, _ = running.communicate(timeout=60)

    assert lines[0].split() == ["CHECK", "RESULT", "DETAIL"]
    assert lines[1].startswith("program ")
    assert out.decode().splitlines()[-1].startswith("nothing left behind  ")


@pytest.mark.parametrize(
    ("leaving", "noticed"),
    [
        ("true", ""),
        ("unshare --net setsid sleep 4243 >/dev/null 2>&1 & sleep 0.2", ", which holds the network namespace net:["),
        ("setsid sleep 4243 >/dev/null 2>&1 &", "(sleep)"),
        ("mount -t tmpfs none /mnt", "tmpfs mounted at /mnt"),
        ("ip link add left0 type bridge", "interface left0"),
        ("touch $XDG_RUNTIME_DIR/zdlab/.partial", "/zdlab/.partial"),
        ("mkdir $XDG_RUNTIME_DIR/zdlab/doctor.1", "/zdlab/doctor.1"),
        ("mkdir $XDG_RUNTIME_DIR/zdlab/somebodys", ""),
    ],
)
def test_what_is_left_is_noticed(tmp_path: Path, leaving: str, noticed: str) -> None:
    environment = {"PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    alone = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        [*alone, sys.executable, "-c", _NOTICE, leaving],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert noticed in done.stdout if noticed else not done.stdout.strip()
