"""zD in a hypervisor's kernel: full queues make taps wait, as many as share an uplink, and wake them in turn."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.zd_guest import BRIDGE, Guest, zd_guest
from zdlab.measure.counters import node_delta

SCRIPT = Path(__file__).with_name("taps.py")
#: For each process of it; a guest has no pkill.
SIGNAL = (
    "for process in /proc/[0-9]*; do if tr '\\0' ' ' < $process/cmdline 2>/dev/null | grep -q '^python3 .*taps.py'; "
    "then kill -SIGNAL ${process#/proc/} || true; fi; done"
)
PYTHON = "python3 -I -S"
TAPS = [f"t{number}" for number in range(6)]
TBF = "tbf rate 10mbit burst 32kb limit 150kb"
HTB_PFIFO = (
    "handle 1: htb default 1; class add dev up0 parent 1: classid 1:1 htb rate 10mbit burst 32kb cburst 32kb; "
    "qdisc add dev up0 parent 1:1 handle 2: pfifo limit 100"
)
TBF_PFIFO = "handle 1: tbf rate 10mbit burst 32kb limit 150kb; qdisc add dev up0 parent 1:1 handle 2: pfifo limit 100"
TBF_BFIFO = "handle 1: tbf rate 10mbit burst 32kb limit 150kb; qdisc add dev up0 parent 1:1 handle 2: bfifo limit 90kb"
PRIO = (
    "handle 1: tbf rate 10mbit burst 32kb limit 150kb; qdisc add dev up0 parent 1:1 handle 2: prio; "
    "qdisc add dev up0 parent 2:1 pfifo limit 80; qdisc add dev up0 parent 2:2 pfifo limit 80; "
    "qdisc add dev up0 parent 2:3 pfifo limit 80"
)
QUEUES = {"tbf": TBF, "htb-pfifo": HTB_PFIFO, "tbf-pfifo": TBF_PFIFO, "tbf-bfifo": TBF_BFIFO, "prio": PRIO}
SMALL_TBF = "tbf rate 10mbit burst 32kb limit 40kb"
SMALL_BFIFO = (
    "handle 1: htb default 1; class add dev up0 parent 1: classid 1:1 htb rate 10mbit burst 32kb cburst 32kb; "
    "qdisc add dev up0 parent 1:1 handle 2: bfifo limit 80kb"
)
#: Bytes of a frame, of an acknowledgment, and of a GSO packet of 44 full segments.
FRAME, ACK, GSO = 1514, 60, 44 * 1460 + 54


@dataclass
class Written:
    """What taps took, and what left by the uplink."""

    taps: list[dict[str, Any]]
    lost: dict[str, int]
    sent_bytes: int
    counted: dict[str, int]

    @property
    def bytes(self) -> int:
        """Return what all taps took."""
        return sum(row["bytes"] for row in self.taps)

    def jain(self, names: Sequence[str] | None = None) -> float:
        """Return Jain's index of what taps took once the queue was full, in time."""
        shares = [row["share"] for row in self.taps if names is None or row["name"] in names]
        return float(sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares)))


