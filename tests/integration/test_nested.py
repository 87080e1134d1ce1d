"""Machines in machines: every level is reached, configured, measured and missed like the first."""

from __future__ import annotations

import json
import os
import signal
import struct
from typing import TYPE_CHECKING

from tests.conftest import answers_on_its_console, await_that

if TYPE_CHECKING:
    from tests.conftest import Done, Sandbox

NODES = """
nodes:
  A: {kind: machine, memory: 1gb}
  br: {kind: bridge, in: A, subnet: [10.1.0.0/24, "fd01::/64"]}
  h: {kind: host, in: A}
  a: {kind: machine, in: A, memory: 256mb}
  b: {kind: host}
links:
  inner: {ends: {a: {tap: {vhost: on}, offloads: {tso: off, gso: off}}, br: {}}}
  side: {ends: {h: {}, br: {}}}
  uplink:
    ends:
      br: {qdisc: {kind: tbf, rate: 2mbit, burst: 16kb, limit: 30kb}}
      b: {}
"""
TRAFFIC = """
workloads:
  bulk: {tool: tcp_stream, from: a, to: b, flows: 5, duration: 4s}
arms:
  stock:
requires:
  - stock.br.qdisc_drops > 0
expectations:
  - stock.a.qdisc_drops == 0
  - stock.a.retransmits > 0
"""


#: Two hypervisors with a guest each, and a switch between them.
TWO = """
nodes:
  A: {kind: machine, memory: 1gb}
  br: {kind: bridge, in: A}
  a: {kind: machine, in: A, memory: 256mb}
  B: {kind: machine, memory: 1gb}
  bs: {kind: bridge, in: B}
  b: {kind: machine, in: B, memory: 256mb}
  sw: {kind: bridge, subnet: 10.1.0.0/24}
links:
  ia: {subnet: 10.1.0.0/24, ends: {a: {}, br: {}}}
  ib: {subnet: 10.1.0.0/24, ends: {b: {}, bs: {}}}
  ua: {ends: {br: {}, sw: {}}}
  ub: {ends: {bs: {}, sw: {}}}
"""


def run_in(sandbox: Sandbox, node: str, *command: str) -> Done:
    return sandbox.zdlab("exec", node, "--", *command)


def test_nodes_in_a_machine_are_reached_like_any_other(sandbox: Sandbox) -> None:
    two = NODES.replace("  b: {kind: host}\n", "  c: {kind: machine, in: A, memory: 256mb}\n  b: {kind: host}\n")
    sandbox.up(two.replace("  side:", "  other: {ends: {c: {}, br: {}}}\n  side:"))
    data = os.urandom(300_000)

    nodes = {node["name"]: node for node in sandbox.zdlab("status", "-o", "json").json()["nodes"]}
    assert {name: node["in"] for name, node in nodes.items()} == {
        "A": "",
        "br": "A",
        "h": "A",
        "a": "A",
        "b": "",
        "c": "A",
    }
    assert nodes["a"]["state"] == nodes["A"]["state"] == "ready"
    # The computer may have no KVM that works; the machine on it has.
    assert nodes["a"]["accelerator"] == "kvm"
    assert nodes["a"]["accelerator_reason"].startswith("A has KVM")
    for name in ("A", "h", "a"):
        assert run_in(sandbox, name, "hostname").out == f"{name}\n"
    assert sandbox.zdlab("exec", "a", "--", "cat", stdin=data).stdout == data
    assert run_in(sandbox, "h", "sh", "-c", "echo bad >&2; exit 9").status == 9
    assert sandbox.zdlab("shell", "a", stdin=b"exit 5\n").status == 5
    assert run_in(sandbox, "a", "ping", "-c", "1", "-W", "5", "b").status == 0
    assert run_in(sandbox, "b", "ping", "-c", "1", "-W", "5", "fd01::1").status == 0
    assert run_in(sandbox, "h", "ping", "-c", "1", "-W", "5", "a").status == 0
    # What the computer's kernel has is not seen in the machine, and the other way round.
    devices = {row["ifname"] for row in json.loads(run_in(sandbox, "br", "ip", "-j", "link").out)}
    assert devices == {"lo", "br0", "eth0", "eth1", "eth2", "eth3"}
    qdiscs = {row["dev"]: row["kind"] for row in json.loads(run_in(sandbox, "br", "tc", "-j", "qdisc").out)}
    assert qdiscs["eth3"] == "tbf"
    # The kernel's own thread serves the inner machine's card.
    threads = run_in(
        sandbox, "A", "sh", "-c", "for pid in $(pidof qemu-system-x86_64); do cat /proc/$pid/task/*/comm; done"
    ).out
    assert "vhost-" in threads
    assert sandbox.zdlab("logs", "a").status == 0
    assert sandbox.zdlab("logs", "h").status == 2
    assert {row["node"] for row in sandbox.zdlab("stats", "-o", "json").json()} >= {"a", "br", "b"}
    _captured(sandbox, "a")
    answers_on_its_console(sandbox, "a")

    # A panic that is printed through two levels may take longer than an agent has to answer.
    done = sandbox.zdlab("exec", "c", "--", "sh", "-c", "echo c > /proc/sysrq-trigger; sleep 1000", timeout=60)
    assert done.status == 3
    assert "machine c panicked" in done.err or "machine c hangs" in done.err
    assert "  console: " in done.err
    assert run_in(sandbox, "a", "true").status == 0

    os.kill(sandbox.pid_of("qemu-system"), signal.SIGKILL)
    await_that(lambda: _states(sandbox)["a"] == "unknown", lambda: str(_states(sandbox)))
    assert _states(sandbox)["A"] == "exited"
    assert _states(sandbox)["b"] == "up"


