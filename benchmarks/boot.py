"""How long a guest takes from `up` to the first answer of its agent, and where the time goes.

Run as root: ``.venv/bin/python -m benchmarks.boot [RUNS]``. The computer should be idle.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.measure import line
from zdlab.guest.accelerator import choose_accelerator
from zdlab.guest.image import build_image
from zdlab.guest.kernels import build_kernel
from zdlab.guest.qemu import Machine, MachineSpec, on_computer
from zdlab.lab.client import Lab
from zdlab.lab.nested import suited_to_computer
from zdlab.lab.resources import boot_files
from zdlab.plan.build import build_plan
from zdlab.topology import parse_topology
from zdlab.traffic import guest_programs, traffic_tools

_TOPOLOGY: Final = """
nodes: {a: {kind: machine, memory: 512mb}, b: {kind: host}}
links: {wire: {subnet: 192.0.2.0/24, ends: {a: {}, b: {}}}}
"""
_NESTED: Final = """
nodes:
  A: {kind: machine, memory: 1gb}
  br: {kind: bridge, in: A, subnet: 192.0.2.0/24}
  a: {kind: machine, in: A, memory: 256mb}
  b: {kind: host}
links:
  inner: {ends: {a: {}, br: {}}}
  uplink: {ends: {br: {}, b: {}}}
"""


async def _machine_times(runs: int) -> dict[str, list[float]]:
    """Start QEMU again and again; return the time to the agent's first word, and its parts."""
    image = build_image(guest_programs(traffic_tools()))
    kernel = build_kernel("stock")
    choice = await choose_accelerator("auto", kernel.path, image.path)
    found: dict[str, list[float]] = {f"QEMU to agent ({choice.name})": [], "  of it the kernel, to init": []}
    for _ in range(runs):
        machine = Machine(MachineSpec("a", kernel.path, image.path, choice.name), lambda _machine: None)
        begun = time.perf_counter()
        await machine.start(on_computer())
        await machine.wait_ready()
        whole, kernel_part = found.values()
        whole.append(time.perf_counter() - begun)
        done = await machine.agent.run(["dmesg"])
        started = re.search(rb"\[ *([0-9.]+)\] Run /init", done.stdout)
        if started is not None:
            kernel_part.append(float(started[1]))
        await machine.stop()
    return found


def _lab_times(runs: int, name: str, topology: str) -> dict[str, list[float]]:
    """Build a lab again and again."""
    source = parse_topology(topology, "benchmark")
    plan = build_plan(source.base, "benchmark")
    boot, _, _ = boot_files(plan, source, guest_programs(traffic_tools()))
    found: dict[str, list[float]] = {f"{name}, start to ready": [], f"{name}, end": []}
    starts, ends = found.values()
    for _ in range(runs):
        begun = time.perf_counter()
        lab = Lab.start(suited_to_computer(plan, boot, None).outline(), boot)
        ready = time.perf_counter()
        lab.down()
        starts.append(ready - begun)
        ends.append(time.perf_counter() - ready)
    return found


def _command_times(runs: int) -> dict[str, list[float]]:
    """Run the command as users do: its start, reading the file and looking for kernel and image count as well."""
    found: dict[str, list[float]] = {"zdlab up, the whole command": [], "zdlab down, the whole command": []}
    with tempfile.TemporaryDirectory() as made:
        file = Path(made) / "benchmark.yaml"
        file.write_text(_TOPOLOGY, encoding="utf-8")
        command = [sys.executable, "-m", "zdlab"]
        name = f"benchmark-{os.getpid()}"
        for _ in range(runs):
            for values, words in zip(found.values(), (["up", str(file), "--name", name], ["down", name]), strict=True):
                begun = time.perf_counter()
                subprocess.run([*command, *words], check=True, capture_output=True)
                values.append(time.perf_counter() - begun)
    return found


def main() -> None:
    """Measure and print."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    figures = asyncio.run(_machine_times(runs))
    figures |= _lab_times(runs, "a guest and a namespace", _TOPOLOGY) | _lab_times(runs, "a guest in a guest", _NESTED)
    figures |= _command_times(runs)
    for name, values in figures.items():
        if values:
            sys.stdout.write(line(name, values) + "\n")


if __name__ == "__main__":
    main()
