"""Links: two interfaces joined, each with its own addresses, MTU, offloads and qdisc tree."""

from __future__ import annotations

from pydantic import Field

from zdlab.topology._types import (
    Addresses,
    InterfaceName,
    MacAddress,
    Model,
    Mtu,
    Name,
    Packets,
    Size,
    Subnets,
    Switch,
    SwitchOrAuto,
)
from zdlab.topology.qdiscs import Qdisc


class Offloads(Model):
    """Offload switches of an interface; what is left out keeps the driver's default."""

    tso: Switch | None = Field(None, description="TCP segmentation offload, IPv4 and IPv6")
    gso: Switch | None = Field(None, description="generic segmentation offload")
    gro: Switch | None = Field(None, description="generic receive offload")
    checksum: Switch | None = Field(
        None, description="checksum offload: of sending, and of receiving where the device has a switch"
    )


class Tap(Model):
    """How a machine's virtio-net device meets the computer."""

    sndbuf: Size | None = Field(None, description="bytes of the guest that may wait behind the tap")
    vhost: SwitchOrAuto = Field("auto", description="vhost-net in the kernel; auto: when there")
    queues: int = Field(1, ge=1, le=16, description="queue pairs")


class End(Model):
    """One end of a link."""

    interface: InterfaceName | None = Field(None, description="eth0, eth1, … by the order of links")
    address: Addresses = Field((), description="addresses with prefix length; else from the subnet")
    mac: MacAddress | None = Field(None, description="assigned when left out")
    mtu: Mtu | None = Field(None, description="the link's when left out")
    txqueuelen: Packets | None = Field(None, description="device queue length in packets")
    offloads: Offloads = Field(
        default_factory=lambda: Offloads.model_validate({}), description="switches of its offloads"
    )
    qdisc: Qdisc | None = Field(None, description="root of the egress qdisc tree")
    ingress: Switch = Field(False, description="attach an ingress qdisc")
    tap: Tap | None = Field(None, description="for the end of a machine")


class Link(Model):
    """Two interfaces joined: veth between namespaces, tap and virtio-net to a machine."""

    ends: dict[Name, End] = Field(
        description="exactly two: node name and what its end is like", examples=["{a: {}, b: {}}"]
    )
    subnet: Subnets = Field((), description="addresses are assigned from here, in the order of the ends")
    mtu: Mtu = Field(1500, description="of both ends, in bytes")
