"""Labs of namespaces: building, reaching, showing and ending them."""

from __future__ import annotations

import json
import os
import signal
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT, TOPOLOGIES, await_that, bash_completes

if TYPE_CHECKING:
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


def test_what_a_kernel_refuses_is_told_with_the_line_that_asks_for_it(sandbox: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text("""\
nodes:
  a: {kind: host}
  b:
    kind: host
    routes:
      - {to: 10.9.0.0/16, via: 10.1.0.1}
      - {to: 10.9.0.0/16, via: 10.1.0.1}
links: {wire: {subnet: 10.1.0.0/24, ends: {a: {}, b: {}}}}
""")

    refused = sandbox.zdlab("up", str(file))

    assert refused.status == 2
    assert f"{file}:7: b: route b 10.9.0.0/16 via 10.1.0.1: File exists (EEXIST)" in refused.err
    assert "hint: " in refused.err
    sandbox.await_nothing_left()


def test_more_flows_than_open_files_are_refused_before_anything_is_built(sandbox: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "many.yaml"
    file.write_text(f"""{PAIR}
workloads:
  bulk: {{tool: tcp_stream, from: a, to: b, flows: 245}}
arms:
  few: {{workloads.bulk.flows: 244}}
  many:
""")
    # A privileged process may raise its own limit; this one may not, as in some containers.
    bounded = ("setpriv", "--inh-caps=-sys_resource", "--bounding-set=-sys_resource", "prlimit", "--nofile=500:500")

    refused = sandbox.zdlab("run", str(file), "--blocks", "1", prefix=bounded)

    assert refused.status == 2
    assert f"{file}:6: a process on a can have 244 flows, not 245" in refused.err
    assert "ulimit -Hn 501" in refused.err
    assert "few" not in refused.out


def test_a_lab_comes_up_without_loading_what_only_verdicts_need(sandbox: Sandbox) -> None:
    # Half a second and more, before anything is built.
    sandbox.environment["PYTHONPROFILEIMPORTTIME"] = "1"
    done = sandbox.zdlab("up", sandbox.file(PAIR))
    loaded = {line.rpartition("|")[2].strip() for line in done.err.splitlines() if line.startswith("import time:")}

    assert done.status == 0
    assert "zdlab.lab.client" in loaded
    assert not loaded & {"numpy", "scipy", "zdlab.experiment.run"}


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
      b: {address: 10.1.0.2/24, ingress: on, offloads: {checksum: off}}
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
    features = read("b", "ethtool", "-k", "eth0")
    assert "tx-checksumming: off" in features
    assert "rx-checksumming: off" in features
    assert "10.9.0.0/16 via 10.1.0.1" in read("b", "ip", "route")
    assert "qdisc ingress" in read("b", "tc", "qdisc")
    (queue,) = [row for row in json.loads(read("sw", "tc", "-j", "-r", "qdisc")) if row["kind"] == "tbf"]
    assert queue["options"]["rate"] * 8 == 50_000_000
    assert queue["options"]["limit"] == 90 * 1024
    assert json.loads(read("sw", "ip", "-j", "link", "show", "eth1"))[0]["txqlen"] == 77


@pytest.mark.parametrize("rate", ["80mbit", "80gbit"])
def test_a_peak_rate_is_read_back(sandbox: Sandbox, rate: str) -> None:
    # tc does not tell it to programs; above 34 gbit the kernel has it in another place.
    shaper = f"{{kind: tbf, rate: 20mbit, burst: 20kb, latency: 40ms, peakrate: {rate}, minburst: 20kb}}"

    sandbox.up(PAIR.replace("b: {}", f"b: {{qdisc: {shaper}}}"))

    shown = sandbox.zdlab("exec", "b", "--", "tc", "qdisc", "show", "dev", "eth0").out
    assert f"peakrate {rate[:2]}" in shown


def test_a_lab_sets_sysctls_of_its_namespaces_and_none_of_the_computer(sandbox: Sandbox) -> None:
    sandbox.up(PAIR)

    def write(path: str, value: str) -> int:
        return sandbox.zdlab("exec", "a", "--", "sh", "-c", f"echo {value} > /proc/sys/{path}").status

    # The value that stands there already: where the write passed, nothing would come of it.
    held = Path("/proc/sys/fs/inotify/max_queued_events").read_text(encoding="ascii").strip()
    assert write("fs/inotify/max_queued_events", held) != 0
    assert write("net/../fs/inotify/max_queued_events", held) != 0
    assert write("net/ipv4/tcp_retries2", "9") == 0
    assert sandbox.zdlab("exec", "a", "--", "cat", "/proc/sys/net/ipv4/tcp_retries2").out == "9\n"


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


def test_a_programs_output_that_cannot_be_written_ends_with_3_or_141(sandbox: Sandbox) -> None:
    sandbox.up(PAIR)
    program = "exec a -- sh -c 'echo out; echo err >&2'"

    for where, code in ((">/dev/full", 3), (">&-", 3), ("2>/dev/full", 3), ("| true", 141)):
        done = sandbox.shell(f"zdlab {program} {where}; exit ${{PIPESTATUS[0]}}")
        assert done.status == code, (where, done.err)
        assert "Traceback" not in done.err
    assert "cannot write to standard output: No space left" in sandbox.shell(f"zdlab {program} >/dev/full").err


def test_closed_streams_are_not_taken_by_the_connection_to_the_lab(sandbox: Sandbox) -> None:
    sandbox.up(PAIR)

    empty = sandbox.shell("zdlab exec a -- cat <&-")
    silent = sandbox.shell("zdlab exec a -- true <&- >&- 2>&-")

    assert (empty.status, empty.out, empty.err) == (0, "", "")
    assert silent.status == 0


def test_an_interrupt_is_the_programs_and_what_it_says_to_it_still_comes(sandbox: Sandbox) -> None:
    sandbox.up(PAIR)
    script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done"
    running = sandbox.start("exec", "a", "--", "sh", "-c", script)
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"

    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=30)

    assert (running.returncode, out, err) == (9, b"caught\n", b"")


def test_a_second_interrupt_leaves_a_program_that_does_not_end(sandbox: Sandbox) -> None:
    sandbox.up(PAIR)
    script = "trap 'echo caught' INT; echo ready; while :; do sleep 0.1; done"
    running = sandbox.start("exec", "a", "--", "sh", "-c", script)
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    for _ in range(2):
        os.killpg(running.pid, signal.SIGINT)
        running.stdout.readline()
    running.communicate(timeout=30)

    assert running.returncode == 130
    await_that(lambda: not any("echo caught" in line for line in sandbox.processes().values()), lambda: "it still runs")


def test_a_program_in_a_host_has_its_callers_environment_and_directory(sandbox: Sandbox) -> None:
    sandbox.up(PAIR)
    show = "zdlab exec a -- sh -c 'pwd; echo $MARK'"
    here = sandbox.data / "here"
    here.mkdir()
    hidden = sandbox.runtime if str(sandbox.runtime).startswith("/run/") else Path("/run/user")

    assert sandbox.shell(f"cd {here}; MARK=x {show}").out == f"{here}\nx\n"
    assert sandbox.shell(f"cd {here}; echo 'pwd; echo $MARK' | MARK=x zdlab shell a").out == f"{here}\nx\n"
    # The pod has a /run of its own, and no directory of the computer's in it.
    if hidden.is_dir():
        assert sandbox.shell(f"cd {hidden}; {show}").out.startswith("/\n")


def test_programs_do_not_inherit_where_zdlab_looks_for_its_modules(sandbox: Sandbox) -> None:
    # A program of another Python would load this one's library.
    sandbox.up(PAIR)
    line = f"cd {ROOT}; unset PYTHONPATH; zdlab exec a -- sh -c 'echo $PYTHONPATH'"

    assert sandbox.shell(line).out == f"{sandbox.environment['PYTHONPATH']}\n"


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

    capture = sandbox.start("capture", "wire", "--to", str(target), "--count", "3", "--", "icmp")
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
    refused = sandbox.zdlab("capture", "wire", "--to", str(target), "--", "no filter((")
    assert refused.status == 2
    assert "no filter((" in refused.err
    assert target.read_bytes() == data


def test_a_capture_goes_to_standard_output_and_a_full_disk_is_told(sandbox: Sandbox) -> None:
    sandbox.up(PAIR)

    full = sandbox.zdlab("capture", "wire", "--to", "/dev/full")
    piped = sandbox.start("capture", "wire", "-w", "-", "-c", "1", "icmp")
    assert piped.stderr is not None
    assert b"listening" in piped.stderr.readline()
    sandbox.zdlab("exec", "b", "--", "ping", "-c", "3", "-i", "0.05", "10.1.0.1")
    out, _ = piped.communicate(timeout=30)

    assert full.status == 3
    assert "cannot write /dev/full: No space left on device" in full.err
    assert (piped.returncode, out[:4]) == (0, bytes.fromhex("d4c3b2a1"))
    assert not (sandbox.data / "-").exists()


def test_a_lab_of_a_run_names_its_file_by_its_whole_path(sandbox: Sandbox) -> None:
    file = sandbox.file((TOPOLOGIES / "ns-tbf.yaml").read_text())
    running = sandbox.start("run", file.name, "--blocks", "1")
    await_that(lambda: bool(sandbox.zdlab("ps", "-o", "json").json()), lambda: "no lab")
    shown = sandbox.zdlab("ps", "-o", "json").json()
    os.killpg(running.pid, signal.SIGINT)
    running.communicate(timeout=30)

    assert [lab["topology"] for lab in shown] == [str(file)]


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


def test_names_of_labs_nodes_and_links_are_completed(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.up(PAIR.replace("b:", "beta:"), "--name", "first")

    def completed(*words: str) -> list[str]:
        return bash_completes(tmp_path, list(words), sandbox.environment)

    assert completed("status", "fi") == ["first"]
    assert completed("exec", "--lab", "f") == ["first"]
    assert completed("exec", "--lab", "first", "be") == ["beta"]
    assert completed("shell", "b") == ["beta"]
    assert completed("capture", "w") == ["wire"]


def test_several_looks_are_tables_or_lines_of_json(sandbox: Sandbox) -> None:
    sandbox.up(PAIR)

    tables = sandbox.zdlab("stats", "-n", "2", "-i", "0.1").out
    lines = sandbox.zdlab("stats", "-n", "3", "-i", "0.1", "-o", "json").out.splitlines()

    first, second = tables.split("\n\n")
    assert first.startswith("NODE")
    assert second.startswith("NODE")
    assert tables.endswith("\n")
    looks = [json.loads(line) for line in lines]
    assert len(looks) == 3
    assert all({row["node"] for row in look["qdiscs"]} == {"a", "b"} for look in looks)
    assert looks[0]["time"] < looks[2]["time"]


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
        (
            PAIR.replace("b: {}", "b: {qdisc: {kind: tbf, rate: 12bit, burst: 10kb, limit: 100kb}}"),
            3,
            "a bucket takes 274 s at most at its rate, 412b at 12bit",
        ),
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
