"""Topology files that are right: the ready ones, arms, names and addresses, the schema, expectations, metrics."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdlab.errors import TopologyError
from zdlab.topology import Topology, json_schema, load_topology, parse_topology
from zdlab.topology.arguments import check_arguments
from zdlab.topology.expectations import Figure, parse_expectation
from zdlab.topology.metrics import METRICS
from zdlab.topology.network import OutOfAddressesError, resolve
from zdlab.topology.qdiscs import Tbf
from zdlab.topology.yamltree import read_yaml
from zdlab.traffic.build import compile_tools

READY = sorted((Path(__file__).parents[2] / "topologies").glob("*.yaml"))
BASE = """\
nodes:
  a: {kind: host, routes: [{to: 10.1.0.0/16, via: 10.0.0.2}, {to: default, via: 10.0.0.2}]}
  b: {kind: host}
links:
  wire:
    subnet: 10.0.0.0/24
    ends:
      a: {qdisc: {kind: tbf, rate: 1mbit, burst: 32kb, limit: 150kb}}
      b: {}
workloads:
  bulk: {tool: tcp_stream, from: a, to: b}
"""


def _arm(*overrides: str) -> Topology:
    text = BASE + "arms:\n  x:\n" + "".join(f"    {line}\n" for line in overrides)
    return parse_topology(text).arm("x")


@pytest.mark.parametrize("path", READY, ids=lambda path: str(path.stem))
def test_ready_topologies_load_with_all_their_arms(path: Path) -> None:
    source = load_topology(path)

    assert source.name == path.stem
    assert (source.base.control_arm() or "").endswith("stock")
    assert all(source.arm(name).nodes.keys() == source.base.nodes.keys() for name in source.arm_names())
    assert source.base.expectations


@pytest.mark.parametrize("path", READY, ids=lambda path: str(path.stem))
def test_ready_topologies_agree_with_the_schema(path: Path) -> None:
    jsonschema.Draft202012Validator(json_schema()).validate(read_yaml(path.read_text(encoding="utf-8"), "x").value)


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize(
    "text",
    [
        BASE.replace("kind: host}", "kind: hots}"),
        BASE.replace("rate: 1mbit", "rate: 1mbps"),
        BASE.replace("subnet:", "subnett:"),
        BASE.replace("tool: tcp_stream", "tool: iperf"),
        BASE.replace("burst: 32kb, ", ""),
        BASE.replace("a: {qdisc", "a: {interface: all, qdisc"),
        BASE.replace("a: {qdisc", "a: {interface: lo, qdisc"),
        BASE.replace("a: {qdisc", "a: {mtu: 67, qdisc"),
        BASE.replace("a: {qdisc", "a: {tap: {vhost: maybe}, qdisc"),
        BASE.replace("nodes:", "node:"),
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(text: str) -> None:
    with pytest.raises(TopologyError):
        parse_topology(text)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json_schema()).validate(read_yaml(text, "x").value)


@pytest.mark.parametrize(
    ("override", "old", "new"),
    [
        ("links.wire.ends.a.qdisc.limit: 64mb", "limit: 150kb", "limit: 64mb"),
        ("links.wire.ends.a.qdisc: {kind: fq}", "{kind: tbf, rate: 1mbit, burst: 32kb, limit: 150kb}", "{kind: fq}"),
        ("links.wire.ends.a.qdisc: null", "{qdisc: {kind: tbf, rate: 1mbit, burst: 32kb, limit: 150kb}}", "{}"),
        ("links.wire.ends.a.mtu: 9000", "a: {qdisc", "a: {mtu: 9000, qdisc"),
        ("links.wire.ends.b.offloads.tso: off", "b: {}", "b: {offloads: {tso: off}}"),
        ("links.wire.ends.b.tap: null", "b: {}", "b: {}"),
        (
            "nodes.a.routes: null",
            ", routes: [{to: 10.1.0.0/16, via: 10.0.0.2}, {to: default, via: 10.0.0.2}]",
            "",
        ),
        ("nodes.a.routes.1.to: 10.2.0.0/16", "to: default", "to: 10.2.0.0/16"),
        ("nodes.b.sysctls.net.ipv4.tcp_sack: 0", "b: {kind: host}", "b: {kind: host, sysctls: {net.ipv4.tcp_sack: 0}}"),
        ("sysctls.net.ipv4.tcp_ecn: 1", "nodes:\n", "sysctls: {net.ipv4.tcp_ecn: 1}\nnodes:\n"),
        ("workloads.bulk.flows: 7", "to: b}", "to: b, flows: 7}"),
    ],
)
def test_an_arm_equals_the_file_edited_by_hand(override: str, old: str, new: str) -> None:
    edited = BASE.replace(old, new)
    assert old in BASE

    assert _arm(override).model_copy(update={"arms": {}}) == parse_topology(edited).base


def test_later_overrides_of_an_arm_build_upon_earlier_ones() -> None:
    arm = _arm(
        "links.wire.ends.a.qdisc: {kind: tbf, rate: 5mbit, burst: 9kb, limit: 20kb}",
        "links.wire.ends.a.qdisc.burst: 10kb",
    )

    qdisc = arm.links["wire"].ends["a"].qdisc
    assert isinstance(qdisc, Tbf)
    assert (qdisc.rate, qdisc.burst) == (5_000_000, 10_240)


def test_a_list_has_only_the_items_it_has() -> None:
    with pytest.raises(TopologyError, match="the list has 2 items"):
        _arm("nodes.a.routes.2: {to: default, via: 10.0.0.2}")


def test_arms_leave_the_file_they_come_from_as_it_is() -> None:
    source = parse_topology(BASE + "arms:\n  x: {links.wire.ends.a.qdisc.limit: 64mb}\n  y:\n")
    source.arm("x")

    assert source.arm("y").links == source.base.links


def test_a_kernel_of_its_own_takes_any_sysctl_a_namespace_those_of_namespaces() -> None:
    text = """\