class Hypervisor(Guest):
    """A guest with a bridge, taps on it, and an uplink that takes whatever its queue lets out."""

    def build(self) -> None:
        """Make bridge, uplink and taps."""
        taps = "; ".join(
            f"ip tuntap add dev {tap} mode tap vnet_hdr; ip link set {tap} master br0 up; "
            f"ip link set {tap} type bridge_slave flood off mcast_flood off bcast_flood off learning off"
            for tap in TAPS
        )
        self.run(
            "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6; "
            "ip link add br0 type bridge; ip link set br0 up; "
            f"ip link add up0 type dummy; ip link set up0 master br0 up; {taps}"
        )
        self.lab.put_file("a", "/tmp/taps.py", SCRIPT.read_bytes())

    def uplink(self, words: str, *, zd: bool) -> None:
        """Put a fresh queueing discipline on the uplink, and the switch."""
        self.run("tc qdisc del dev up0 root 2>/dev/null || true")
        self.run(f"tc qdisc replace dev up0 root {words.replace('; ', '; tc ')}")
        self.run(f"echo {int(zd)} > /proc/sys/net/core/zd")

    @contextmanager
    def writers(self, taps: Sequence[str], seconds: float) -> Iterator[list[dict[str, Any]]]:
        """Write to taps while the block runs; what they took is there afterwards."""
        process = self.spawn("a", [*PYTHON.split(), "/tmp/taps.py", str(seconds), *taps])
        rows: list[dict[str, Any]] = []
        try:
            yield rows
            done = process.wait(seconds + 60)
            assert done.returncode == 0, done.stderr
            rows += [json.loads(line) for line in done.stdout.decode().splitlines()]
        finally:
            process.kill()
            self.run(SIGNAL.replace("SIGNAL", "KILL"))
        assert len(rows) == len(taps)

    def stop_writers(self) -> None:
        """Have writers end now, which may miscount a frame."""
        self.run(SIGNAL.replace("SIGNAL", "TERM"))

    def write(self, taps: Sequence[str], seconds: float) -> Written:
        """Write to taps, let the queue drain, and return what was counted."""
        zd = self.zd()
        before = self.lab.counters("a")
        with self.writers(taps, seconds) as rows:
            pass
        self.await_drained()
        after = self.lab.counters("a")
        sent = after["devices"]["up0"]["tx_bytes"] - before["devices"]["up0"]["tx_bytes"]
        counted = {name: value - zd[name] for name, value in self.zd().items()}
        return Written(rows, node_delta("a", before, after).lost, sent, counted)

    def await_drained(self) -> None:
        """Wait until nothing is in the queue."""
        deadline = time.monotonic() + 20
        while any(row["backlog"] for row in json.loads(self.run("tc -s -j qdisc show dev up0"))):
            assert time.monotonic() < deadline, self.run("tc -s qdisc show dev up0")
            time.sleep(0.1)

    def await_taps_parked(self) -> None:
        """Fail when no tap is ever parked."""
        deadline = time.monotonic() + 20
        while not self.zd()["parked_taps_now"]:
            assert time.monotonic() < deadline, "no tap is ever parked"

    def sent(self) -> int:
        """Return how much has left by the uplink."""
        return int(self.lab.counters("a")["devices"]["up0"]["tx_bytes"])


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hypervisor]:
    """A guest that many tests share: each puts its own queue in place."""
    with zd_guest(str(tmp_path_factory.mktemp("run")), Hypervisor) as made:
        made.build()
        made.patch_code_once()
        yield made


def all_of(size: int, taps: Sequence[str] = TAPS, mode: str = "") -> list[str]:
    """Have each tap send frames of a size, all it can."""
    return [f"{tap}:{size}:0:{mode}" for tap in taps]


