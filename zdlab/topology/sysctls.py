"""Which sysctls belong to a network namespace, and which to the kernel below all of them."""

from __future__ import annotations

from typing import Final

#: Entries below ``net`` that a namespace shows but every namespace shares. Kernels before 5.13 let a namespace write
#: most of them; the first can be written in any of them to this day, and is never taken back.
_SHARED: Final = frozenset(
    {
        "net.netfilter.nf_hooks_lwtunnel",
        "net.netfilter.nf_conntrack_buckets",
        "net.netfilter.nf_conntrack_expect_max",
        "net.netfilter.nf_conntrack_max",
        "net.ipv4.tcp_allowed_congestion_control",
        *(
            f"net.{family}.neigh.default.{name}"
            for family in ("ipv4", "ipv6")
            for name in ("gc_interval", "gc_thresh1", "gc_thresh2", "gc_thresh3")
        ),
    }
)


def belongs_to_namespace(name: str) -> bool:
    """Say whether a sysctl, in either spelling, is a network namespace's own and not its kernel's."""
    dotted = name.replace("/", ".")
    return dotted.startswith("net.") and dotted not in _SHARED