sysctls: {SHARED}
nodes:
  m: {kind: machine, memory: 2gb, sysctls: {kernel.panic: 5, fs.file-max: 9999}}
  inner: {kind: host, in: m, sysctls: {vm.swappiness: 1}}
  br: {kind: bridge, sysctls: {net/core/zd: 1}}
"""
    assert parse_topology(text.replace("SHARED", "vm.swappiness: 1")).base.sysctls
    outer = text + "  a: {kind: host, sysctls: {net.core.zd: 1, net.ipv4.conf.all.forwarding: 1}}\n"
    assert parse_topology(outer.replace("SHARED", "net.ipv4.tcp_sack: 0")).base.sysctls
    with pytest.raises(TopologyError, match="on a it would change the computer itself") as caught:
        parse_topology(outer.replace("SHARED", "vm.swappiness: 1"))
    assert caught.value.line == 1


def test_a_name_is_made_from_the_file() -> None:
    def name(file: str) -> str:
        return parse_topology(BASE, file).name

    assert name("dir/my lab.yaml") == "my-lab"
    assert name("2024.yaml") == "t-2024"
    assert name("x" * 60 + ".yaml") == "x" * 31
    assert parse_topology("name: mine\n" + BASE, "other.yaml").name == "mine"


def test_the_control_is_the_one_named_else_stock_else_the_first() -> None:
    assert parse_topology(BASE).base.control_arm() is None
    assert parse_topology(BASE + "arms: {x: null, y: null}\n").base.control_arm() == "x"
    assert parse_topology(BASE + "arms: {x: null, stock: null}\n").base.control_arm() == "stock"
    assert parse_topology(BASE + "arms: {x: null, stock: null}\ncontrol: x\n").base.control_arm() == "x"


def _star(subnet: str, ends: int, fixed: dict[int, str]) -> str:
    """A bridge with ``ends`` hosts around it, some with an address of their own."""
    nodes = "".join(f"  h{number}: {{kind: host}}\n" for number in range(ends))
    given = {number: f"address: {fixed[number]}" for number in fixed}
    links = "".join(f"  l{n}: {{ends: {{h{n}: {{{given.get(n, '')}}}, br: {{}}}}}}\n" for n in range(ends))
    return f"nodes:\n  br: {{kind: bridge, subnet: '{subnet}'}}\n{nodes}links:\n{links}"


@given(
    st.integers(22, 30),
    st.integers(1, 12),
    st.dictionaries(st.integers(0, 11), st.integers(1, 14), max_size=4),
)
def test_assigned_addresses_are_unique_and_of_the_subnet(prefix: int, ends: int, fixed: dict[int, int]) -> None:
    subnet = ipaddress.ip_network(f"10.7.8.0/{prefix}", strict=False)
    hosts = list(itertools.islice(subnet.hosts(), 14))
    taken = {end: f"{hosts[place - 1]}/{prefix}" for end, place in fixed.items() if place <= len(hosts) and end < ends}
    room = len(list(subnet.hosts()))
    text = _star(str(subnet), ends, taken)
    if len(set(taken.values())) < len(taken) or ends > room:
        with pytest.raises(TopologyError, match=r"also the address|no address left"):
            parse_topology(text)
        return

    network = resolve(parse_topology(text).base)

    ports = [interface for interface in network.interfaces if interface.node == "br"]
    given_out = [interface.addresses for interface in network.interfaces if interface.node != "br"]
    assert not any(port.addresses for port in ports)
    assert len({port.name for port in ports}) == ends
    assert len(set(given_out)) == ends
    for addresses in given_out:
        (address,) = addresses
        assert ipaddress.ip_interface(address).network == subnet
        assert ipaddress.ip_interface(address).ip in set(subnet.hosts())
    assert {end: given_out[end][0] for end in taken} == taken


def test_addresses_come_from_every_subnet_in_the_order_of_the_ends() -> None:
    text = BASE.replace("subnet: 10.0.0.0/24", "subnet: [10.0.0.0/24, 'fd00::/64']")
    network = resolve(parse_topology(text).base)

    assert [interface.addresses for interface in network.interfaces] == [
        ("10.0.0.1/24", "fd00::1/64"),
        ("10.0.0.2/24", "fd00::2/64"),
    ]
    assert network.address("a", "b") == "10.0.0.2"
    assert [network.address("a", "b", family) for family in (4, 6)] == ["10.0.0.2", "fd00::2"]


def test_interfaces_and_macs_are_numbered_in_the_order_of_links_around_those_given() -> None:
    text = (
        "nodes: {a: {kind: host}, b: {kind: host}}\n"
        "links:\n"
        "  x: {ends: {a: {}, b: {interface: eth1}}}\n"
        "  y: {ends: {a: {interface: eth0}, b: {}}}\n"
        "  z: {ends: {b: {}, a: {mac: '02:aa:bb:cc:dd:ee'}}}\n"
    )
    network = resolve(parse_topology(text).base)

    assert [interface.name for interface in network.of("a")] == ["eth1", "eth0", "eth2"]
    assert [interface.name for interface in network.of("b")] == ["eth1", "eth0", "eth2"]
    assert [interface.mac for interface in network.of("a")] == [
        "02:7a:64:00:00:01",
        "02:7a:64:00:00:03",
        "02:aa:bb:cc:dd:ee",
    ]


def test_bridges_join_links_into_one_segment() -> None:
    network = resolve(load_topology(next(path for path in READY if path.stem == "dumbbell")).base)

    assert len(network.segments) == 1
    assert network.adjacent("s1", "r5")
    assert len({interface.addresses for interface in network.interfaces if interface.addresses}) == 10


def test_a_shared_segment_comes_first_when_an_address_is_looked_up() -> None:
    text = (
        "nodes: {a: {kind: host}, b: {kind: host}, c: {kind: host}}\n"
        "links:\n"
        "  far: {subnet: 10.0.1.0/24, ends: {b: {}, c: {}}}\n"
        "  near: {subnet: 10.0.2.0/24, ends: {a: {}, b: {}}}\n"
    )
    network = resolve(parse_topology(text).base)

    assert network.address("a", "b") == "10.0.2.2"
    assert network.address("a", "c") == "10.0.1.2"
    assert not network.adjacent("a", "c")


def test_too_small_a_subnet_names_the_end_without_an_address() -> None:
    topology = Topology.model_validate(read_yaml(_star("10.0.0.0/30", 3, {}), "x").value)

    with pytest.raises(OutOfAddressesError) as caught:
        resolve(topology)
    assert caught.value.path == ("links", "l2", "ends", "h2")


@pytest.mark.parametrize(
    ("text", "left", "operator", "bound"),
    [
        ("zd.qdisc_drops == 0", Figure("zd", "qdisc_drops"), "==", 0.0),
        ("  zd.a-1.retransmits   <=  1.5e3 ", Figure("zd", "retransmits", "a-1"), "<=", 1500.0),
        ("zd.jain_index>0.9", Figure("zd", "jain_index"), ">", 0.9),
    ],
)
def test_a_bound_is_read(text: str, left: Figure, operator: str, bound: float) -> None:
    read = parse_expectation(text)

    assert (read.left, read.operator, read.bound, read.right) == (left, operator, bound, None)
    assert read.figures() == (left,)


def test_a_comparison_is_read_with_its_factor() -> None:
    plain = parse_expectation("zd.retransmits < stock.retransmits")
    scaled = parse_expectation("zd.b.packets >= 0.95*stock.b.packets")

    assert (plain.right, plain.factor, plain.bound) == (Figure("stock", "retransmits"), 1.0, None)
    assert (scaled.left, scaled.right, scaled.factor) == (
        Figure("zd", "packets", "b"),
        Figure("stock", "packets", "b"),
        0.95,
    )
    assert str(scaled.right) == "stock.b.packets"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "zd.drops",
        "zd.drops = 0",
        "zd.drops != 0",
        "drops == 0",
        "zd.drops == -1",
        "0 == zd.drops",
        "zd.drops < 0.9 stock.drops",
        "zd.drops < stock.drops * 0.9",
        "zd.drops < 1 and zd.drops > 0",
        "a.b.c.d < 1",
        "zd.drops < 1" + " " * 600,
    ],
)
def test_other_sentences_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"like zd\.retransmits < stock\.retransmits"):
        parse_expectation(text)


_WORDS = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,8}", fullmatch=True)
_FIGURES = st.builds(Figure, _WORDS, st.sampled_from(sorted(METRICS)), st.none() | _WORDS)


@given(_FIGURES, st.sampled_from(["<", "<=", ">", ">="]), _FIGURES, st.floats(0.001, 1000))
def test_expectations_read_back_as_they_are_written(left: Figure, operator: str, right: Figure, factor: float) -> None:
    text = f"{left} {operator} {factor} * {right}"
    if left.arm == right.arm:
        with pytest.raises(ValueError, match="two different arms"):
            parse_expectation(text)
        return
    read = parse_expectation(text)

    assert (read.left, read.operator, read.right, read.factor, read.text) == (left, operator, right, factor, text)
    assert parse_expectation(read.text) == read


@given(st.text(max_size=60))
def test_no_sentence_gives_anything_but_a_value_error(text: str) -> None:
    try:
        read = parse_expectation(text)
    except ValueError:
        return
    assert read.figures()


def test_metrics_are_found_by_their_own_names_and_say_what_they_mean() -> None:
    assert all(name == metric.name and metric.meaning for name, metric in METRICS.items())
    # A bound of zero is meaningful where events are counted, and a count has no unit.
    assert all(not metric.unit for metric in METRICS.values() if metric.count)
    assert {name for name, metric in METRICS.items() if metric.better == "higher"} == {
        "packets",
        "bytes_delivered",
        "throughput_bps",
        "transactions_per_second",
        "jain_index",
        "jain_workloads",
    }


def test_editors_are_told_what_every_key_is() -> None:
    schema = json_schema()
    mappings = {"file": schema, **schema["$defs"]}

    assert [name for name, mapping in mappings.items() if not mapping.get("description")] == []
    assert [
        f"{name}.{key}"
        for name, mapping in mappings.items()
        for key, value in mapping["properties"].items()
        if not value.get("description")
    ] == []


def test_the_schema_has_every_key_of_a_file() -> None:
    schema: dict[str, Any] = json_schema()

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == {
        "name",
        "description",
        "sysctls",
        "nodes",
        "links",
        "workloads",
        "arms",
        "control",
        "blocks",
        "clock",
        "machines",
        "requires",
        "expectations",
    }


def test_arguments_of_the_traffic_tools_are_passed_on() -> None:
    args = ("-m", "1mbit", "-D10ms", "--delay=1ms", "--start-jitter", "0.1", "-4", "-R", "--no-cork", "--mark", "-7")
    text = f"""\
