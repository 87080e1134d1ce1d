"""Nodes know each other by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Sandbox


def test_a_host_finds_another_by_name(sandbox: Sandbox) -> None:
    sandbox.up("""
nodes: {a: {kind: host}, b: {kind: host}}
links: {wire: {subnet: 10.1.0.0/24, ends: {a: {}, b: {}}}}
""")
    assert sandbox.zdlab("exec", "a", "--", "getent", "hosts", "b").out.split() == ["10.1.0.2", "b"]


def test_options_after_the_node_are_told(sandbox: Sandbox) -> None:
    done = sandbox.zdlab("exec", "a", "--lab", "x", "--", "true")
    assert done.status == 2
    assert "before the node" in done.err
