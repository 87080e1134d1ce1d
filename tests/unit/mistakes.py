"""A sound topology to make mistakes in, and what every error about one has to say."""

from __future__ import annotations

import re

import pytest

from zdlab.errors import TopologyError
from zdlab.topology import parse_topology

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
NODE_A, NODE_B, BR, NODE_M = 2, 3, 4, 5
WIRE_SUBNET, WIRE_A, WIRE_B = 8, 10, 11
GUEST_SUBNET, GUEST_A, GUEST_M = 13, 15, 16
PORT_B, PORT_BR = 19, 20
BULK, DEEP, BOUND, COMPARED = 22, 25, 27, 28


def with_line(line: int, text: str) -> str:
    """The sound file with another text in one line."""
    indent = len(LINES[line - 1]) - len(LINES[line - 1].lstrip())
    return "\n".join([*LINES[: line - 1], " " * indent + text, *LINES[line:]]) + "\n"


def told(error: TopologyError) -> list[str]:
    """Each mistake of an error in one line, having seen that it says where it is and what would be right."""
    lines = str(error).splitlines()
    if len(lines) == 1:
        assert error.hint, error
        lines = [f"{lines[0]} ({error.hint})"]
    for line in lines:
        assert re.fullmatch(r"[^:]+:[1-9][0-9]*: .+ \(.+\)|… and [1-9][0-9]* more", line), line
    return lines


def refused(line: int, text: str, problem: str, hint: str) -> None:
    """See that the sound file with another text in one line is refused there, for the problem, with the hint."""
    with pytest.raises(TopologyError) as caught:
        parse_topology(with_line(line, text), "bad.yaml")

    first, *rest = told(caught.value)
    assert first.startswith(f"bad.yaml:{line}: ")
    assert problem in first
    assert hint in " ".join([first, *rest])
