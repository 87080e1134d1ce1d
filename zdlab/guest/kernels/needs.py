"""What zdlab needs of a kernel: the configuration symbols, and what each of them is for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

#: What every guest needs. All of it is built in: an initramfs of zdlab holds no modules.
NEEDED: Final[Mapping[str, str]] = {
    "CONFIG_64BIT": "runs the computer's own programs",
    "CONFIG_BLK_DEV_INITRD": "boots from an initramfs",
    "CONFIG_RD_GZIP": "unpacks a gzip-compressed initramfs",
    "CONFIG_BINFMT_ELF": "runs programs",
    "CONFIG_BINFMT_SCRIPT": "runs scripts",
    "CONFIG_MULTIUSER": "runs programs that ask for their user",
    "CONFIG_FUTEX": "runs programs with threads",
    "CONFIG_EPOLL": "runs the agent and the traffic tool",
    "CONFIG_EVENTFD": "runs the traffic tool",
    "CONFIG_TIMERFD": "runs the traffic tool",
    "CONFIG_DEVTMPFS": "has device nodes",
    "CONFIG_PROC_FS": "shows counters",
    "CONFIG_SYSFS": "finds the agent's port",
    "CONFIG_TMPFS": "has room for temporary files",
    "CONFIG_UNIX98_PTYS": "opens terminals for shells",
    "CONFIG_PRINTK": "says why when it does not boot",
    "CONFIG_SERIAL_8250_CONSOLE": "shows its console",
    "CONFIG_PCI": "finds its devices",
    "CONFIG_ACPI": "routes the interrupts of its devices",
    "CONFIG_VIRTIO_PCI": "finds its virtio devices",
    "CONFIG_VIRTIO_CONSOLE": "reaches the lab through the agent's port",
    "CONFIG_VIRTIO_NET": "has network devices",
    "CONFIG_UNIX": "runs programs that use local sockets",
    "CONFIG_INET": "speaks TCP",
    "CONFIG_NET_SCHED": "has qdiscs",
}

#: What only some machines need, by the feature's name.
FEATURES: Final[Mapping[str, Mapping[str, str]]] = {
    "bpf": {"CONFIG_BPF_SYSCALL": "loads BPF programs"},
    "bridge": {"CONFIG_BRIDGE": "has bridges"},
    "capture": {"CONFIG_PACKET": "captures packets"},
    "capsule": {
        "CONFIG_BRIDGE": "has bridges",
        "CONFIG_IPC_NS": "keeps labs to themselves",
        "CONFIG_NET_NS": "holds the lab's hosts",
        "CONFIG_PID_NS": "ends labs whole",
        "CONFIG_UTS_NS": "names the lab's hosts",
        "CONFIG_VETH": "links the lab's hosts",
    },
    "cpus": {"CONFIG_SMP": "uses more than one CPU"},
    "ipv6": {"CONFIG_IPV6": "speaks IPv6"},
    "namespaces": {"CONFIG_NET_NS": "holds hosts of its own", "CONFIG_VETH": "links the hosts it holds"},
    "nested": {
        "CONFIG_KVM": "runs machines of its own",
        "CONFIG_TUN": "links the machines it holds",
        "CONFIG_VHOST_NET": "forwards for the machines it holds",
    },
    "sockets": {"CONFIG_INET_TCP_DIAG": "lists its sockets (ss)"},
    "trace": {"CONFIG_EVENT_TRACING": "traces events"},
    "vlan": {"CONFIG_VLAN_8021Q": "has VLANs"},
}

#: Qdiscs that every kernel with NET_SCHED has.
_ALWAYS: Final = frozenset({"pfifo", "bfifo", "pfifo_fast", "mq", "noqueue", "noop"})
#: Qdiscs whose symbol is not named after them.
_ELSEWHERE: Final[Mapping[str, str]] = {"clsact": "CONFIG_NET_SCH_INGRESS"}


def qdisc_symbol(kind: str) -> str | None:
    """Return the symbol a kind of qdisc needs, ``None`` for one that is always there."""
    if kind in _ALWAYS:
        return None
    return _ELSEWHERE.get(kind, f"CONFIG_NET_SCH_{kind.upper()}")


def congestion_symbol(algorithm: str) -> str | None:
    """Return the symbol a congestion control needs, ``None`` for Reno, which is always there."""
    return None if algorithm == "reno" else f"CONFIG_TCP_CONG_{algorithm.upper()}"


def needs(qdiscs: Iterable[str] = (), congestion: Iterable[str] = (), features: Iterable[str] = ()) -> dict[str, str]:
    """Return the symbols a machine needs, and what it does with each.

    :param qdiscs: kinds of its qdiscs.
    :param congestion: names of its congestion controls.
    :param features: keys of :data:`FEATURES`.
    """
    wanted = dict(NEEDED)
    for kind in qdiscs:
        if symbol := qdisc_symbol(kind):
            wanted[symbol] = f"has the qdisc {kind}"
    for algorithm in congestion:
        if symbol := congestion_symbol(algorithm):
            wanted[symbol] = f"has the congestion control {algorithm}"
    for feature in features:
        wanted |= FEATURES[feature]
    return wanted
