"""Two private network namespaces joined by a veth pair, and the traffic tools compiled to run in them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar, Final

import pytest

from zdlab.traffic.build import TrafficTools, compile_tools
from zdlab.traffic.command import Side, TrafficCommands, TrafficSpec, traffic_commands
from zdlab.traffic.result import Finished, TrafficResult, traffic_result

# Whatever a test starts dies with the test process, so that a killed test run leaves nothing.
SIDES: Final[tuple[Side, ...]] = ("client", "server")
_DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")


class NetPair:
    """A client's and a server's network namespace with a veth pair between them.

    Each namespace lives exactly as long as a sleeping process of ours in it.
    """

    addresses: ClassVar[dict[Side, tuple[str, str]]] = {
        "client": ("10.77.0.1", "fd77::1"),
        "server": ("10.77.0.2", "fd77::2"),
    }

    def __init__(self) -> None:
        self._holders: dict[Side, subprocess.Popen[bytes]] = {}
        self._started: list[subprocess.Popen[str]] = []

    def open(self) -> None:
        own = Path("/proc/self/ns/net").readlink()
        for side in SIDES:
            holder = subprocess.Popen([*_DIE_WITH_PARENT, "unshare", "--net", "sleep", "infinity"])
            self._holders[side] = holder
            deadline = time.monotonic() + 20
            while Path(f"/proc/{holder.pid}/ns/net").readlink() == own or not self._sleeps(holder.pid):
                assert time.monotonic() < deadline, "no private network namespace"
                time.sleep(0.005)
        peer = str(self._holders["server"].pid)
        self.ip("client", "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", peer)
        for side in SIDES:
            addresses = self.addresses[side]
            self.ip(side, "address", "add", f"{addresses[0]}/24", "dev", "veth0")
            self.ip(side, "address", "add", f"{addresses[1]}/64", "dev", "veth0", "nodad")
            self.ip(side, "link", "set", "lo", "up")
            self.ip(side, "link", "set", "veth0", "up")

    @staticmethod
    def _sleeps(pid: int) -> bool:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\0")

    def close(self) -> None:
        processes: list[subprocess.Popen[str] | subprocess.Popen[bytes]] = [*self._started, *self._holders.values()]
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def command(self, side: Side, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs ``argv`` in the namespace of ``side``."""
        net = f"--net=/proc/{self._holders[side].pid}/ns/net"
        return [*_DIE_WITH_PARENT, "nsenter", net, "--", *argv]

    def start(self, side: Side, argv: Sequence[str]) -> subprocess.Popen[str]:
        """Start ``argv`` in the background; it is killed at the end of the test."""
        process = subprocess.Popen(self.command(side, argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._started.append(process)
        return process

    def run(self, side: Side, argv: Sequence[str]) -> str:
        """Run ``argv`` to its end and return what it printed."""
        done = subprocess.run(self.command(side, argv), capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ip(self, side: Side, *arguments: str) -> str:
        return self.run(side, ["ip", *arguments])

    def tcp_counter(self, side: Side, name: str) -> int:
        """Return a counter of the namespace's TCP, by its name in ``/proc/net/snmp`` such as ``OutRsts``."""
        text = Path(f"/proc/{self._holders[side].pid}/net/snmp").read_text()
        names, values = (line.split() for line in text.splitlines() if line.startswith("Tcp:"))
        return int(values[names.index(name)])

    def connections(self, side: Side) -> set[tuple[str, str]]:
        """Return the near and far ends ``address:port`` of the established connections of ``side``.

        Both ends, as the control connection and a flow, which go to different ports, may come from the same one.
        """
        lines = self.run(side, ["ss", "-Htn", "state", "established"]).splitlines()
        return {(near, far) for near, far in (line.split()[-2:] for line in lines)}


class TrafficRun:
    """Runs of the traffic tools between the two namespaces."""

    def __init__(self, pair: NetPair, tools: TrafficTools, directory: Path) -> None:
        self.pair = pair
        self.tools = tools
        self.directory = directory

    def commands(self, spec: TrafficSpec) -> TrafficCommands:
        here = PurePosixPath(self.tools.directory)
        return traffic_commands(
            spec,
            programs={"client": here, "server": here},
            directory=PurePosixPath(self.directory),
            name="test",
        )

    def start(self, spec: TrafficSpec) -> dict[Side, subprocess.Popen[str]]:
        """Start both ends, the server first."""
        commands = self.commands(spec)
        return {
            "server": self.pair.start("server", commands.server.argv),
            "client": self.pair.start("client", commands.client.argv),
        }

    def await_flows(self, count: int) -> None:
        """Wait until the server's namespace has ``count`` connections beside the control connection."""
        deadline = time.monotonic() + 30
        while (connected := len(self.pair.connections("server"))) < count + 1:
            assert time.monotonic() < deadline, f"{connected} connections instead of {count + 1}"
            time.sleep(0.05)

    def finish(self, spec: TrafficSpec, processes: dict[Side, subprocess.Popen[str]]) -> dict[Side, Finished]:
        """Wait for both ends, no longer than the commands promise."""
        commands = self.commands(spec)
        finished: dict[Side, Finished] = {}
        for side in SIDES:
            command = commands.client if side == "client" else commands.server
            stdout, stderr = processes[side].communicate(timeout=commands.deadline)
            files = {file: Path(file.path).read_text() for file in command.files if Path(file.path).exists()}
            finished[side] = Finished(processes[side].returncode, stdout, stderr, files)
        return finished

    def result(self, spec: TrafficSpec) -> TrafficResult:
        """Run to the end and put the result together."""
        finished = self.finish(spec, self.start(spec))
        return traffic_result(spec, client=finished["client"], server=finished["server"])


@pytest.fixture
def traffic(pair: NetPair, tools: TrafficTools, tmp_path: Path) -> TrafficRun:
    return TrafficRun(pair, tools, tmp_path)


@pytest.fixture
def sanitized_traffic(pair: NetPair, sanitized: TrafficTools, tmp_path: Path) -> TrafficRun:
    return TrafficRun(pair, sanitized, tmp_path)


@pytest.fixture
def pair() -> Iterator[NetPair]:
    made = NetPair()
    try:
        made.open()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for all of xdist's workers, so that the tools are compiled once."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    cache = shared / "traffic-tools"
    cache.mkdir(exist_ok=True)
    return cache


@pytest.fixture(scope="session")
def tools(_cache: Path) -> TrafficTools:
    return compile_tools(cache=_cache)


@pytest.fixture(scope="session")
def sanitized(_cache: Path) -> TrafficTools:
    return compile_tools(cache=_cache, sanitize=True)
