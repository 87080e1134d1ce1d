"""Labs of a user who is not root."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.conftest import NOBODY, TOPOLOGIES, as_nobody

if TYPE_CHECKING:
    from tests.conftest import Sandbox


def test_a_lab_of_namespaces_works_without_root(stranger: Sandbox) -> None:
    prefix = as_nobody(stranger)
    topology = stranger.file((TOPOLOGIES / "ns-tbf.yaml").read_text())

    up = stranger.zdlab("up", topology, prefix=prefix)
    assert up.status == 0, up.err
    shown = stranger.zdlab("exec", "a", "--", "tc", "-s", "qdisc", "show", "dev", "eth0", prefix=prefix)
    assert "qdisc tbf" in shown.out, shown.err
    owners = {Path(f"/proc/{pid}").stat().st_uid for pid in stranger.processes()}
    assert owners == {NOBODY}
    assert stranger.zdlab("down", prefix=prefix).status == 0


def test_packets_are_captured_without_root(stranger: Sandbox) -> None:
    prefix = as_nobody(stranger)
    topology = stranger.file((TOPOLOGIES / "ns-tbf.yaml").read_text())
    assert stranger.zdlab("up", topology, prefix=prefix).status == 0
    ping = subprocess.Popen(
        [*prefix, *stranger.argv("exec", "a", "--", "ping", "-i", "0.1", "b")],
        stdout=subprocess.DEVNULL,
        env=stranger.environment,
        process_group=0,
    )
    try:
        done = stranger.zdlab("capture", "a:eth0", "--count", "2", "icmp", prefix=prefix, timeout=30)
        target = str(stranger.data / "wire.pcap")
        kept = stranger.zdlab("capture", "a:eth0", "--count", "2", "--to", target, "icmp", prefix=prefix, timeout=30)
    finally:
        os.killpg(ping.pid, signal.SIGKILL)
        ping.communicate()

    assert done.status == 0, done.err
    assert "2 packets captured" in done.err
    assert kept.status == 0, kept.err
    assert done.stdout[:4] == bytes.fromhex("d4c3b2a1")
    assert stranger.zdlab("down", prefix=prefix).status == 0
