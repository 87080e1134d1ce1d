"""Everything that can happen to a queue, while hundreds of sockets wait for it.

``ZDLAB_STRESS_SECONDS=600 ZDLAB_ZD_KERNEL=zd-debug pytest tests/integration/test_zd_stress.py`` runs it for ten
minutes on the kernel that checks locks, memory and lists.

The switch is flipped all the time. Where the emulator cannot be trusted with code that is patched below several CPUs,
another namespace keeps it on, so that it changes no code: ``test_zd_switch.py`` has one CPU, and flips all of it.
"""

from __future__ import annotations

import functools
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.emulator import ATTEMPTS, emulator_failed, unsound_cpus
from tests.integration.zd_guest import BRIDGE, V4, V6, Guest, zd_guest
from zdlab.errors import GuestError

SECONDS = float(os.environ.get("ZDLAB_STRESS_SECONDS", "40"))
SCRIPT = Path(__file__).with_name("churn.py")
TAPS = Path(__file__).with_name("taps.py")
PYTHON = "python3 -I -S"

FREE = "tc qdisc del dev eth0 root 2>/dev/null || true; "
TBF = "tc qdisc replace dev eth0 root tbf rate 30mbit burst 32kb limit 100kb"
PFIFO = f"{FREE}{TBF.replace('root', 'root handle 1:')}; tc qdisc replace dev eth0 parent 1:1 handle 2: pfifo limit 60"
HTB = (
    f"{FREE}tc qdisc add dev eth0 root handle 1: htb default 1; "
    "tc class add dev eth0 parent 1: classid 1:1 htb rate 30mbit burst 32kb cburst 32kb; "
    "tc qdisc add dev eth0 parent 1:1 handle 2: bfifo limit 90000"
)
#: A closed socket whose other end went with its namespace tries to say goodbye once, not for minutes; each has
#: a setting of its own.
ORPHANS = "echo 1 > /proc/sys/net/ipv4/tcp_orphan_retries"
#: A namespace of its own in the guest, sending to the guest through a queue that fills, deleted while it does.
NAMESPACE = (
    "ip netns add inner; ip link add outer type veth peer name eth0 netns inner; "
    "ip addr add 10.9.0.1/24 dev outer; ip link set outer up; "
    "ip netns exec inner sh -ec 'ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up; "
    f"{ORPHANS}; echo 1 > /proc/sys/net/core/zd; tc qdisc add dev eth0 root tbf rate 5mbit burst 16kb limit 40kb'; "
    f"{PYTHON} /tmp/churn.py listen 10.9.0.1 7777 >/tmp/listening & server=$!; "
    "while ! grep -q listening /tmp/listening; do sleep 0.1; done; "
    f"ip netns exec inner {PYTHON} /tmp/churn.py send 10.9.0.1 7777 60 0 60 >/dev/null 2>&1 & client=$!; sleep 2; "
    "ip link del outer; ip netns del inner; rm /tmp/listening; kill -9 $client $server; wait || true"
)
KILLED = (
    f"{PYTHON} /tmp/churn.py send HOST 7000 150 50 60 >/dev/null 2>&1 & client=$!; "
    "sleep 2; kill -9 $client; wait || true"
)
EVENTS = (
    TBF,
    PFIFO,
    HTB,
    "tc qdisc replace dev eth0 root fq_codel; sleep 0.5; " + TBF,
    "tc qdisc del dev eth0 root; sleep 0.3; " + TBF,
    TBF + "; tc qdisc change dev eth0 root tbf rate 30mbit burst 32kb limit 20kb",
    TBF + "; tc qdisc change dev eth0 root tbf rate 30mbit burst 32kb limit 900kb",
    "ip link set eth0 down; sleep 0.2; ip link set eth0 up; ip addr add fd01::1/64 dev eth0 nodad 2>/dev/null || true",
    "echo 0 > /proc/sys/net/core/zd; sleep 0.2; echo 1 > /proc/sys/net/core/zd",
    "for i in 1 2 3 4 5 6; do echo 0 > /proc/sys/net/core/zd; echo 1 > /proc/sys/net/core/zd; done",
    KILLED.replace("HOST", V4),
    KILLED.replace("HOST", V6),
    NAMESPACE,
)

WRITERS = f"{PYTHON} /tmp/taps.py 60 c0:1514 c1:64294 c2:1514:0:vhost >/dev/null 2>&1 & writers=$!; sleep 2; "
KILL = (
    "for process in /proc/[0-9]*; do "
    "if tr '\\0' ' ' < $process/cmdline 2>/dev/null | grep -q '^python3 .*taps.py 60 '; "
    "then kill -KILL ${process#/proc/} || true; fi; done; wait || true"
)
TAP_EVENTS = (
    f"{WRITERS}{KILL}",
    # It is busy until its writer has gone, which may have been so late that it made another.
    f"{WRITERS}ip link del c0; {KILL}; "
    "until ip tuntap add dev c0 mode tap vnet_hdr 2>/dev/null; do sleep 0.1; done; ip link set c0 master br0 up; "
    "ip link set c0 type bridge_slave flood off mcast_flood off bcast_flood off learning off",
    f"{PYTHON} /tmp/taps.py 2 m0:1514 m0:64294 m0:60:0:detach >/dev/null 2>&1",
    "ip link set eth0 nomaster; sleep 0.2; ip link set eth0 master br0",
    "ip link set s0 nomaster; sleep 0.1; ip link set s0 master br0; ip link set s1 down; sleep 0.1; ip link set s1 up",
)


