"""Guests: what they offer, and what is said of those that fail."""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from typing import TYPE_CHECKING

import pytest

from tests.conftest import TOPOLOGIES, answers_on_its_console, await_that

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Sandbox

GUEST = """
nodes: {a: {kind: machine, memory: 256mb}, b: {kind: host}}
links: {wire: {subnet: [10.1.0.0/24, "fd01::/64"], ends: {a: {}, b: {}}}}
"""


def console_line(err: str) -> bool:
    """Tell whether an error shows the end of a console."""
    return any(line.startswith("  console: ") for line in err.splitlines())


def test_a_guest_is_a_node_like_any_other(sandbox: Sandbox) -> None:
    sandbox.up(GUEST)
    data = os.urandom(300_000)

    status = sandbox.zdlab("status", "-o", "json").json()
    (guest,) = [node for node in status["nodes"] if node["kind"] == "machine"]
    assert guest["accelerator"] in {"kvm", "tcg"}
    assert guest["kernel"].startswith("6.")
    assert sandbox.zdlab("exec", "a", "--", "uname", "-r").out.strip() == guest["kernel"]
    assert sandbox.zdlab("exec", "a", "--", "cat", stdin=data).stdout == data
    assert sandbox.zdlab("exec", "a", "--", "sh", "-c", "echo bad >&2; exit 9").status == 9
    assert sandbox.zdlab("exec", "a", "--", "hostname").out == "a\n"
    assert sandbox.zdlab("exec", "a", "--", "ping", "-c", "1", "-W", "5", "10.1.0.2").status == 0
    assert sandbox.zdlab("exec", "b", "--", "ping", "-c", "1", "-W", "5", "fd01::1").status == 0
    # The image's own tc and ip, not BusyBox's, in a shell too.
    assert "iproute2" in sandbox.zdlab("exec", "a", "--", "sh", "-c", "tc -V").out
    assert sandbox.zdlab("shell", "a", stdin=b"tc -V; exit 5\n").status == 5
    logs = sandbox.zdlab("logs", "a")
    assert logs.status == 0
    assert sandbox.zdlab("logs", "b").status == 2
    assert sandbox.zdlab("logs").status == 0


def test_the_console_is_a_way_in_beside_the_agent(sandbox: Sandbox) -> None:
    sandbox.up(GUEST)
    answers_on_its_console(sandbox, "a")
    assert sandbox.zdlab("exec", "a", "--", "true").status == 0


def test_qemu_listens_nowhere_and_is_confined(sandbox: Sandbox) -> None:
    sandbox.up(GUEST)
    pid = sandbox.pid_of("qemu-system")

    command = sandbox.processes()[pid].split()

    assert "-nodefaults" in command
    assert command[command.index("-sandbox") + 1].startswith("on,")
    assert not any(word.startswith(("tcp:", "telnet:", "vnc", "unix:")) for word in command)
    # Filtered system calls (seccomp mode 2), a process group of its own, no listening socket of any kind.
    with open(f"/proc/{pid}/status") as status:  # noqa: PTH123
        assert "Seccomp:\t2\n" in status.read()
    assert os.getpgid(pid) == pid
    for table in ("tcp", "tcp6", "udp", "udp6"):
        with open(f"/proc/{pid}/net/{table}") as rows:  # noqa: PTH123
            assert len(rows.readlines()) == 1


def test_every_qdisc_is_set_and_read_back(sandbox: Sandbox) -> None:
    qdiscs = {
        "pfifo": "{kind: pfifo, limit: 50p}",
        "bfifo": "{kind: bfifo, limit: 64kb}",
        "pfifo_fast": "{kind: pfifo_fast}",
        "tbf": "{kind: tbf, rate: 20mbit, burst: 16kb, latency: 50ms, child: {kind: pfifo, limit: 70p}}",
        "htb": "{kind: htb, default: 1a, r2q: 20, "
        "classes: [{id: 1, rate: 30mbit, ceil: 40gbit, prio: 2, quantum: 2000, "
        "classes: [{id: 1a, rate: 20mbit, burst: 20kb, cburst: 30kb, prio: 3, quantum: 3000, "
        "qdisc: {kind: bfifo, limit: 32kb}}]}]}",
        "prio": "{kind: prio, bands: 4, priomap: [1, 2, 2, 2, 1, 2, 0, 0, 1, 1, 1, 1, 1, 1, 3, 3], "
        "qdiscs: {1: {kind: pfifo, limit: 20p}}}",
        "fq": "{kind: fq, limit: 2000p, flow_limit: 50p, maxrate: 10mbit, quantum: 3000, initial_quantum: 9000, "
        "buckets: 512, orphan_mask: 511, pacing: off, refill_delay: 30ms}",
        "fq_codel": "{kind: fq_codel, limit: 800p, flows: 512, target: 6ms, interval: 80ms, quantum: 900, ecn: off, "
        "memory_limit: 1mb}",
        "codel": "{kind: codel, limit: 300p, target: 7ms, interval: 70ms, ecn: on}",
        "sfq": "{kind: sfq, limit: 100p, perturb: 10s, quantum: 3000, divisor: 512}",
        "red": "{kind: red, limit: 400kb, min: 30kb, max: 90kb, avpkt: 900, burst: 55p, probability: 0.03, "
        "bandwidth: 100mbit, ecn: on}",
        "netem": "{kind: netem, delay: 20ms, jitter: 2ms, loss: 0.01, duplicate: 0, reorder: 0.03, corrupt: 0.04, "
        "rate: 30mbit, limit: 500p}",
    }
    links = "".join(
        f"  l{number}: {{subnet: 10.1.{number}.0/24, ends: {{a: {{ingress: on, qdisc: {text}}}, b: {{}}}}}}\n"
        for number, text in enumerate(qdiscs.values())
    )
    sandbox.up(f"nodes: {{a: {{kind: machine, memory: 256mb}}, b: {{kind: host}}}}\nlinks:\n{links}")

    rows = json.loads(sandbox.zdlab("exec", "a", "--", "tc", "-j", "-r", "qdisc").out)

    roots = {row["dev"]: row for row in rows if row.get("root")}
    assert [roots[f"eth{number}"]["kind"] for number in range(len(qdiscs))] == list(qdiscs)
    assert sum(row["kind"] == "ingress" for row in rows) == len(qdiscs)
    assert roots["eth3"]["options"]["rate"] * 8 == 20_000_000
    assert roots["eth7"]["options"]["limit"] == 800
    children = {row["parent"]: row for row in rows if "parent" in row and row["kind"] != "ingress"}
    assert children["1:1a"]["options"]["limit"] == 32 * 1024


