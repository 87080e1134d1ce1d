"""``python -m zdlab``: the command."""

from __future__ import annotations

from zdlab.cli import main

main()
