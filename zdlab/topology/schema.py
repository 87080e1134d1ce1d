"""The JSON Schema of topology files, for editors."""

from __future__ import annotations

from typing import Any

from zdlab.topology.model import Topology


def json_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) an editor checks topology files with."""
    schema = Topology.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "zdlab topology",
        "description": "Nodes, links, traffic and arms of a zdlab experiment.",
    }