def test_a_value_the_kernel_changes_is_an_error_that_shows_both(sandbox: Sandbox) -> None:
    # sfq keeps at most 127 packets for each flow and lowers larger limits without a word (sch_sfq.c).
    text = GUEST.replace("ends: {a: {}", "ends: {a: {qdisc: {kind: sfq, limit: 9000000p}}")

    done = sandbox.zdlab("up", sandbox.file(text))

    assert done.status == 2
    assert "topology.yaml:3" in done.err
    assert "9000000" in done.err
    assert "the kernel holds" in done.err
    sandbox.await_nothing_left()


@pytest.mark.parametrize(
    ("init", "words"),
    [("/no/such/program", "machine a panicked"), ("/usr/bin/poweroff", "machine a ")],
    ids=["panic", "end"],
)
def test_a_guest_that_does_not_come_up_is_told_with_its_last_lines(sandbox: Sandbox, init: str, words: str) -> None:
    text = GUEST.replace("memory: 256mb", f'memory: 256mb, append: ["rdinit={init}"]')

    done = sandbox.zdlab("up", sandbox.file(text))

    assert done.status == 3
    assert words in done.err
    assert console_line(done.err)
    assert "qemu-system" in done.err
    sandbox.await_nothing_left()


def test_the_least_memory_a_file_may_name_is_enough(sandbox: Sandbox) -> None:
    sandbox.up(GUEST.replace("256mb", "96mb"), "--accel", "tcg")

    assert sandbox.zdlab("exec", "a", "--", "ping", "-c", "1", "-W", "5", "10.1.0.2").status == 0


def test_an_image_that_does_not_fit_into_memory_is_told(sandbox: Sandbox) -> None:
    # As in a guest of 80 MB, which a file cannot ask for.
    done = sandbox.zdlab("up", sandbox.file(GUEST.replace("256mb", '96mb, append: ["mem=80M"]')), "--accel", "tcg")

    assert done.status == 3
    assert "hint: its image does not fit into its memory" in done.err


@pytest.mark.parametrize("sysctls", ["{}", "{net.ipv4.no_such: 1}"], ids=["alone", "with-another-error"])
def test_what_qemu_says_goes_before_what_its_end_brings_about(sandbox: Sandbox, sysctls: str) -> None:
    # QEMU ends while the node at the other end of its tap is wired.
    text = GUEST.replace("memory: 256mb", "memory: 256mb, cpu_model: bogus").replace(
        "host}", f"host, sysctls: {sysctls}}}"
    )

    for _ in range(4):
        done = sandbox.zdlab("up", sandbox.file(text))

        assert done.status == 3, done.err
        assert "unable to find CPU model 'bogus'" in done.err
    sandbox.await_nothing_left()


@pytest.mark.parametrize(
    ("kernel", "words"),
    [("./missing/bzImage", "there is no kernel"), ("./broken", "is no"), ("no-such-kernel", "no kernel")],
)
def test_a_bad_kernel_is_told_before_anything_is_built(sandbox: Sandbox, kernel: str, words: str) -> None:
    (sandbox.data / "broken").write_bytes(b"not a kernel" * 1000)
    text = GUEST.replace("memory: 256mb", f"kernel: {kernel}")

    done = sandbox.zdlab("up", sandbox.file(text))

    assert done.status == 2
    assert "topology.yaml:2: " in done.err
    assert words in done.err
    sandbox.await_nothing_left()


