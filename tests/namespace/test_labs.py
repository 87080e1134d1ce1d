"""Labs of namespaces: building, reaching, showing and ending them."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest

from tests.conftest import TOPOLOGIES, await_that

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Sandbox

PAIR = """
nodes: {a: {kind: host}, b: {kind: host}}
links: {wire: {subnet: 10.1.0.0/24, ends: {a: {}, b: {}}}}
"""


def test_a_lab_comes_up_is_listed_and_goes(sandbox: Sandbox) -> None:
    sandbox.up(TOPOLOGIES / "ns-tbf.yaml")

    (lab,) = sandbox.zdlab("ps", "-o", "json").json()
    assert lab["name"] == "ns-tbf"
    assert lab["nodes"] == ["a", "b"]
    assert lab["topology"] == str(TOPOLOGIES / "ns-tbf.yaml")
    assert lab["pid"] in sandbox.processes()
    status = sandbox.zdlab("status", "-o", "json").json()
    assert {node["name"]: node["state"] for node in status["nodes"]} == {"a": "up", "b": "up"}
    for _ in range(2):
        assert sandbox.zdlab("down", "ns-tbf").status == 0
        assert sandbox.zdlab("ps", "-o", "json").json() == []
    sandbox.await_nothing_left()


def test_the_kernel_holds_what_the_file_says(sandbox: Sandbox) -> None:
    sandbox.up("""
nodes:
  a: {kind: host, sysctls: {net.ipv4.tcp_retries2: 7}}
  b: {kind: host, routes: [{to: 10.9.0.0/16, via: 10.1.0.1}]}
  sw: {kind: bridge}
links:
  one: {mtu: 1400, ends: {a: {address: 10.1.0.1/24, mac: "02:00:00:00:00:07", offloads: {tso: off}}, sw: {}}}
  two:
    mtu: 1400
    ends:
      sw: {txqueuelen: 77, qdisc: {kind: tbf, rate: 50mbit, burst: 20kb, limit: 90kb}}
      b: {address: 10.1.0.2/24, ingress: on}
""")

    def read(node: str, *command: str) -> str:
        done = sandbox.zdlab("exec", node, "--", *command)
        assert done.status == 0, done.err
        return done.out

    assert read("a", "cat", "/proc/sys/net/ipv4/tcp_retries2") == "7\n"
    (link,) = json.loads(read("a", "ip", "-j", "addr", "show", "eth0"))
    assert link["mtu"] == 1400
    assert link["address"] == "02:00:00:00:00:07"
    assert [entry["local"] for entry in link["addr_info"] if entry["family"] == "inet"] == ["10.1.0.1"]
    assert "tcp-segmentation-offload: off" in read("a", "ethtool", "-k", "eth0")
    assert "10.9.0.0/16 via 10.1.0.1" in read("b", "ip", "route")
    assert "qdisc ingress" in read("b", "tc", "qdisc")
    (queue,) = [row for row in json.loads(read("sw", "tc", "-j", "-r", "qdisc")) if row["kind"] == "tbf"]
    assert queue["options"]["rate"] * 8 == 50_000_000
    assert queue["options"]["limit"] == 90 * 1024
    assert json.loads(read("sw", "ip", "-j", "link", "show", "eth1"))[0]["txqlen"] == 77


def test_streams_and_exit_codes_pass_through(sandbox: Sandbox) -> None:
    sandbox.up(PAIR)
    data = bytes(range(256)) * 4096

    echoed = sandbox.zdlab("exec", "a", "--", "cat", stdin=data)
    spoken = sandbox.zdlab("exec", "a", "--", "sh", "-c", "echo out; echo err >&2; exit 37")
    killed = sandbox.zdlab("exec", "a", "--", "sh", "-c", "kill -TERM $$")
    missing = sandbox.zdlab("exec", "a", "--", "no-such-program")
    nowhere = sandbox.zdlab("exec", "z", "--", "true")

    assert (echoed.status, echoed.stdout) == (0, data)
    assert (spoken.status, spoken.out, spoken.err) == (37, "out\n", "err\n")
    assert killed.status == 128 + 15
    assert missing.status == 3
    assert "no-such-program" in missing.err
    assert nowhere.status == 2
    assert "z" in nowhere.err


def test_no_string_of_a_user_reaches_a_shell(sandbox: Sandbox) -> None:
    sandbox.up(PAIR)
    canary = sandbox.data / "canary"
    words = f"$(touch {canary}); touch {canary} #"

    done = sandbox.zdlab("exec", "a", "--", "printf", "%s", words)

    assert done.out == words
    assert not canary.exists()


def test_a_node_sees_only_its_own_network(sandbox: Sandbox) -> None:
    sandbox.up(PAIR)

    links = sandbox.zdlab("exec", "a", "--", "ip", "-o", "link").out.splitlines()
    host = sandbox.zdlab("exec", "a", "--", "hostname").out

    assert [line.split(": ")[1].split("@")[0] for line in links] == ["lo", "eth0"]
    assert host == "a\n"


def test_packets_between_nodes_are_captured(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.up(PAIR)
    target = tmp_path / "wire.pcap"

    capture = sandbox.start("capture", "wire", "--to", str(target), "--count", "3")
    await_that(lambda: target.exists() and target.stat().st_size > 0, lambda: "no capture file")
    sandbox.zdlab("exec", "b", "--", "ping", "-c", "3", "-i", "0.05", "10.1.0.1")
    _, err = capture.communicate(timeout=30)

    data = target.read_bytes()
    magic, _, _, _, _, _, network = struct.unpack("=IHHiIII", data[:24])
    assert capture.returncode == 0, err
    assert magic in {0xA1B2C3D4, 0xA1B23C4D}
    assert network == 1
    assert bytes([10, 1, 0, 1]) in data
    assert sandbox.zdlab("capture", "nowhere", "--to", str(target)).status == 2


def test_statistics_show_what_a_queue_did(sandbox: Sandbox) -> None:
    sandbox.up("""
