"""Sysctls every node starts from, so that a result does not depend on what the computer was set to.

A new namespace copies some settings of the computer's own and takes the kernel's defaults for others; a guest
takes its kernel's. The values here are the defaults of mainline 6.12
(``Documentation/networking/ip-sysctl.rst``), apart from those marked with a reason.
"""

from __future__ import annotations

from typing import Final

BASELINE: Final[tuple[tuple[str, str], ...]] = (
    ("net.ipv4.tcp_congestion_control", "cubic"),
    ("net.ipv4.tcp_sack", "1"),
    ("net.ipv4.tcp_timestamps", "1"),
    ("net.ipv4.tcp_window_scaling", "1"),
    ("net.ipv4.tcp_ecn", "2"),
    ("net.ipv4.tcp_rmem", "4096 131072 6291456"),
    ("net.ipv4.tcp_wmem", "4096 16384 4194304"),
    ("net.ipv4.tcp_limit_output_bytes", "1048576"),
    ("net.ipv4.tcp_slow_start_after_idle", "1"),
    # A trial must not inherit what an earlier connection of the same lab learned.
    ("net.ipv4.tcp_no_metrics_save", "1"),
    # Thousands of flows open at once; the defaults (4096, 32768-60999) would turn connects away.
    ("net.ipv4.tcp_max_syn_backlog", "65536"),
    ("net.core.somaxconn", "65536"),
    ("net.ipv4.ip_local_port_range", "1024 65535"),
    # Only the user's own addresses: no router discovery, no wait for duplicate address detection.
    ("net.ipv6.conf.all.accept_ra", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv4.ip_forward", "0"),
)

#: Bridges and wires carry frames only: without IPv6 they send no packets of their own.
QUIET: Final[tuple[tuple[str, str], ...]] = (
    ("net.ipv6.conf.all.disable_ipv6", "1"),
    ("net.ipv6.conf.default.disable_ipv6", "1"),
)
