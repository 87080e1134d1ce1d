"""zD's switch, where it changes the kernel's code and not only a setting: below sockets and taps that wait."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.integration.zd_guest import BRIDGE, V4, Guest, zd_guest

SCRIPT = Path(__file__).with_name("churn.py")
TAPS = Path(__file__).with_name("taps.py")
PYTHON = "python3 -I -S"
SECONDS = 30


def test_code_that_is_patched_below_those_who_wait_lets_them_go(tmp_path: Path) -> None:
    """With one CPU, which no emulator gets wrong, and no other namespace that keeps the code as it is."""
    with zd_guest(str(tmp_path), Guest, cpus=1) as guest:
        guest.lab.put_file("a", "/tmp/churn.py", SCRIPT.read_bytes())
        guest.lab.put_file("a", "/tmp/taps.py", TAPS.read_bytes())
        guest.run(BRIDGE)
        server = guest.spawn("b", ["/usr/bin/python3", "-I", "-S", str(SCRIPT), "listen", V4, "7000"])
        guest.run("tc qdisc replace dev eth0 root tbf rate 20mbit burst 32kb limit 100kb")
        sender = guest.spawn("a", [*PYTHON.split(), "/tmp/churn.py", "send", V4, "7000", "40", "0", str(SECONDS)])
        writers = guest.spawn("a", [*PYTHON.split(), "/tmp/taps.py", str(SECONDS), "s0:1514", "s1:1514:0:vhost"])
        end = time.monotonic() + SECONDS - 5
        flips = 0
        while time.monotonic() < end:
            guest.run("echo 1 > /proc/sys/net/core/zd")
            guest.await_somebody_parked()
            guest.run("echo 0 > /proc/sys/net/core/zd")
            # All of them at once, and while the queue is as full as it was.
            guest.await_nobody_parked(4)
            assert guest.zd()["parked_taps_now"] == 0
            flips += 1
        guest.run("echo 1 > /proc/sys/net/core/zd")
        rows = [json.loads(line) for line in writers.wait(SECONDS + 120).stdout.decode().splitlines()]
        report = json.loads(sender.wait(SECONDS + 120).stdout)
        counted = guest.zd()
        server.kill()

        # Twice in 20 s was what a computer busy with six other guests had time for.
        assert flips > 1
        assert counted["parked"] > 10 * flips
        assert counted["parked_taps"] > 0
        assert len(rows) == 2
        assert not any(row["stuck"] or row["gone"] for row in rows), json.dumps(rows)
        assert report["stuck"] == 0
        guest.await_nobody_parked()
