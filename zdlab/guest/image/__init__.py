"""Guest images: an initramfs from the computer's own programs, reproducible and cached."""

from __future__ import annotations

from zdlab.guest.image.build import Image, build_image, find_image, list_images, remove_image
from zdlab.guest.image.hypervisor import holder_files

__all__ = ["Image", "build_image", "find_image", "holder_files", "list_images", "remove_image"]
