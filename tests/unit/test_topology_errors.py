"""Topology files that are wrong: what is wrong, in which line, and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.mistakes import (
    BOUND,
    BR,
    BULK,
    COMPARED,
    DEEP,
    GUEST_A,
    GUEST_M,
    GUEST_SUBNET,
    LINES,
    NODE_A,
    NODE_B,
    NODE_M,
    PORT_B,
    PORT_BR,
    SOUND,
    WIRE_A,
    WIRE_B,
    WIRE_SUBNET,
    refused,
    told,
    with_line,
)
from zdlab.errors import TopologyError, UsageError
from zdlab.topology import load_topology, parse_topology


def test_the_file_all_mistakes_are_made_in_is_sound() -> None:
    assert parse_topology(SOUND).arm_names() == ("stock", "deep")


@pytest.mark.parametrize(
    ("line", "text", "problem", "hint"),
    [
        (NODE_A, "a: {kind: host, sysctl: {}}", "unknown key 'sysctl'", "did you mean 'sysctls'?"),
        (NODE_A, "a: {kind: hots}", "unknown kind 'hots'", "known: 'host', 'machine', 'bridge'"),
        (NODE_A, "a: {}", "nodes.a needs kind", "one of: host, machine, bridge"),
        (NODE_A, "a: {kind: host, sysctls: {tcp_sack: 1}}", "is not a name that works here", "it must match"),
        (NODE_A, "a: {kind: host, sysctls: {kernel.core_pattern: x}}", "would change the computer", "on a machine"),
        (NODE_A, "a: {kind: host, sysctls: {fs/inotify/max_user_watches: 9}}", "would change the computer", ""),
        (NODE_A, "a: {kind: host, sysctls: {net.netfilter.nf_hooks_lwtunnel: 1}}", "would change the computer", ""),
        (NODE_A, "a: {kind: host, sysctls: {net/netfilter/nf_conntrack_max: 1}}", "would change the computer", ""),
        (NODE_A, "a: {kind: host, sysctls: {net/../kernel/core_pattern: x}}", "is not a name that works here", ""),
        (NODE_A, "a: {kind: host, sysctls: {net..kernel.core_pattern: x}}", "is not a name that works here", ""),
        (NODE_A, "a: {kind: host, sysctls: {net.//kernel.core_pattern: x}}", "is not a name that works here", ""),
        (BR, "br: {kind: bridge, sysctls: {vm.swappiness: 1}}", "would change the computer", "on a machine"),
        (DEEP, "deep: {nodes.a.sysctls.vm.swappiness: 1}", "would change the computer", "on a machine"),
        (DEEP, "deep: {sysctls.vm.swappiness: 1}", "vm.swappiness is no sysctl of a network namespace", "on a machine"),
        (NODE_A, "a: {kind: host, routes: [{to: 10.9.0.0/16}]}", "routes.0 needs via", ""),
        (NODE_A, "a: {kind: host, routes: [{to: default, via: 10.9.0.1}]}", "cannot reach 10.9.0.1", "via is an"),
        (NODE_A, "a: {kind: host, routes: [{to: default, via: 10.0.0.1/24}]}", "is no address", "without a prefix"),
        (NODE_A, "a: {kind: host, sysctls: {net.ipv4.tcp_sack: true}}", "is a number or a text", "write 1, or a text"),
        (NODE_A, "a: {kind: host, sysctls: {net.ipv4.tcp_sack: ''}}", "is one printable line", "such as 1"),
        (NODE_B, "b!: {kind: host}", "is not a name that works here", "it must match"),
        (BULK, "bulk: {tool: tcp_rr, from: a, to: b, args: [true]}", "a text or a number", "an item of its own"),
        (
            BULK,
            "bulk: {tool: tcp_rr, from: a, to: b, args: ['-6']}",
            "bulk asks for IPv6, but b has no",
            "an IPv6 subnet",
        ),
        (
            BULK,
            "bulk: {tool: tcp_rr, from: a, to: b, args: [--ipv4, '-6']}",
            "-4 and -6 exclude each other",
            "have two workloads",
        ),
        (WIRE_SUBNET, "subnet: 10.0.0.1/24", "10.0.0.1/24 has host bits set", "write 10.0.0.0/24"),
        (WIRE_SUBNET, "subnet: 'fd00::1/64'", "has host bits set", "write fd00::/64"),
        (WIRE_SUBNET, "subnet: 10.0.0.0/33", "does not appear to be an IPv4 or IPv6 network", ""),
        (WIRE_SUBNET, "subnet: 10.0.0.0", "write a subnet like 10.0.0.0/24", ""),
        (WIRE_SUBNET, "subnett: 10.0.0.0/24", "unknown key 'subnett' in links.wire", "did you mean 'subnet'?"),
        (WIRE_A, "a: {qdisk: {kind: fq}}", "unknown key 'qdisk'", "did you mean 'qdisc'?"),
        (WIRE_A, "a: {offloads: {tso: maybe}}", "write on or off", ""),
        (WIRE_A, "a: {offloads: {ts: off}}", "unknown key 'ts'", "did you mean 'tso'?"),
        (WIRE_A, "a: {tap: {queues: 2}}", "this end of wire is no network card", "whose packets leave a machine"),
        (NODE_B, "b: {kind: host, in: x}", "there is no node 'x'", "known: a, b, br, m"),
        (NODE_B, "b: {kind: host, in: a}", "a is a host: no node lives in it", "name a machine"),
        (NODE_M, "m: {kind: machine, in: m}", "m would live in itself", "in the lab"),
        (NODE_M, "m: {kind: machine, cpu_model: 'max -x'}", "is not a name that works here", ""),
        (NODE_M, "m: {kind: machine, irqchip: maybe}", "'on', 'off' or 'split'", ""),
        (NODE_M, "m: {kind: machine, append: [quiet panic=1]}", "'quiet panic=1' is more than one word", ""),
        (NODE_M, "m: {kind: machine, memory: 80mb}", "a guest needs at least 96mb: with less", ""),
        (WIRE_A, "a: {interface: toolongforalinux}", "'toolongforalinux' is no name of", "at most 15 letters"),
        (WIRE_A, "a: {interface: ..}", "'..' is no name of an interface", "a letter first, like eth0"),
        (WIRE_A, "a: {interface: e/0}", "'e/0' is no name of an interface", "a letter first, like eth0"),
        (WIRE_A, "a: {interface: [eth0]}", "is no name of an interface", "a letter first, like eth0"),
        (WIRE_A, "a: {interface: lo}", "'lo' is a name the kernel has taken", "choose another name"),
        (WIRE_A, "a: {interface: all}", "'all' is a name the kernel has taken", "choose another name"),
        (WIRE_A, "a: {interface: default}", "'default' is a name the kernel has taken", "choose another name"),
        (DEEP, "deep: {links.wire.ends.a.interface: all}", "arm deep: links.wire.ends.a.interface: 'all'", "choose"),
        (WIRE_A, "a: {mtu: 67}", "mtu is at least 68", ""),
        (WIRE_A, "a: {address: 10.0.0.1}", "with its prefix length", ""),
        (WIRE_A, "a: {address: 10.0.0.300/24}", "does not appear to be", "write one like 10.0.0.1/24"),
        (GUEST_M, "m: {tap: {vhost: maybe}}", "'maybe' is no switch", "write on, off or auto"),
        (WIRE_A, "a: {address: 10.0.9.1/24}", "is not in 10.0.0.0/24", "write one of the subnet, like 10.0.0.1"),
        (WIRE_A, "a: {address: 10.0.0.0/24}", "network or broadcast address", "take one between, like 10.0.0.1"),
        (WIRE_A, "a: {address: 10.0.0.255/24}", "network or broadcast address", "take one between, like 10.0.0.1"),
        (WIRE_A, "a: {mac: '01:00:00:00:00:01'}", "is no MAC address of an interface", "multicast"),
        (WIRE_A, "a: {mtu: 9kb}", "'9kb' is no whole number", "without a unit"),
        (NODE_A, "a:", "nodes.a is a mapping", "{kind: host}"),
        (NODE_M, "m: {kind: machine, memory: 1kb}", "at least 96mb", ""),
        (DEEP, "deep: {links.wire: null}", "arm deep: ", ""),
        (COMPARED, "- deep.retransmits < stock.throughput_bps", "cannot be compared", "name one metric"),
        (WIRE_B, "c: {}", "there is no node 'c'", "known: a, b, br, m"),
        (WIRE_B, "B: {}", "there is no node 'B'", "known: "),
        (GUEST_M, "m: {tap: {vhost: perhaps}}", "tap.vhost", ""),
        (GUEST_M, "m: {tap: {sndbuf: 100mbit}}", "'mbit' is not a unit of a size", ""),
        (GUEST_SUBNET, "subnet: 10.0.0.128/25", "10.0.0.128/25 overlaps 10.0.0.0/24", "subnets of their own"),
        (PORT_BR, "br: {address: 10.0.2.9/24}", "br is a bridge", "nodes behind it"),
        (PORT_BR, "br: {interface: br0}", "br0 is taken on br", "choose another name"),
        (BULK, "bulk: {tool: tcp_stream, from: a, to: bb}", "there is no node 'bb'", "did you mean 'b"),
        (BULK, "bulk: {tool: tcp_stream, from: a, to: br}", "br is a bridge: it runs no traffic", "name a host"),
        (BULK, "bulk: {tool: tcp_stream, from: a, to: a}", "goes from a to itself", "name two nodes"),
        (BULK, "bulk: {tool: tcp_stream, from: b, to: m}", "b has no way to m", "join them"),
        (BULK, "bulk: {tool: iperf3, from: a, to: b}", "'tcp_stream' or 'tcp_rr'", ""),
        (BULK, "bulk: {tool: tcp_stream, from: a}", "workloads.bulk needs to", ""),
        (BULK, "bulk: {tool: tcp_stream, from: a, to: b, flows: 0}", "flows is at least 1", ""),
        (BULK, "bulk: {tool: tcp_stream, from: a, to: b, threads: 2}", "2 threads have only 1 flows", ""),
        (BULK, "bulk: {tool: tcp_stream, from: a, to: b, request: 1}", "are for tcp_rr", ""),
        (BULK, "bulk: {tool: tcp_stream, from: a, to: b, duration: 5}", "a time needs a unit", ""),
        (BULK, "bulk: {tool: tcp_stream, from: a, to: b, duration: 1ms}", "duration is at least 100ms", ""),
        (BULK, 'bulk: {tool: tcp_stream, from: a, to: b, args: ["a\\nb"]}', "one printable line", ""),
        (
            BULK,
            'bulk: {tool: tcp_stream, from: a, to: b, args: ["--flow-summary=/etc/passwd"]}',
            "is no argument of tcp_stream that a file may give",
            "--max-pacing-rate",
        ),
        (
            BULK,
            'bulk: {tool: tcp_stream, from: a, to: b, args: ["--flow-summ", "/etc/passwd"]}',
            "is no argument of tcp_stream that a file may give",
            "",
        ),
        (
            BULK,
            'bulk: {tool: tcp_stream, from: a, to: b, args: ["--all-samples=/etc/passwd"]}',
            "is no argument of tcp_stream that a file may give",
            "",
        ),
        (
            BULK,
            'bulk: {tool: tcp_stream, from: a, to: b, args: ["-4A/etc/passwd"]}',
            "write every flag as a word of its own",
            "",
        ),
        (
            BULK,
            'bulk: {tool: tcp_stream, from: a, to: b, args: ["-A/etc/passwd"]}',
            "is no argument of tcp_stream that a file may give",
            "",
        ),
        (
            BULK,
            'bulk: {tool: tcp_stream, from: a, to: b, args: ["-m", "1mbit", "/etc/passwd"]}',
            "is no argument of tcp_stream that a file may give",
            "",
        ),
        (
            BULK,
            'bulk: {tool: tcp_stream, from: a, to: b, args: ["-F", "7"]}',
            "is for zdlab to say",
            "write `flows` instead",
        ),
        (
            BULK,
            'bulk: {tool: tcp_stream, from: a, to: b, args: ["--test-length=7"]}',
            "is for zdlab to say",
            "write `duration` instead",
        ),
        (BULK, 'bulk: {tool: tcp_stream, from: a, to: b, args: ["-D"]}', "needs a value", ""),
        (
            BULK,
            'bulk: {tool: tcp_rr, from: a, to: b, args: ["--no-cork"]}',
            "is no argument of tcp_rr that a file may give",
            "",
        ),
        (
            BULK,
            'bulk: {tool: tcp_rr, from: a, to: b, args: ["-R", "9"]}',
            "is no argument of tcp_rr that a file may give",
            "",
        ),
        (DEEP, "deep: {links.wir.ends.a.qdisc.limit: 64mb}", "there is no 'links.wir'", "did you mean 'wire'?"),
        (DEEP, "deep: {links.wire.ends.a.qdisk.limit: 64mb}", "leads nowhere", "did you mean 'qdisc'?"),
        (DEEP, "deep: {links.wire.ends.a.qdisc.limits: 64mb}", "unknown key 'limits'", "did you mean 'limit'?"),
        (DEEP, "deep: {links.new: {}}", "links has no 'new'", "an arm adds no nodes"),
        (DEEP, "deep: {arms.stock: {}}", "cannot change 'arms.stock'", "nodes, links, workloads"),
        (DEEP, "deep: {blocks: 3}", "cannot change 'blocks'", "a path starts with one of"),
        (DEEP, "deep: {links.wire.ends.a.qdisc.limit: 64mbit}", "'mbit' is not a unit of a size", ""),
        (DEEP, "deep: {links.wire.ends.a.qdisc.burst: null}", "links.wire.ends.a.qdisc needs burst", ""),
        (DEEP, "deep: 5", "arms.deep", ""),
        (BOUND, "- deep.drops == 0", "there is no metric 'drops'", ""),
        (BOUND, "- depp.qdisc_drops == 0", "there is no arm 'depp'", "did you mean 'deep'?"),
        (BOUND, "- deep.c.qdisc_drops == 0", "there is no node 'c'", "known: a, b, br, m"),
        (BOUND, "- deep.a.throughput_bps > 1", "is of the whole lab", "write deep.throughput_bps"),
        (BOUND, "- deep.latency_p99_s < 1", "needs a tcp_rr workload", "add one with tool: tcp_rr"),
        (BOUND, "- deep.jain_workloads > 0.9", "compares tcp_stream workloads", "add one"),
        (BOUND, "- deep.qdisc_drops = 0", "is not an expectation", ""),
        (BOUND, "- 5", "an expectation is a text", ""),
        (COMPARED, "- deep.retransmits == stock.retransmits", "never compared with ==", ""),
        (COMPARED, "- deep.retransmits < deep.packets", "two different arms", ""),
    ],
)
def test_a_mistake_is_named_with_its_line_and_what_would_be_right(
    line: int, text: str, problem: str, hint: str
) -> None:
    refused(line, text, problem, hint)


@pytest.mark.parametrize(
    ("old", "new", "line", "problem"),
    [
        ("a: {}", "a: {interface: eth7}", WIRE_A, "a has eth7 twice"),
        ("a: {}", "a: {mac: '02:00:00:00:00:01'}", WIRE_A, "is also the MAC address of a:eth0"),
        ("b: {address: 10.0.2.1/24}", "b: {address: 10.0.0.1/24}", PORT_B, "is also the address of a:eth0"),
    ],
)
def test_what_must_be_unique_is_refused_where_it_comes_again(old: str, new: str, line: int, problem: str) -> None:
    text = SOUND.replace(old, new)
    if line == WIRE_A:
        key, value = new.removeprefix("a: {").removesuffix("}").split(": ", 1)
        text = text.replace("a: {qdisc:", f"a: {{{key}: {value}, qdisc:")
        line = GUEST_A
    with pytest.raises(TopologyError, match=problem) as caught:
        parse_topology(text, "bad.yaml")

    assert caught.value.line == line


def test_a_machine_without_a_kernel_of_the_registry_is_not_the_topologys_concern() -> None:
    assert parse_topology(SOUND.replace("kind: machine", "kind: machine, kernel: ./my/bzImage")).base.machines()


def test_a_subnet_that_is_too_small_is_named_at_the_end_that_got_nothing() -> None:
    text = (
        "nodes: {a: {kind: host}, b: {kind: host}, br: {kind: bridge, subnet: 10.0.0.0/31}, c: {kind: host}}\n"
        "links:\n  x: {ends: {a: {}, br: {}}}\n  y: {ends: {b: {}, br: {}}}\n  z: {ends: {c: {}, br: {}}}\n"
    )
    with pytest.raises(TopologyError, match=r"10\.0\.0\.0/31 has no address left") as caught:
        parse_topology(text, "small.yaml")

    assert caught.value.line == 5
    assert "larger subnet" in caught.value.hint


@pytest.mark.parametrize("ends", ["{a: {}}", "{a: {}, b: {}, c: {}}", "{}"])
def test_a_link_joins_exactly_two_nodes(ends: str) -> None:
    text = f"nodes: {{a: {{kind: host}}, b: {{kind: host}}, c: {{kind: host}}}}\nlinks: {{l: {{ends: {ends}}}}}\n"

    with pytest.raises(TopologyError, match=r"link l has [013] ends"):
        parse_topology(text)


@pytest.mark.parametrize("text", ["- nodes\n", "nodes\n", "5\n", "null\n"])
def test_a_topology_is_a_mapping(text: str) -> None:
    with pytest.raises(TopologyError, match="a topology is a mapping"):
        parse_topology(text)


def test_several_mistakes_are_told_at_once_in_the_order_of_the_lines() -> None:
    text = with_line(BULK, "bulk: {tool: tcp_stream, from: a, to: b, flows: 0}").replace("rate: 200mbit", "rate: 200")
    with pytest.raises(TopologyError) as caught:
        parse_topology(text, "bad.yaml")

    assert [part.split(": ")[0] for part in str(caught.value).splitlines()] == [
        f"bad.yaml:{WIRE_A}",
        f"bad.yaml:{BULK}",
    ]


def test_the_mistakes_of_all_arms_are_told_each_with_its_arm_and_line() -> None:
    text = with_line(
        DEEP,
        "deep: {links.wir.ends.a.mtu: 9000}\n"
        "  odd: {links.wire.mtu: 1, links.wire.ends.a.qdisc.rate: 5}\n"
        "  third:\n"
        "    links.wire.ends.a.qdisk.limit: 64mb\n"
        "    links.wire.nope.x: 1",
    )
    with pytest.raises(TopologyError) as caught:
        parse_topology(text, "bad.yaml")

    assert [line.partition(" (")[0] for line in told(caught.value)] == [
        f"bad.yaml:{DEEP}: arm deep: 'links.wir.ends.a.mtu' leads nowhere: there is no 'links.wir'",
        f"bad.yaml:{DEEP + 1}: arm odd: links.wire.ends.a.qdisc.rate: a rate needs a unit",
        f"bad.yaml:{DEEP + 1}: arm odd: links.wire.mtu: 1 is too small: links.wire.mtu is at least 68",
        f"bad.yaml:{DEEP + 3}: arm third: 'links.wire.ends.a.qdisk.limit' leads nowhere: "
        "there is no 'links.wire.ends.a.qdisk'",
        f"bad.yaml:{DEEP + 4}: arm third: 'links.wire.nope.x' leads nowhere: there is no 'links.wire.nope'",
    ]


def test_a_mistake_an_arm_makes_is_told_in_the_arm() -> None:
    text = with_line(DEEP, "deep:\n    links.wire.ends.a.qdisc:\n      kind: tbf\n      rate: 5\n      burst: 32kb")
    with pytest.raises(TopologyError, match="a rate needs a unit") as caught:
        parse_topology(text, "bad.yaml")

    assert caught.value.line == DEEP + 3


def test_expectations_need_traffic() -> None:
    with pytest.raises(TopologyError, match="expectations without traffic"):
        parse_topology("nodes: {a: {kind: host}}\narms: {stock: null}\nexpectations: [stock.qdisc_drops == 0]\n")


def test_what_is_required_of_every_trial_is_a_bound() -> None:
    text = (
        "nodes: {a: {kind: host}, b: {kind: host}}\nlinks: {w: {subnet: 10.0.0.0/24, ends: {a: {}, b: {}}}}\n"
        "workloads: {bulk: {tool: tcp_stream, from: a, to: b}}\narms: {stock: null, zd: null}\n"
    )
    with pytest.raises(TopologyError, match="what is required of every trial is a bound") as caught:
        parse_topology(f"{text}requires: [stock.qdisc_drops > 0, zd.retransmits < stock.retransmits]\n")

    assert "compare zd.retransmits with a number" in str(caught.value.hint)


def test_an_unknown_arm_is_a_usage_error_that_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="has no arm 'nope'") as caught:
        parse_topology(SOUND).arm("nope")

    assert caught.value.hint == "its arms: stock, deep"


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        load_topology(tmp_path / "missing.yaml")
    with pytest.raises(UsageError, match="is not a file"):
        load_topology(tmp_path)


def test_a_file_that_is_not_utf8_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"nodes: {}\n# caf\xe9\n")
    with pytest.raises(TopologyError, match="not UTF-8 text") as caught:
        load_topology(path)

    assert (caught.value.file, caught.value.line) == (str(path), 2)


NESTED = """\
nodes:
  A: {kind: machine, memory: 2gb}
  a: {kind: machine, in: A, memory: 1gb}
  c: {kind: machine, in: A, memory: 256mb}
  br: {kind: bridge, in: A}
  b: {kind: host}