def _states(sandbox: Sandbox) -> dict[str, str]:
    return {node["name"]: node["state"] for node in sandbox.zdlab("status", "-o", "json").json()["nodes"]}


def _captured(sandbox: Sandbox, sender: str) -> None:
    """Capture three packets that a node in A sends, at its link."""
    ping = sandbox.start("exec", sender, "--", "ping", "-i", "0.2", "-c", "50", "b")
    try:
        done = sandbox.zdlab("capture", "inner", "--count", "3", "icmp")
    finally:
        os.killpg(ping.pid, signal.SIGKILL)
        ping.communicate()

    assert done.status == 0, done.err
    magic, _, _, _, _, _, link_type = struct.unpack("<IHHiIII", done.stdout[:24])
    assert (magic, link_type) == (0xA1B2C3D4, 1)
    assert b"\x08\x00\x45" in done.stdout


def test_guests_of_two_machines_reach_each_other(sandbox: Sandbox) -> None:
    sandbox.up(TWO)

    assert run_in(sandbox, "a", "ping", "-c", "1", "-W", "10", "b").status == 0
    # Each machine has the processes of its own guest.
    guests = {name: run_in(sandbox, name, "pidof", "qemu-system-x86_64").out.split() for name in ("A", "B")}
    assert [len(pids) for pids in guests.values()] == [1, 1]
    nodes = {node["name"]: node["in"] for node in sandbox.zdlab("status", "-o", "json").json()["nodes"]}
    assert (nodes["a"], nodes["b"]) == ("A", "B")

    run_in(sandbox, "A", "kill", "-KILL", *guests["A"])
    await_that(lambda: _states(sandbox)["a"] == "exited", lambda: str(_states(sandbox)))
    assert _states(sandbox)["b"] == _states(sandbox)["B"] == "ready"
    assert run_in(sandbox, "b", "true").status == 0


def test_packets_inside_a_machine_are_captured(sandbox: Sandbox) -> None:
    hosts = NODES.replace("a: {kind: machine, in: A, memory: 256mb}", "a: {kind: host, in: A}")
    sandbox.up(hosts.replace("tap: {vhost: on}, ", ""))

    _captured(sandbox, "a")


def test_an_experiment_counts_every_level(sandbox: Sandbox) -> None:
    # So slow that an emulated guest in an emulated guest fills its queue, whatever else the computer does.
    text = NODES.replace("rate: 2mbit", "rate: 400kbit") + TRAFFIC
    done = sandbox.zdlab("run", sandbox.file(text), "--blocks", "1", "-o", "json")

    found = done.json()
    assert [entry["verdict"] for entry in found["expectations"]] == ["pass"] * 2, json.dumps(found, indent=1)
    assert done.status == 0
    sandbox.await_nothing_left()


def test_what_ends_at_one_level_is_said_of_that_level(sandbox: Sandbox) -> None:
    sandbox.up(NODES)
    inner = run_in(sandbox, "A", "pidof", "qemu-system-x86_64").out.strip()
    assert inner.isdecimal()

    run_in(sandbox, "A", "kill", "-STOP", inner)
    hung = sandbox.zdlab("exec", "a", "--", "sleep", "60")
    assert hung.status == 3
    assert "machine a hangs: its agent did not answer" in hung.err
    assert run_in(sandbox, "h", "true").status == 0

    run_in(sandbox, "A", "kill", "-KILL", inner)
    await_that(lambda: "SIGKILL" in run_in(sandbox, "a", "true").err, lambda: run_in(sandbox, "a", "true").err)
    assert run_in(sandbox, "a", "true").status == 3
    assert run_in(sandbox, "h", "ping", "-c", "1", "-W", "5", "b").status == 0

    os.kill(sandbox.pid_of("qemu-system"), signal.SIGKILL)
    await_that(lambda: "machine A ended" in run_in(sandbox, "h", "true").err, lambda: run_in(sandbox, "h", "true").err)
    assert "machine A ended" in run_in(sandbox, "a", "true").err
    assert run_in(sandbox, "b", "true").status == 0
    assert sandbox.zdlab("down").status == 0
    sandbox.await_nothing_left()


def test_kvm_that_is_asked_for_in_a_machine_must_be_there(sandbox: Sandbox) -> None:
    text = NODES.replace("A: {kind: machine,", "A: {kind: machine, cpu_model: 'max,-svm,-vmx',").replace(
        "a: {kind: machine,", "a: {kind: machine, accelerator: kvm,"
    )
    done = sandbox.zdlab("up", sandbox.file(text))

    assert done.status == 3
    assert "KVM does not work in A: /dev/kvm: " in done.err
    sandbox.await_nothing_left()


def test_a_nested_trial_under_the_virtual_clock_comes_out_the_same_twice(sandbox: Sandbox) -> None:
    """A guest in the capsule, on its emulated KVM: as exact as all else."""
    text = (NODES + TRAFFIC).replace("duration: 4s", "duration: 1s")

    done = sandbox.zdlab("run", sandbox.file(text), "--clock", "virtual", "--blocks", "1", "--seed", "1", "-o", "json")

    found = done.json()
    assert set(found["machines"].values()) == {"the outermost machine is the capsule, those in it are its guests"}
    assert found["repeats"] == {"stock": "identical"}
    assert found["arms"]["stock"]["bytes_delivered"][0] > 0
    sandbox.await_nothing_left()
