"""Generating traffic: the tools, how to start them, and what their output means."""

from __future__ import annotations

from zdlab.traffic.build import TrafficTools, traffic_tools
from zdlab.traffic.command import (
    OutputFile,
    Side,
    TrafficCommand,
    TrafficCommands,
    TrafficSpec,
    assign_ports,
    traffic_commands,
)
from zdlab.traffic.flows import FlowTable, parse_flow_summary, parse_samples
from zdlab.traffic.parse import Latency, TrafficReport, parse_report
from zdlab.traffic.result import Finished, TrafficResult, traffic_result

__all__ = [
    "Finished",
    "FlowTable",
    "Latency",
    "OutputFile",
    "Side",
    "TrafficCommand",
    "TrafficCommands",
    "TrafficReport",
    "TrafficResult",
    "TrafficSpec",
    "TrafficTools",
    "assign_ports",
    "parse_flow_summary",
    "parse_report",
    "parse_samples",
    "traffic_commands",
    "traffic_result",
    "traffic_tools",
]