def on_the_wire(rows: Sequence[Mapping[str, Any]], size: int, *, split: bool) -> int:
    """Return how many bytes taps' packets have where they leave."""
    headers = (GSO // 1460 - 1) * 54 if size == GSO and split else 0
    return sum(int(row["sent"]) * (size + headers) for row in rows)


@pytest.mark.parametrize(
    ("queue", "size", "mode"),
    [
        pytest.param(queue, size, mode, id=f"{name}-{kind}-{mode or 'write'}")
        for name, queue in QUEUES.items()
        for kind, size in {"frames": FRAME, "acks": ACK, "gso": GSO}.items()
        for mode in ("", "vhost")
        # All of it with tbf; with the others batches, and packets as large as there are.
        if name == "tbf" or (kind, mode) in {("frames", "vhost"), ("gso", "")}
    ],
)
def test_a_full_queue_makes_taps_wait_and_drops_nothing(guest: Hypervisor, queue: str, size: int, mode: str) -> None:
    if size == ACK:
        # As many frames as an emulated guest can write.
        queue = queue.replace("10mbit", "1mbit").replace("150kb", "9kb").replace("90kb", "9kb")
    seconds = 3
    if size == GSO and "htb" in queue:
        # A hundred of these are five seconds' worth, and until a queue is full nobody has to wait for a turn.
        queue = queue.replace("pfifo limit 100", "pfifo limit 12")
        seconds = 9
    guest.uplink(queue, zd=False)
    off = guest.write(all_of(size, mode=mode), 2)
    guest.uplink(queue, zd=True)
    on = guest.write(all_of(size, mode=mode), seconds)

    # It had to do: without it the queue overflows.
    assert any(place.startswith("qdisc up0") for place in off.lost), off
    assert on.lost == {}
    assert on.sent_bytes == on_the_wire(on.taps, size, split="tbf" in queue), on
    # What the shaper passes in the time, unless the guest cannot send as much.
    rate = 1e6 / 8 if size == ACK else 10e6 / 8
    assert on.sent_bytes > 0.8 * min(seconds * rate, off.sent_bytes * seconds / 2)
    assert on.jain() > 0.95, on.taps
    assert not any(row["stuck"] or row["spurious"] for row in on.taps), on
    assert on.counted["parked_taps"] > len(TAPS)
    guest.await_nobody_parked()


def test_who_waits_to_be_told_is_told(guest: Hypervisor) -> None:
    guest.uplink(TBF, zd=True)
    written = guest.write(all_of(FRAME, mode="edge"), 3)

    assert written.lost == {}
    assert not any(row["stuck"] for row in written.taps), written
    assert written.sent_bytes > 0.8 * 3 * 10e6 / 8
    guest.await_nobody_parked()


def test_taps_with_little_to_send_get_it_through_and_the_others_share_the_rest(guest: Hypervisor) -> None:
    guest.uplink(TBF, zd=True)
    # Two send all they can; the others need an eighth of the link together.
    little = [f"{tap}:{FRAME}:{10e6 / 8 / 32:.0f}" for tap in TAPS[2:]]
    written = guest.write([*all_of(FRAME, TAPS[:2]), *little], 4)

    assert written.lost == {}
    assert written.jain(TAPS[:2]) > 0.95, written.taps
    for row in written.taps:
        if row["name"] in TAPS[2:]:
            assert row["bytes"] > 0.8 * 10e6 / 8 / 32 * row["seconds"], written
            assert row["longest"] < 2, written
    assert written.bytes > 0.8 * 10e6 / 8 * 4


@pytest.mark.parametrize("mode", ["", "vhost"], ids=["write", "vhost"])
@pytest.mark.parametrize("queue", [TBF, TBF_BFIFO], ids=["tbf", "tbf-bfifo"])
def test_taps_whose_packets_differ_in_size_have_equal_parts(guest: Hypervisor, queue: str, mode: str) -> None:
    guest.uplink(queue, zd=True)
    written = guest.write([*all_of(GSO, TAPS[:2], mode), *all_of(FRAME, TAPS[2:4], mode)], 8)

    assert written.lost == {}
    assert written.jain() > 0.95, written.taps
    assert not any(row["stuck"] or row["spurious"] for row in written.taps), written


@pytest.mark.parametrize("queue", [SMALL_TBF, SMALL_BFIFO], ids=["split", "whole"])
def test_packets_beyond_the_limit_are_queued_and_counted(guest: Hypervisor, queue: str) -> None:
    guest.uplink(queue, zd=True)
    written = guest.write(all_of(GSO), 2)

    assert written.lost == {}
    assert not any(row["stuck"] for row in written.taps), written
    assert written.counted["overshoot_packets"] > 0
    # Since the guest was started, of each tap a packet or a batch of vhost.
    assert 0 < guest.zd()["deepest_overshoot_bytes"] <= len(TAPS) * 64 * FRAME


def test_what_vhost_collected_is_bounded(guest: Hypervisor) -> None:
    guest.uplink(TBF, zd=True)
    written = guest.write(all_of(FRAME, mode="vhost"), 3)

    sent = sum(row["sent"] for row in written.taps)
    assert written.lost == {}
    # Once a queue looks at a tap's packets they come one by one: a turn is a few, where a batch would be 64. How many
    # overshoot depends on how often the queue runs empty, as it does when the computer is busy: then it forgets whose
    # to look at, and each tap may bring a batch again.
    assert sent < 16 * written.counted["resumed_taps"], written
    assert written.counted["overshoot_packets"] < sent / 2, written


def test_a_frame_that_no_queue_of_this_limit_can_have_is_dropped(guest: Hypervisor) -> None:
    guest.uplink("tbf rate 10mbit burst 32kb limit 900", zd=True)
    written = guest.write(all_of(FRAME), 1)

    assert sum(written.lost.values()) == sum(row["sent"] for row in written.taps) > 0
    assert not any(row["stuck"] for row in written.taps), written
    guest.await_nobody_parked()


@pytest.mark.parametrize(
    "change",
    [
        "tc qdisc replace dev up0 root fq_codel",
        f"tc qdisc replace dev up0 root {TBF.replace('10mbit', '7mbit')}",
        "tc qdisc del dev up0 root",
        "tc qdisc change dev up0 root tbf rate 10mbit burst 32kb limit 20kb",
        "tc qdisc change dev up0 root tbf rate 10mbit burst 32kb limit 2mb",
        "ip link set up0 down; sleep 0.2; ip link set up0 up",
        "ip link set up0 nomaster; sleep 0.2; ip link set up0 master br0",
        "ip link set t0 down; sleep 0.2; ip link set t0 up",
        "ip link set br0 down; sleep 0.2; ip link set br0 up",
        "echo 0 > /proc/sys/net/core/zd",
        "echo 0 > /proc/sys/net/core/zd; sleep 0.2; echo 1 > /proc/sys/net/core/zd",
    ],
    ids=[
        "replace-other",
        "replace-same",
        "delete",
        "smaller",
        "larger",
        "link-flap",
        "port-flap",
        "tap-flap",
        "bridge-flap",
        "off",
        "off-and-on",
    ],
)
def test_what_changes_below_parked_taps_wakes_them(guest: Hypervisor, change: str) -> None:
    guest.uplink(TBF, zd=True)
    with guest.writers(all_of(FRAME), 60) as rows:
        guest.await_taps_parked()
        time.sleep(0.5)
        guest.run(change)
        changed = guest.sent()
        time.sleep(1.5)
        # Traffic goes on: more than a tenth of what the shaper passes in that time.
        assert guest.sent() - changed > 1.5 * 10e6 / 8 / 10
        guest.stop_writers()

    assert not any(row["stuck"] for row in rows), rows
    guest.await_nobody_parked()


def test_vhost_that_loses_its_tap_and_gets_it_back_sends_on(guest: Hypervisor) -> None:
    guest.uplink(TBF, zd=True)
    written = guest.write(all_of(FRAME, mode="reset"), 3)

    assert written.lost == {}
    assert written.sent_bytes == written.bytes
    assert not any(row["stuck"] for row in written.taps), written
    guest.await_nobody_parked()


@pytest.mark.parametrize(
    "change",
    ["ip link set up0 down", "echo 0 > /proc/sys/net/core/zd", "tc qdisc replace dev up0 root fq_codel"],
    ids=["link-down", "switch-off", "replace"],
)
def test_a_queue_that_is_no_more_lets_every_tap_go(guest: Hypervisor, change: str) -> None:
    # So slow that nobody is woken by a packet that leaves.
    guest.uplink("tbf rate 20kbit burst 32kb limit 150kb", zd=True)
    with guest.writers(all_of(FRAME), 60) as rows:
        guest.await_taps_parked()
        time.sleep(0.5)
        guest.run(change)
        guest.await_nobody_parked()
        time.sleep(1)
        guest.stop_writers()
    guest.run("ip link set up0 up")

    assert not any(row["stuck"] for row in rows), rows
    # Let go, they could write on.
    assert all(row["sent"] > 100 for row in rows), rows


def test_taps_that_are_closed_while_parked_are_gone(guest: Hypervisor) -> None:
    guest.uplink("tbf rate 20kbit burst 32kb limit 150kb", zd=True)
    process = guest.spawn("a", [*PYTHON.split(), "/tmp/taps.py", "60", *all_of(FRAME)])
    guest.await_taps_parked()
    time.sleep(0.5)
    process.kill()
    guest.run(SIGNAL.replace("SIGNAL", "KILL"))

    # The queue is still full, and will be for a minute.
    deadline = time.monotonic() + 5
    while guest.zd()["parked_taps_now"]:
        assert time.monotonic() < deadline, guest.zd()
    # Nor is a turn left with any of them: others have the whole queue.
    guest.uplink(TBF, zd=True)
    assert guest.write(all_of(FRAME), 1).lost == {}


def test_a_tap_that_is_deleted_while_parked_is_gone(guest: Hypervisor) -> None:
    guest.run(
        "ip tuntap add dev x0 mode tap vnet_hdr; ip link set x0 master br0 up; "
        "ip link set x0 type bridge_slave flood off mcast_flood off bcast_flood off learning off"
    )
    guest.uplink("tbf rate 20kbit burst 32kb limit 150kb", zd=True)
    with guest.writers([f"x0:{FRAME}"], 60) as rows:
        guest.await_taps_parked()
        guest.run("ip link del x0")
        assert guest.zd()["parked_taps_now"] == 0

    assert rows[0]["gone"]


def test_queues_of_one_tap_wait_by_themselves_also_when_they_are_detached(guest: Hypervisor) -> None:
    guest.run(
        "ip tuntap add dev m0 mode tap vnet_hdr multi_queue; ip link set m0 master br0 up; "
        "ip link set m0 type bridge_slave flood off mcast_flood off bcast_flood off learning off"
    )
    guest.uplink(TBF, zd=True)
    even = guest.write([f"m0:{FRAME}"] * 4, 3)
    flapping = guest.write([f"m0:{FRAME}", f"m0:{FRAME}", f"m0:{FRAME}:0:detach"], 3)
    guest.run("ip link del m0")

    assert even.lost == {}
    assert even.jain() > 0.95, even.taps
    assert not any(row["stuck"] for row in even.taps + flapping.taps), flapping
    # What one queue sends from turn to turn is not bounded when it gives up its place by being detached.
    assert all(row["sent"] for row in flapping.taps), flapping
    guest.await_nobody_parked()


def test_a_writer_that_blocks_sleeps_while_its_tap_is_parked(guest: Hypervisor) -> None:
    guest.uplink(TBF, zd=True)
    written = guest.write([f"{tap}:{FRAME}:0:block" for tap in TAPS], 2)

    assert written.lost == {}
    assert written.jain() > 0.95, written.taps
    assert written.counted["parked_taps"] > len(TAPS)
    assert not any(row["refused"] for row in written.taps), written


def test_the_switch_is_that_of_the_queue_wherever_the_taps_are(guest: Hypervisor) -> None:
    guest.run(
        "ip netns add vm; ip netns exec vm sh -ec 'echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6'; "
        "ip link add v0 type veth peer name eth0 netns vm; ip link set v0 master br0 up; "
        "ip netns exec vm sh -ec 'ip link add br1 type bridge; ip link set br1 up; ip link set eth0 master br1 up; "
        "ip tuntap add dev n0 mode tap vnet_hdr; ip link set n0 master br1 up; ip tuntap add dev n1 mode tap vnet_hdr; "
        "ip link set n1 master br1 up; ip link set n0 type bridge_slave flood off; "
        "ip link set n1 type bridge_slave flood off; cat /proc/sys/net/core/zd' | grep -qx 0"
    )
    guest.uplink(TBF, zd=True)
    zd = guest.zd()
    before = guest.lab.counters("a")
    taps = f"n0:{FRAME} n1:{FRAME}"
    said = guest.run(f"ip netns exec vm {PYTHON} /tmp/taps.py 2 {taps}")
    guest.await_drained()
    after = guest.lab.counters("a")
    guest.run("ip netns del vm")

    rows = [json.loads(line) for line in said.splitlines()]
    assert node_delta("a", before, after).lost == {}
    assert after["devices"]["up0"]["tx_packets"] - before["devices"]["up0"]["tx_packets"] == sum(
        row["sent"] for row in rows
    )
    assert guest.zd()["parked_taps"] - zd["parked_taps"] > 2


def test_an_idle_tap_keeps_no_room_from_others(guest: Hypervisor) -> None:
    guest.uplink(TBF, zd=True)
    # All have a turn in the end, and then most of them nothing to send.
    with guest.writers(all_of(FRAME), 2):
        pass
    written = guest.write(all_of(FRAME, TAPS[:1]), 3)

    assert written.lost == {}
    assert written.bytes > 0.8 * 10e6 / 8 * 3, written


def test_others_go_on_when_a_tap_has_its_turn_and_nothing_to_send(guest: Hypervisor) -> None:
    # No queue of this limit has room for two of these, so that it runs empty for each: one that sends nothing then, as
    # most do after their only packet, leaves it empty.
    guest.uplink(SMALL_TBF, zd=True)
    written = guest.write([*(f"{tap}:{GSO}:1" for tap in TAPS[2:]), *all_of(GSO, TAPS[:2])], 4)

    assert written.lost == {}
    assert not any(row["stuck"] for row in written.taps), written
    busy = [row for row in written.taps if row["name"] in TAPS[:2]]
    assert all(row["longest"] < 2 and row["sent"] > 3 for row in busy), written


def test_sockets_do_not_keep_taps_waiting_that_had_more_than_their_part(tmp_path: Path) -> None:
    with zd_guest(str(tmp_path), Guest) as guest:
        guest.lab.put_file("a", "/tmp/taps.py", SCRIPT.read_bytes())
        guest.run(f"{BRIDGE}; tc qdisc add dev eth0 root tbf rate 30mbit burst 32kb limit 100kb")
        guest.run("echo 1 > /proc/sys/net/core/zd")
        # Sockets keep the queue full. What one tap sends at once is more than its part while there is the other.
        with guest.flows(100, 14):
            guest.await_somebody_parked()
            long, short = (
                guest.spawn("a", [*PYTHON.split(), "/tmp/taps.py", seconds, tap])
                for seconds, tap in (("8", f"s0:{GSO}"), ("2", f"s1:{FRAME}"))
            )
            rows = [json.loads(process.wait(60).stdout) for process in (short, long)]

    assert not any(row["stuck"] for row in rows), rows
    # A turn is 64 kB, and the link needs 20 ms for it.
    assert all(row["longest"] < 3 for row in rows), rows
    assert rows[1]["sent"] > 10, rows
