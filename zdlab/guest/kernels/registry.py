"""The registry of kernels zdlab can build: ``images/kernel/kernels.yaml`` and what it names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter
from ruamel.yaml import YAML

from zdlab.errors import UsageError
from zdlab.paths import images_dir


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str
    source: str
    config: tuple[str, ...]
    patches: str | None = None


@dataclass(frozen=True)
class KernelRecipe:
    """How to build one kernel.

    :param source: Debian package that holds the source.
    :param config: configuration fragments, later ones win.
    :param patches: in the order they are applied.
    """

    name: str
    description: str
    source: str
    config: tuple[Path, ...]
    patches: tuple[Path, ...]


def recipes() -> dict[str, KernelRecipe]:
    """Return all kernels of the registry by name."""
    base = images_dir() / "kernel"
    text = (base / "kernels.yaml").read_text(encoding="utf-8")
    entries = TypeAdapter(dict[str, _Entry]).validate_python(YAML(typ="safe", pure=True).load(text))
    return {
        name: KernelRecipe(
            name=name,
            description=entry.description,
            source=entry.source,
            config=tuple(base / "config" / fragment for fragment in entry.config),
            patches=_series(base / "patches" / entry.patches) if entry.patches else (),
        )
        for name, entry in entries.items()
    }


def recipe(name: str) -> KernelRecipe:
    """Return one kernel of the registry.

    :raises UsageError: when there is no such kernel.
    """
    known = recipes()
    if name not in known:
        raise UsageError(
            f"there is no kernel {name!r}",
            hint=f"known: {', '.join(known)}; a bzImage of your own is named by its path, with a slash",
        )
    return known[name]


def _series(directory: Path) -> tuple[Path, ...]:
    lines = (directory / "series").read_text(encoding="utf-8").splitlines()
    return tuple(directory / line.strip() for line in lines if line.strip() and not line.startswith("#"))
