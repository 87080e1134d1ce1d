"""The ``zdlab`` command: thin skins over the public API, one module for each family of verbs."""

from __future__ import annotations

from zdlab.cli.main import main

__all__ = ["main"]
