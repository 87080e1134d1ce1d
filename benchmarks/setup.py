"""How long it takes to build a lab of many namespaces, against the same links by ``ip -batch``.

Run as root: ``.venv/bin/python -m benchmarks.setup [HOSTS]``. The computer should be idle.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.measure import line, seconds
from zdlab.lab.client import Lab
from zdlab.plan.build import build_plan
from zdlab.topology import parse_topology

_RUNS = 5


def _star(hosts: int) -> str:
    """Return a topology of so many hosts on one bridge."""
    nodes = "".join(f"  h{number}: {{kind: host}}\n" for number in range(hosts))
    links = "".join(f"  l{number}: {{ends: {{h{number}: {{}}, hub: {{}}}}}}\n" for number in range(hosts))
    return f"nodes:\n  hub: {{kind: bridge, subnet: 10.0.0.0/16}}\n{nodes}links:\n{links}"


def _by_ip(hosts: int) -> None:
    """Make the same number of veth pairs with addresses in one namespace, as cheaply as iproute2 can."""
    lines = ["link add hub type bridge", "link set hub up"]
    for number in range(hosts):
        lines += [
            f"link add v{number} type veth peer name p{number}",
            f"address add 10.0.{number // 250}.{number % 250 + 1}/16 dev v{number}",
            f"link set p{number} master hub",
            f"link set p{number} up",
            f"link set v{number} up",
        ]
    command = ["unshare", "--net", "ip", "-batch", "-"]
    subprocess.run(command, input="\n".join(lines), text=True, check=True, capture_output=True)


def main() -> None:
    """Measure and print."""
    hosts = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    plan = build_plan(parse_topology(_star(hosts), "benchmark").base, "benchmark")
    labs: list[Lab] = []
    sys.stdout.write(line(f"ip -batch, {hosts} veth pairs", seconds(lambda: _by_ip(hosts), _RUNS)) + "\n")
    built = []
    for _ in range(_RUNS):
        built += seconds(lambda: labs.append(Lab.start(plan.outline(), {})), 1)
        labs.pop().down()
    sys.stdout.write(line(f"zdlab, {hosts} hosts, addresses read back", built) + "\n")


if __name__ == "__main__":
    main()