nodes: {a: {kind: host}, b: {kind: host}}
links:
  wire:
    subnet: 10.1.0.0/24
    ends: {a: {qdisc: {kind: tbf, rate: 1mbit, burst: 3kb, limit: 4kb}}, b: {}}
""")
    sandbox.zdlab("exec", "a", "--", "ping", "-q", "-f", "-c", "60", "-l", "60", "-s", "1400", "-w", "2", "10.1.0.2")

    rows = sandbox.zdlab("stats", "-o", "json").json()

    (queue,) = [row for row in rows if row["kind"] == "tbf"]
    assert queue["node"] == "a"
    assert queue["drops"] > 0
    assert queue["packets"] > 0


def test_two_labs_run_side_by_side_and_are_told_apart(sandbox: Sandbox) -> None:
    sandbox.up(PAIR, "--name", "one")
    sandbox.up(PAIR, "--name", "two")

    assert sandbox.zdlab("exec", "a", "--", "true").status == 2
    assert "one, two" in sandbox.zdlab("status").err
    assert sandbox.zdlab("exec", "--lab", "one", "a", "--", "true").status == 0
    twice = sandbox.zdlab("up", sandbox.file(PAIR), "--name", "one")
    assert twice.status == 2
    assert "zdlab down one" in twice.err
    assert sandbox.zdlab("down", "one").status == 0
    assert [lab["name"] for lab in sandbox.zdlab("ps", "-o", "json").json()] == ["two"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("nodes: {a: {kind: host}}\nlinks: {w: {ends: {a: {}, z: {}}}}\n", 2, "z"),
        (PAIR.replace("b: {}", "b: {qdisc: {kind: prio}}"), 3, "no qdisc prio"),
        (PAIR.replace("a: {kind: host}", "a: {kind: host, sysctls: {net.ipv4.no_such: 1}}"), 2, "net.ipv4.no_such"),
        (PAIR.replace("a: {kind: host}", "a: {kind: host, sysctls: {net.ipv4.tcp_ecn: 77}}"), 2, "tcp_ecn"),
    ],
)
def test_what_cannot_be_built_names_the_line_and_leaves_nothing(
    sandbox: Sandbox, text: str, line: int, words: str
) -> None:
    done = sandbox.zdlab("up", sandbox.file(text))

    assert done.status == 2
    assert f"topology.yaml:{line}: " in done.err
    assert words in done.err
    assert "hint: " in done.err
    sandbox.await_nothing_left()


def test_sockets_and_files_are_the_users_own(sandbox: Sandbox) -> None:
    sandbox.up(PAIR)

    assert sandbox.zdlab("exec", "a", "--", "ss", "-Htuln").out == ""
    for directory in (sandbox.runtime / "zdlab", sandbox.runtime / "zdlab" / "topology"):
        assert directory.stat().st_mode & 0o077 == 0
    assert (sandbox.runtime / "zdlab" / "topology" / "control.sock").stat().st_mode & 0o077 == 0
