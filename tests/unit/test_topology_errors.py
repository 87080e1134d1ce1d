"""Topology files that are wrong: what is wrong, in which line, and what would be right."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdlab.errors import TopologyError, UsageError
from zdlab.topology import load_topology, parse_topology

TOPOLOGIES = Path(__file__).parents[2] / "topologies"

#: Sound by itself; each mistake below replaces one piece of it.
SOUND = """\
nodes:
  a: {kind: host}
  b: {kind: host}
  br: {kind: bridge}
  m: {kind: machine}
links:
  wire:
    subnet: 10.0.0.0/24
    ends:
      a: {qdisc: {kind: tbf, rate: 200mbit, burst: 32kb, limit: 150kb}}
      b: {}
  guest:
    subnet: 10.0.1.0/24
    ends:
      a: {}
      m: {tap: {sndbuf: 100kb}}
  port:
    ends:
      b: {address: 10.0.2.1/24}
      br: {}
workloads:
  bulk: {tool: tcp_stream, from: a, to: b}
arms:
  stock:
  deep: {links.wire.ends.a.qdisc.limit: 64mb}
expectations:
  - deep.qdisc_drops == 0
  - deep.retransmits < stock.retransmits
"""
LINES = SOUND.splitlines()
NODE_A, NODE_B, NODE_M = 2, 3, 5
WIRE_SUBNET, WIRE_A, WIRE_B = 8, 10, 11
GUEST_SUBNET, GUEST_A, GUEST_M = 13, 15, 16
PORT_B, PORT_BR = 19, 20
BULK, DEEP, BOUND, COMPARED = 22, 25, 27, 28


def _with(line: int, text: str) -> str:
    """The sound file with another text in one line."""
    indent = len(LINES[line - 1]) - len(LINES[line - 1].lstrip())
    return "\n".join([*LINES[: line - 1], " " * indent + text, *LINES[line:]]) + "\n"


def test_the_file_all_mistakes_are_made_in_is_sound() -> None:
    assert parse_topology(SOUND).arm_names() == ("stock", "deep")


@pytest.mark.parametrize(
    ("line", "text", "problem", "hint"),
    [
        (NODE_A, "a: {kind: host, sysctl: {}}", "unknown key 'sysctl'", "did you mean 'sysctls'?"),
        (NODE_A, "a: {kind: hots}", "unknown kind 'hots'", "known: 'host', 'machine', 'bridge'"),
        (NODE_A, "a: {}", "nodes.a needs kind", "one of: host, machine, bridge"),
        (NODE_A, "a: {kind: host, sysctls: {tcp_sack: 1}}", "is not a name that works here", "it must match"),
        (NODE_A, "a: {kind: host, routes: [{to: 10.9.0.0/16}]}", "routes.0 needs via", ""),
        (NODE_A, "a: {kind: host, routes: [{to: default, via: 10.9.0.1}]}", "cannot reach 10.9.0.1", "via is an"),
        (NODE_B, "b!: {kind: host}", "is not a name that works here", "it must match"),
        (WIRE_SUBNET, "subnet: 10.0.0.1/24", "has host bits set", ""),
        (WIRE_SUBNET, "subnet: 10.0.0.0/33", "does not appear to be an IPv4 or IPv6 network", ""),
        (WIRE_SUBNET, "subnet: 10.0.0.0", "write a subnet like 10.0.0.0/24", ""),
        (WIRE_SUBNET, "subnett: 10.0.0.0/24", "unknown key 'subnett' in links.wire", "did you mean 'subnet'?"),
        (WIRE_A, "a: {qdisk: {kind: fq}}", "unknown key 'qdisk'", "did you mean 'qdisc'?"),
        (WIRE_A, "a: {qdisc: {kind: tbf, rate: 1mbit, limit: 15kb}}", "links.wire.ends.a.qdisc needs burst", ""),
        (WIRE_A, "a: {qdisc: {kind: tbf, rate: 1mbit, burst: 32kb}}", "needs either limit (bytes) or latency", ""),
        (WIRE_A, "a: {qdisc: {kind: tbf, rate: 1mbit, burst: 32kb, limit: 9kb, latency: 1s}}", "not both", ""),
        (WIRE_A, "a: {qdisc: {kind: tbf, rate: 1mbit, burst: 1kb, limit: 9kb}}", "smaller than one packet", "32kb"),
        (WIRE_A, "a: {qdisc: {kind: tbf, rate: 1mbit, burst: 32kb, limit: 1kb}}", "holds no packet", "few packets"),
        (WIRE_A, "a: {qdisc: {kind: tbf, rate: 1mbps, burst: 32kb, limit: 15kb}}", "tc reads 'bps' as bytes", ""),
        (WIRE_A, "a: {qdisc: {kind: tbf, rate: 1ms, burst: 32kb, limit: 15kb}}", "'ms' is not a unit of a rate", ""),
        (WIRE_A, "a: {qdisc: {kind: tbf, rate: 0bit, burst: 32kb, limit: 15kb}}", "above zero", ""),
        (WIRE_A, "a: {qdisc: {kind: tfb}}", "unknown kind 'tfb'", "'tbf'"),
        (WIRE_A, "a: {qdisc: {limit: 3}}", "qdisc needs kind", "one of: pfifo"),
        (WIRE_A, "a: {qdisc: {kind: ingress}}", "unknown kind 'ingress'", "write `ingress: on` beside qdisc"),
        (WIRE_A, "a: {qdisc: {kind: fq, limits: 3}}", "unknown key 'limits'", "did you mean 'limit'?"),
        (WIRE_A, "a: {qdisc: {kind: netem, jitter: 1ms}}", "jitter needs delay", ""),
        (WIRE_A, "a: {qdisc: {kind: netem, loss: 1.5}}", "less than or equal to 1", ""),
        (WIRE_A, "a: {qdisc: {kind: prio, qdiscs: {4: {kind: fq}}}}", "band 4 is not one of 1 to 3", ""),
        (WIRE_A, "a: {qdisc: {kind: prio, bands: 4}}", "give priomap", ""),
        (WIRE_A, "a: {qdisc: {kind: red, limit: 9kb, min: 5kb, max: 4kb}}", "0 < min < max <= limit", ""),
        (WIRE_A, "a: {qdisc: {kind: htb, default: 2, classes: [{id: 1, rate: 1mbit}]}}", "not one of its leaf", ""),
        (
            WIRE_A,
            "a: {qdisc: {kind: htb, default: 1, classes: [{id: 1, rate: 1mbit}, {id: 1, rate: 1mbit}]}}",
            "class 1 stands twice",
            "",
        ),
        (
            WIRE_A,
            "a: {qdisc: {kind: htb, default: 1, classes: [{id: 1, rate: 1mbit, ceiling: 2mbit}]}}",
            "unknown key 'ceiling'",
            "did you mean 'ceil'?",
        ),
        (WIRE_A, "a: {offloads: {tso: maybe}}", "write on or off", ""),
        (WIRE_A, "a: {offloads: {ts: off}}", "unknown key 'ts'", "did you mean 'tso'?"),
        (WIRE_A, "a: {tap: {queues: 2}}", "this end of wire is no network card", "whose packets leave a machine"),
        (NODE_B, "b: {kind: host, in: x}", "there is no node 'x'", "known: a, b, br, m"),
        (NODE_B, "b: {kind: host, in: a}", "a is a host: no node lives in it", "name a machine"),
        (NODE_M, "m: {kind: machine, in: m}", "m would live in itself", "in the lab"),
        (NODE_M, "m: {kind: machine, cpu_model: 'max -x'}", "is not a name that works here", ""),
        (NODE_M, "m: {kind: machine, irqchip: maybe}", "'on', 'off' or 'split'", ""),
        (WIRE_A, "a: {interface: toolongforalinux}", "is not a name that works here", "it must match"),
        (WIRE_A, "a: {interface: lo}", "lo is taken on a", "choose another name"),
        (WIRE_A, "a: {mtu: 67}", "greater than or equal to 68", ""),
        (WIRE_A, "a: {address: 10.0.0.1}", "with its prefix length", ""),
        (WIRE_A, "a: {address: 10.0.9.1/24}", "is not in 10.0.0.0/24", "write one of the subnet"),
        (WIRE_A, "a: {address: 10.0.0.0/24}", "network or broadcast address", "take another one"),
        (WIRE_A, "a: {address: 10.0.0.255/24}", "network or broadcast address", "take another one"),
        (WIRE_A, "a: {mac: '01:00:00:00:00:01'}", "is not a name that works here", "it must match"),
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
        (BULK, "bulk: {tool: tcp_stream, from: a, to: b, flows: 0}", "greater than or equal to 1", ""),
        (BULK, "bulk: {tool: tcp_stream, from: a, to: b, threads: 2}", "2 threads have only 1 flows", ""),
        (BULK, "bulk: {tool: tcp_stream, from: a, to: b, request: 1}", "are for tcp_rr", ""),
        (BULK, "bulk: {tool: tcp_stream, from: a, to: b, duration: 5}", "a time needs a unit", ""),
        (BULK, "bulk: {tool: tcp_stream, from: a, to: b, duration: 1ms}", "greater than or equal to", ""),
        (BULK, 'bulk: {tool: tcp_stream, from: a, to: b, args: ["a\\nb"]}', "one printable line", ""),
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
    with pytest.raises(TopologyError) as caught:
        parse_topology(_with(line, text), "bad.yaml")

    error = caught.value
    first, _, rest = str(error).partition("\n")
    assert first.startswith(f"bad.yaml:{line}: ")
    assert problem in first
    assert hint in error.hint or hint in first + rest


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
    text = _with(BULK, "bulk: {tool: tcp_stream, from: a, to: b, flows: 0}").replace("rate: 200mbit", "rate: 200")
    with pytest.raises(TopologyError) as caught:
        parse_topology(text, "bad.yaml")

    assert [part.split(": ")[0] for part in str(caught.value).splitlines()] == [
        f"bad.yaml:{WIRE_A}",
        f"bad.yaml:{BULK}",
    ]


def test_a_mistake_an_arm_makes_is_told_in_the_arm() -> None:
    text = _with(DEEP, "deep:\n    links.wire.ends.a.qdisc:\n      kind: tbf\n      rate: 5\n      burst: 32kb")
    with pytest.raises(TopologyError, match="a rate needs a unit") as caught:
        parse_topology(text, "bad.yaml")

    assert caught.value.line == DEEP + 3


def test_expectations_need_traffic() -> None:
    with pytest.raises(TopologyError, match="expectations without traffic"):
        parse_topology("nodes: {a: {kind: host}}\narms: {stock: null}\nexpectations: [stock.qdisc_drops == 0]\n")


def test_an_unknown_arm_is_a_usage_error_that_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="has no arm 'nope'") as caught:
        parse_topology(SOUND).arm("nope")

    assert caught.value.hint == "its arms: stock, deep"


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        load_topology(tmp_path / "missing.yaml")
    with pytest.raises(UsageError, match="cannot read"):
        load_topology(tmp_path)


def test_a_file_that_is_not_utf8_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"nodes: {}\n# caf\xe9\n")
    with pytest.raises(TopologyError, match="not UTF-8 text") as caught:
        load_topology(path)

    assert (caught.value.file, caught.value.line) == (str(path), 2)


_READY = [path.read_text(encoding="utf-8") for path in sorted(TOPOLOGIES.glob("*.yaml"))]
_PIECES = st.sampled_from(
    ["null", "[]", "{}", "-1", "'", "{kind: fq}", "a", "0", ": ", "1mbit", "\n", "  ", "[a]", "1.5"]
)


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


@st.composite
def _damaged(draw: st.DrawFn) -> str:
    """A ready topology, or the file above, with a piece of it replaced."""
    text = draw(st.sampled_from([*_READY, SOUND]))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 20)))
        text = text[:start] + draw(_PIECES) + text[end:]
    return text


@given(_damaged())
def test_damaged_topologies_give_a_topology_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        parse_topology(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.sampled_from(["host", "fq", "1mbit", "a", "x.y", "default"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["nodes", "links", "kind", "ends", "a", "b", "arms", "qdisc", "links.a", "subnet", "from", "1"]
                ),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_documents_of_the_right_words_in_wrong_places_give_a_topology_or_an_error(document: object) -> None:
    with contextlib.suppress(UsageError):
        parse_topology(repr(document).replace("None", "null"))


@given(st.binary(max_size=200))
def test_no_bytes_in_a_file_give_anything_but_a_usage_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(data)
    with contextlib.suppress(UsageError):
        load_topology(path)
