"""The whole of a topology file: nodes, links, workloads, and the experiment over them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from zdlab.errors import MistakeError
from zdlab.topology._types import Model, Name, Sysctls
from zdlab.topology.expectations import parse_expectation
from zdlab.topology.links import Link
from zdlab.topology.nodes import Bridge, Host, Machine, Node
from zdlab.topology.workloads import Workload


def _sentence(value: object) -> str:
    if not isinstance(value, str):
        raise MistakeError("an expectation is a text", "write one like zd.qdisc_drops == 0")
    return parse_expectation(value).text


Sentence = Annotated[str, BeforeValidator(_sentence)]

#: An arm: dotted path into the file, and the value that stands there in this arm (null removes it).
Overrides = dict[str, Any]


class Topology(Model):
    """What the user wrote, of one arm or before any arm is applied."""

    name: Name | None = Field(None, description="the file's name when left out")
    description: str = Field("", description="what it shows, in words")
    sysctls: Sysctls = Field(default_factory=dict, description="set on every host and machine")
    nodes: dict[Name, Node] = Field(
        min_length=1,
        max_length=1000,
        description="hosts, machines and bridges by name",
        examples=["{a: {kind: host}, b: {kind: host}}"],
    )
    links: dict[Name, Link] = Field(default_factory=dict, max_length=2000, description="links by name")
    workloads: dict[Name, Workload] = Field(
        default_factory=dict, max_length=1000, description="traffic by name; all runs at once"
    )
    arms: dict[Name, Overrides | None] = Field(
        default_factory=dict, max_length=100, description="what is compared: by name, dotted paths and their values"
    )
    control: Name | None = Field(None, description="arm the others are compared with; stock, else the first")
    clock: Literal["real", "virtual"] = Field("real", description="virtual: every trial in a capsule, repeatable")
    machines_as: Literal["guests", "inline"] = Field(
        "guests", alias="machines", description="under the virtual clock; inline: namespaces of the capsule"
    )
    blocks: int | None = Field(
        None, ge=1, le=1000, description="trials of each arm; 8 when left out, or as many as its comparisons need"
    )
    requires: tuple[Sentence, ...] = Field(
        (), description="what must show in every trial, or the run is invalid, like stock.a.retransmits > 0"
    )
    expectations: tuple[Sentence, ...] = Field((), description="what shall hold, like zd.qdisc_drops == 0")

    def machines(self) -> dict[str, Machine]:
        """Return the machines by name."""
        return {name: node for name, node in self.nodes.items() if isinstance(node, Machine)}

    def hosts(self) -> dict[str, Host]:
        """Return the hosts by name."""
        return {name: node for name, node in self.nodes.items() if isinstance(node, Host)}

    def bridges(self) -> dict[str, Bridge]:
        """Return the bridges by name."""
        return {name: node for name, node in self.nodes.items() if isinstance(node, Bridge)}

    def control_arm(self) -> str | None:
        """Return the arm the others are held against, ``None`` without arms."""
        if self.control is not None:
            return self.control
        if "stock" in self.arms:
            return "stock"
        return next(iter(self.arms), None)
