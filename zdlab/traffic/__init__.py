"""Generating traffic: the tools, and how to start them.

What their output means is the matter of :mod:`zdlab.traffic.result`: that takes numpy, for which those who only start a
lab need not wait.
"""

from __future__ import annotations

from zdlab.traffic.build import GUEST_TOOLS, TrafficTools, guest_programs, traffic_tools
from zdlab.traffic.command import (
    OutputFile,
    Side,
    TrafficCommand,
    TrafficCommands,
    TrafficSpec,
    assign_ports,
    traffic_commands,
)

__all__ = [
    "GUEST_TOOLS",
    "OutputFile",
    "Side",
    "TrafficCommand",
    "TrafficCommands",
    "TrafficSpec",
    "TrafficTools",
    "assign_ports",
    "guest_programs",
    "traffic_commands",
    "traffic_tools",
]
