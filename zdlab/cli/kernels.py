"""Verbs about what guests boot: kernels {list,build,inspect}, images {build,list}."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zdlab.cli.completion import kernel_names
from zdlab.cli.output import Format, FormatOption, emit, progress_line, say

kernels_app = typer.Typer(no_args_is_help=True, help="Guest kernels.")
images_app = typer.Typer(no_args_is_help=True, help="Guest images.")


@kernels_app.command("list")
def list_kernels(output: FormatOption = Format.TABLE) -> None:
    """List the kernels zdlab can build, and which are built."""
    from zdlab.guest.kernels import list_kernels as listed

    rows = [
        {
            "name": kernel.name,
            "built": kernel.path is not None,
            "release": kernel.release,
            "sha256": kernel.sha256,
            "path": str(kernel.path) if kernel.path else None,
            "description": kernel.description,
        }
        for kernel in listed()
    ]
    short = [{**row, "built": "yes" if row["built"] else "no", "sha256": str(row["sha256"])[:12]} for row in rows]
    columns = {"name": "NAME", "built": "BUILT", "release": "RELEASE", "sha256": "SHA256", "description": "WHAT"}
    emit(output, rows, columns, short)


@kernels_app.command("build")
def build_kernel(
    name: Annotated[
        str, typer.Argument(help="kernel of the registry", show_default=False, autocompletion=kernel_names)
    ],
    source: Annotated[Path | None, typer.Option("--source", help="a kernel tree instead of Debian's")] = None,
    patch: Annotated[
        list[Path] | None, typer.Option("--patch", metavar="FILE", help="a patch on top; may be repeated")
    ] = None,
) -> None:
    """Build a kernel unless it is there already; a few minutes on two cores."""
    from zdlab.guest.kernels import build_kernel as build

    with progress_line() as show:
        kernel = build(name, source_dir=source, patches=patch or (), progress=show)
    say(f"kernel {name}: {kernel.release}, {kernel.path}")


@kernels_app.command("inspect")
def inspect_kernel(
    name: Annotated[
        str,
        typer.Argument(
            help="kernel of the registry, or path of a bzImage", show_default=False, autocompletion=kernel_names
        ),
    ],
    output: FormatOption = Format.TABLE,
) -> None:
    """Look into a kernel: release, configuration, what it lacks."""
    from zdlab.guest.kernels import resolve_kernel

    with progress_line() as show:
        kernel = resolve_kernel(name, progress=show)
    found = {
        "path": str(kernel.path),
        "release": kernel.release,
        "sha256": kernel.sha256,
        "configuration": "unknown" if kernel.config is None else f"{len(kernel.config)} symbols",
        "missing": [f"{symbol} ({why})" for symbol, why in kernel.missing().items()],
    }
    rows = [{"key": key, "value": value} for key, value in found.items()]
    emit(output, found, {"key": "", "value": ""}, rows)


@images_app.command("build")
def build_image() -> None:
    """Make the guest image unless it is there already."""
    from zdlab.guest.image import build_image as build
    from zdlab.traffic import guest_programs, traffic_tools

    with progress_line() as show:
        show("making the guest image", None)
        image = build(guest_programs(traffic_tools()))
    say(f"image: {image.path} ({image.size >> 10} KiB)")


@images_app.command("list")
def list_images(output: FormatOption = Format.TABLE) -> None:
    """List the images in the cache."""
    from zdlab.guest.image import list_images as listed

    rows = [
        {
            "sha256": image.sha256,
            "size": image.size,
            "made": image.made.isoformat(timespec="seconds"),
            "path": str(image.path),
        }
        for image in listed()
    ]
    emit(output, rows, {"sha256": "SHA256", "size": "BYTES", "made": "MADE"})


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.add_typer(kernels_app, name="kernels")
    app.add_typer(images_app, name="images")
