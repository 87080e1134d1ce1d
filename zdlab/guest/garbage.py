"""What of the caches nothing uses any more: kernels of earlier sources and patches, trees and images long unused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from zdlab.guest.image import list_images, remove_image
from zdlab.guest.kernels import list_cached, list_trees, remove_kernel, remove_tree

#: A kernel the registry no longer asks for may still be wanted for a comparison; an image takes a second to make.
_KERNEL_AGE: Final = timedelta(days=7)
_IMAGE_AGE: Final = timedelta(days=7)
#: Unpacking and compiling anew takes many minutes.
_TREE_AGE: Final = timedelta(days=30)


def collect_garbage(now: datetime | None = None) -> Iterator[str]:
    """Remove it, and yield a line about each thing that was removed.

    :param now: the present when ``None``.
    :raises InfrastructureError: when something cannot be removed.
    """
    present = now or datetime.now(UTC)
    for kernel in list_cached():
        if not kernel.current and present - kernel.built > _KERNEL_AGE:
            remove_kernel(kernel)
            yield f"kernel {kernel.path.name} ({kernel.size >> 20} MiB)"
    for tree in list_trees():
        if present - tree.used > _TREE_AGE and remove_tree(tree):
            yield f"source tree {tree.path.name} ({tree.size >> 20} MiB)"
    for image in list_images():
        if present - image.used > _IMAGE_AGE:
            remove_image(image)
            yield f"image {image.sha256[:12]} ({image.size >> 20} MiB)"