nodes: {{a: {{kind: host}}, b: {{kind: host}}}}
links: {{wire: {{subnet: 10.1.0.0/24, ends: {{a: {{}}, b: {{}}}}}}}}
workloads: {{bulk: {{tool: tcp_stream, from: a, to: b, args: {json.dumps(args)}}}}}
"""
    assert parse_topology(text).base.workloads["bulk"].args == args


@pytest.mark.parametrize("tool", ["tcp_stream", "tcp_rr"])
def test_each_flag_of_the_tools_was_thought_of(tool: str) -> None:
    """What is new there is refused until somebody says that it does no harm; what is gone there is not offered."""
    text = subprocess.run([compile_tools().program(tool), "--help"], capture_output=True, text=True, check=True).stdout
    there = set(re.findall(r"--([a-z0-9-]+)", text))
    ours = {"client", "host", "local-hosts", "control-port", "port", "num-ports", "num-flows", "num-threads", "seed"}
    ours |= {"test-length", "buffer-size", "request-size", "response-size", "percentiles", "interval", "all-samples"}
    ours |= {"nolog", "logtostderr", "suicide-length", "dry-run", "connect-timeout", "control-timeout", "flow-summary"}
    ours |= {"help"}

    def may(flag: str) -> bool:
        for words in ([f"--{flag}"], [f"--{flag}", "1"]):
            with contextlib.suppress(ValueError):
                check_arguments(tool, words)
                return True
        return False

    assert {flag for flag in there | {"flow-summary", "start-jitter"} if may(flag)} == there - ours