links:
  inner: {ends: {a: {}, br: {}}}
  uplink: {ends: {br: {}, b: {}}}
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "problem", "hint"),
    [
        ("memory: 256mb", "memory: 768mb", 2, "A has 2gb for machines of 1792mb", "memory: 2304mb"),
        ("A: {kind: machine,", "A: {kind: machine, in: a,", 2, "A would live in itself", "in the lab"),
        ("{br: {}, b: {}}", "{a: {}, b: {}}", 9, "more than one machine's border", "a bridge or host in the machine"),
        ("{br: {}, b: {}}", "{br: {}, b: {tap: {queues: 2}}}", 9, "no network card of a machine", "packets leave"),
    ],
)
def test_a_mistake_about_nodes_in_machines_is_named(old: str, new: str, line: int, problem: str, hint: str) -> None:
    parse_topology(NESTED, "good.yaml")

    with pytest.raises(TopologyError) as caught:
        parse_topology(NESTED.replace(old, new), "bad.yaml")

    assert str(caught.value).startswith(f"bad.yaml:{line}: ")
    assert problem in str(caught.value)
    assert hint in f"{caught.value} {caught.value.hint}"


def test_a_mistake_in_a_class_is_told_once() -> None:
    text = SOUND.replace(
        "\n".join(LINES[WIRE_A - 1 : WIRE_A]), "      a: {qdisc: {kind: htb, default: 1, classes: [{id: 1}]}}"
    )

    with pytest.raises(TopologyError) as caught:
        parse_topology(text)

    assert "needs rate" in str(caught.value)
    assert "at least 1" not in str(caught.value)


def test_as_many_mistakes_are_told_as_one_reads() -> None:
    wrong = "\n".join(f"unknown{number}: 1" for number in range(5000))

    with pytest.raises(TopologyError) as caught:
        parse_topology(f"{wrong}\n{SOUND}")

    lines = told(caught.value)
    assert len(lines) == 11
    assert lines[-1] == "… and 190 more"


def test_many_subnets_are_compared_in_a_moment() -> None:
    one = "  {}: {{subnet: {}, ends: {{a: {{}}, b: {{}}}}}}\n"
    links = "".join(one.format(f"l{n}", f"10.{n // 256}.{n % 256}.0/24") for n in range(1500))
    nodes = "nodes: {a: {kind: host}, b: {kind: host}}\nlinks:\n"

    with pytest.raises(TopologyError, match=r"10\.3\.7\.16/28 overlaps 10\.3\.7\.0/24 of another segment"):
        parse_topology(nodes + links + one.format("last", "10.3.7.16/28"))