def but_for_the_emulator(test: Callable[[Path], None]) -> Callable[[Path], None]:
    """Begin a test anew when the emulator failed."""

    @functools.wraps(test)
    def attempted(tmp_path: Path) -> None:
        for attempt in range(ATTEMPTS):
            (tmp_path / str(attempt)).mkdir()
            try:
                return test(tmp_path / str(attempt))
            except GuestError as error:
                if attempt + 1 == ATTEMPTS or not emulator_failed((error.message, *error.console)):
                    raise
        return None

    return attempted


@pytest.mark.timeout(SECONDS * 8 + 900)
@but_for_the_emulator
def test_nothing_stalls_leaks_or_complains(tmp_path: Path) -> None:
    chance = random.Random(20260101)  # noqa: S311 - the same order every time
    with zd_guest(str(tmp_path), Guest) as guest:
        guest.lab.put_file("a", "/tmp/churn.py", SCRIPT.read_bytes())
        guest.run(ORPHANS)
        if unsound_cpus():
            guest.patch_code_once()
        before, slabs = guest.sockets(), guest.slabs()
        servers = [
            guest.spawn("b", ["/usr/bin/python3", "-I", "-S", str(SCRIPT), "listen", host, "7000"]) for host in (V4, V6)
        ]
        guest.run(f"{TBF}; echo 1 > /proc/sys/net/core/zd")
        senders = [
            guest.spawn("a", [*PYTHON.split(), "/tmp/churn.py", "send", host, "7000", "150", "50", str(SECONDS)])
            for host in (V4, V6)
        ]
        guest.await_somebody_parked()
        end = time.monotonic() + SECONDS
        done = 0
        while time.monotonic() < end - 5:
            guest.run(chance.choice(EVENTS))
            done += 1
            time.sleep(chance.random() * 0.5)
        guest.run(f"{TBF}; echo 1 > /proc/sys/net/core/zd")
        reports = [json.loads(sender.wait(SECONDS + 300).stdout) for sender in senders]
        counted = guest.zd()
        for server in servers:
            server.kill()

        assert done > SECONDS / 20
        assert counted["parked"] > 1000
        for report in reports:
            assert report["connects"] > 200
            assert report["stuck"] == 0
        guest.await_nobody_parked()
        guest.await_sockets(before)
        guest.await_slabs(slabs)


@pytest.mark.timeout(SECONDS * 8 + 900)
@but_for_the_emulator
def test_taps_beside_sockets_do_not_stall_either(tmp_path: Path) -> None:
    chance = random.Random(20260102)  # noqa: S311 - the same order every time
    events = [event.replace("ip addr add fd01::1/64 dev eth0 nodad", "true") for event in EVENTS]
    with zd_guest(str(tmp_path), Guest) as guest:
        guest.lab.put_file("a", "/tmp/churn.py", SCRIPT.read_bytes())
        guest.lab.put_file("a", "/tmp/taps.py", TAPS.read_bytes())
        guest.run(f"{BRIDGE}; {ORPHANS}")
        if unsound_cpus():
            guest.patch_code_once()
        before, slabs = guest.sockets(), guest.slabs()
        server = guest.spawn("b", ["/usr/bin/python3", "-I", "-S", str(SCRIPT), "listen", V4, "7000"])
        guest.run(f"{TBF}; echo 1 > /proc/sys/net/core/zd")
        churn = [*PYTHON.split(), "/tmp/churn.py", "send", V4, "7000", "60", "30", str(SECONDS)]
        taps = ["s0:1514", "s1:64294", "s2:1514:0:vhost", "s3:1514:0:reset"]
        sender = guest.spawn("a", churn)
        writers = guest.spawn("a", [*PYTHON.split(), "/tmp/taps.py", str(SECONDS), *taps])
        guest.await_somebody_parked()
        end = time.monotonic() + SECONDS
        done = 0
        while time.monotonic() < end - 5:
            # With all checks on, and much to do, a process takes its time.
            guest.run(chance.choice([*events, *TAP_EVENTS, *TAP_EVENTS]), 240)
            done += 1
            time.sleep(chance.random() * 0.5)
        guest.run(f"{TBF}; echo 1 > /proc/sys/net/core/zd")
        rows = [json.loads(line) for line in writers.wait(SECONDS + 300).stdout.decode().splitlines()]
        report = json.loads(sender.wait(SECONDS + 300).stdout)
        counted = guest.zd()
        server.kill()

        assert done > SECONDS / 40
        assert counted["parked_taps"] > 100
        assert len(rows) == len(taps)
        assert not any(row["stuck"] or row["gone"] for row in rows), json.dumps(rows)
        assert report["stuck"] == 0
        guest.await_nobody_parked()
        guest.await_sockets(before)
        guest.await_slabs(slabs)
