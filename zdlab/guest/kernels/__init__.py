"""Guest kernels: the registry, building and caching, looking into images, finding the one a machine asks for."""

from __future__ import annotations

from zdlab.guest.kernels.build import Progress, build_kernel
from zdlab.guest.kernels.cache import (
    CachedKernel,
    CachedTree,
    ListedKernel,
    list_cached,
    list_kernels,
    list_trees,
    remove_kernel,
    remove_tree,
    resolve_kernel,
)
from zdlab.guest.kernels.inspect import KernelFile, inspect_kernel
from zdlab.guest.kernels.needs import FEATURES, congestion_symbol, needs, qdisc_symbol

__all__ = [
    "FEATURES",
    "CachedKernel",
    "CachedTree",
    "KernelFile",
    "ListedKernel",
    "Progress",
    "build_kernel",
    "congestion_symbol",
    "inspect_kernel",
    "list_cached",
    "list_kernels",
    "list_trees",
    "needs",
    "qdisc_symbol",
    "remove_kernel",
    "remove_tree",
    "resolve_kernel",
]