def test_killing_qemu_ends_what_runs_in_it_and_leaves_the_lab_consistent(sandbox: Sandbox) -> None:
    sandbox.up(GUEST)
    running = sandbox.start("exec", "a", "--", "sleep", "1000")
    time.sleep(1)

    os.kill(sandbox.pid_of("qemu-system"), signal.SIGKILL)
    _, err = running.communicate(timeout=10)

    assert running.returncode == 3
    assert b"machine a" in err
    again = sandbox.zdlab("exec", "a", "--", "true")
    assert again.status == 3
    assert "SIGKILL" in again.err
    status = sandbox.zdlab("status", "-o", "json").json()
    assert {node["name"]: node["state"] for node in status["nodes"]} == {"a": "exited", "b": "up"}
    # The other end keeps its interface, and whoever looks at it finds what the status lists.
    (link,) = json.loads(sandbox.zdlab("exec", "b", "--", "ip", "-j", "addr", "show", "dev", "eth0").out)
    assert "NO-CARRIER" in link["flags"]
    assert "10.1.0.2" in {entry["local"] for entry in link["addr_info"]}
    capture = sandbox.start("capture", "wire", "--count", "1")
    assert capture.stdout is not None
    assert capture.stdout.read(4) == struct.pack("=I", 0xA1B2C3D4)
    os.killpg(capture.pid, signal.SIGINT)
    capture.communicate(timeout=10)
    assert "b" in {row["node"] for row in sandbox.zdlab("stats", "-o", "json").json()}
    assert sandbox.zdlab("down").status == 0
    sandbox.await_nothing_left()


def test_a_panic_while_it_runs_is_told_to_whoever_waits(sandbox: Sandbox) -> None:
    sandbox.up(GUEST)

    done = sandbox.zdlab("exec", "a", "--", "sh", "-c", "echo c > /proc/sysrq-trigger; sleep 1000", timeout=60)

    assert done.status == 3
    assert "machine a panicked" in done.err
    assert console_line(done.err)


def test_a_guest_that_stands_still_is_told_from_one_that_works(sandbox: Sandbox) -> None:
    sandbox.up(GUEST)
    qemu = sandbox.pid_of("qemu-system")

    os.kill(qemu, signal.SIGSTOP)

    def state() -> str:
        nodes = sandbox.zdlab("status", "-o", "json").json()["nodes"]
        return str(next(node["state"] for node in nodes if node["name"] == "a"))

    await_that(lambda: state() == "hung", lambda: f"the guest is said to be {state()}", seconds=60)
    done = sandbox.zdlab("exec", "a", "--", "true")
    assert done.status == 3
    assert "hangs" in done.err
    assert sandbox.zdlab("down").status == 0
    sandbox.await_nothing_left()


def test_killing_the_supervisor_takes_the_guests_along(sandbox: Sandbox) -> None:
    sandbox.up(GUEST)
    assert sandbox.pid_of("qemu-system")

    os.kill(sandbox.supervisor(), signal.SIGKILL)

    sandbox.await_nothing_left()


def test_an_accelerator_that_is_forced_is_used(sandbox: Sandbox) -> None:
    sandbox.up(GUEST, "--accel", "tcg")

    status = sandbox.zdlab("status", "-o", "json").json()

    assert next(node["accelerator"] for node in status["nodes"] if node["name"] == "a") == "tcg"
    assert "accel=tcg" in sandbox.processes()[sandbox.pid_of("qemu-system")]


def test_two_queues_and_a_tap_without_vhost(sandbox: Sandbox) -> None:
    text = GUEST.replace("memory: 256mb", "memory: 256mb, cpus: 2").replace(
        "ends: {a: {}", "ends: {a: {tap: {queues: 2, vhost: off, sndbuf: 200kb}}"
    )
    sandbox.up(text)

    assert sandbox.zdlab("exec", "a", "--", "nproc").out == "2\n"
    assert "Combined:\t2" in sandbox.zdlab("exec", "a", "--", "ethtool", "-l", "eth0").out.replace(" ", "")
    assert sandbox.zdlab("exec", "a", "--", "ping", "-c", "2", "-W", "5", "10.1.0.2").status == 0


def test_the_driver_of_a_guest_does_not_undo_what_its_tap_is_to_be(sandbox: Sandbox) -> None:
    sandbox.up(GUEST.replace("b: {}", "b: {offloads: {tso: off, checksum: off}}"))

    features = sandbox.zdlab("exec", "b", "--", "ethtool", "-k", "eth0").out

    assert "tcp-segmentation-offload: off" in features
    assert "tx-checksumming: off" in features


def test_files_of_a_private_directory(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.up(GUEST)

    for path in sandbox.runtime.rglob("*"):
        assert path.stat().st_uid == os.getuid()
    assert (sandbox.runtime / "zdlab").stat().st_mode & 0o777 == 0o700


def test_the_wire_between_two_machines_is_in_the_statistics(sandbox: Sandbox) -> None:
    sandbox.up(TOPOLOGIES / "vm-pair.yaml")

    rows = sandbox.zdlab("stats", "-o", "json").json()

    assert {row["node"] for row in rows} == {"a", "b", "wire:wire"}
