"""What the user wrote: typed models of a topology, loaded with line numbers, checked, described as a schema.

No input or output here beyond reading the file.
"""

from __future__ import annotations

from zdlab.topology.loader import TopologyFile, load_topology, parse_topology
from zdlab.topology.model import Topology
from zdlab.topology.schema import json_schema

__all__ = ["Topology", "TopologyFile", "json_schema", "load_topology", "parse_topology"]
