"""From what shall flow to the two command lines that make it flow. Pure: nothing is started here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from zdlab.errors import UsageError
from zdlab.traffic.build import Origin

Tool = Literal["tcp_stream", "tcp_rr"]
Side = Literal["client", "server"]

_FIRST_PORT = 12866
"""neper's control port; the data ports follow it."""
_LAST_PORT = 32767
"""Above it Linux takes the clients' own ports from."""
_FLOWS_PER_PORT = 20_000
"""A client's own ports are about 28,000 for each of the server's; the last are slow to find."""


@dataclass(frozen=True)
class TrafficSpec:
    """Flows of one tool from a client to a server.

    :param tool: ``tcp_stream`` for bulk data, ``tcp_rr`` for requests and responses.
    :param host: the server's address, as the client reaches it.
    :param flows: TCP connections.
    :param threads: threads at either end.
    :param seconds: length of the test, from the moment the flows are connected.
    :param buffer: bytes of one send or receive call; ``None``: the tool's own default.
    :param request: ``tcp_rr``: bytes of a request.
    :param response: ``tcp_rr``: bytes of a response.
    :param percentiles: ``tcp_rr``: the latencies to report, in percent.
    :param interval: seconds between samples.
    :param samples: write every flow's samples, not only its sums. Large: a line for each flow and interval.
    :param control_port: the server's control port.
    :param port: the server's first data port.
    :param num_ports: how many data ports; ``None``: enough for the flows.
    :param local_hosts: the client's own addresses to spread the flows over; empty: the kernel chooses.
    :param connect_timeout: seconds after which the test begins with the flows that have connected.
    :param control_timeout: seconds either end waits for the other before it gives up.
    :param seed: decides everything that is random.
    :param extra: further arguments for both ends; they come last, so they win.
    """

    tool: Tool
    host: str
    flows: int = 1
    threads: int = 1
    seconds: float = 10.0
    buffer: int | None = None
    request: int | None = None
    response: int | None = None
    percentiles: tuple[float, ...] = (50.0, 90.0, 99.0, 99.9)
    interval: float = 1.0
    samples: bool = False
    control_port: int = _FIRST_PORT
    port: int = _FIRST_PORT + 1
    num_ports: int | None = None
    local_hosts: tuple[str, ...] = ()
    connect_timeout: float = 30.0
    control_timeout: float = 30.0
    seed: int = 0
    extra: tuple[str, ...] = ()

    @property
    def data_ports(self) -> int:
        """How many data ports the server opens."""
        if self.num_ports is not None:
            return self.num_ports
        return max(1, math.ceil(self.flows / (_FLOWS_PER_PORT * max(1, len(self.local_hosts)))))


@dataclass(frozen=True)
class OutputFile:
    """A file that a tool may write, and that the lab shall fetch when the tool has ended.

    An end that reads nothing writes no samples, so a file may be absent.

    :param side: who writes it.
    :param kind: ``flows``: one line for each flow; ``samples``: one for each flow and interval.
    :param path: where it is on the node.
    """

    side: Side
    kind: Literal["flows", "samples"]
    path: str


@dataclass(frozen=True)
class TrafficCommand:
    """One end's command line, and the files it leaves."""

    argv: tuple[str, ...]
    files: tuple[OutputFile, ...]


@dataclass(frozen=True)
class TrafficCommands:
    """Both ends' command lines.

    :param server: to be started first; ready as soon as it prints ``listening=`` (zdlab's tool), and
        in any case the client tries for ``control_timeout`` seconds (neper: 30) to reach it.
    :param client: ends the run.
    :param deadline: seconds after the client's start by which both ends have ended on their own.
    """

    server: TrafficCommand
    client: TrafficCommand
    deadline: float


def assign_ports(count: int) -> tuple[tuple[int, int], ...]:
    """Return a control port and a first data port for each of ``count`` workloads that run at once.

    Each has as much room for further data ports as can be.

    :raises UsageError: when there are too many.
    """
    if count < 1:
        return ()
    stride = min(1025, (_LAST_PORT - _FIRST_PORT + 1) // count)
    if stride < 2:
        raise UsageError(f"{count} workloads at once are more than there are ports for", hint="use fewer workloads")
    return tuple((_FIRST_PORT + stride * i, _FIRST_PORT + stride * i + 1) for i in range(count))


def traffic_commands(
    spec: TrafficSpec,
    *,
    programs: Mapping[Side, PurePosixPath],
    directory: PurePosixPath,
    name: str,
    origin: Origin = "zdlab",
) -> TrafficCommands:
    """Return the command lines that carry out ``spec``.

    :param programs: the directory of the tools on each end's node.
    :param directory: where the tools write their files, on either node.
    :param name: of the workload; makes the files' names unique.
    :param origin: whose tools they are: neper's get only the flags neper has, and round ``seconds`` up.
    """
    return TrafficCommands(
        _command("server", spec, programs["server"], directory / f"{name}.server", origin),
        _command("client", spec, programs["client"], directory / f"{name}.client", origin),
        _deadline(spec),
    )


def _command(
    side: Side, spec: TrafficSpec, programs: PurePosixPath, prefix: PurePosixPath, origin: Origin
) -> TrafficCommand:
    """One end's command line; its files' names begin with ``prefix``."""
    argv = [str(programs / spec.tool)]
    if side == "client":
        argv += ["-c", "-H", spec.host]
        if spec.local_hosts:
            argv += ["-L", ",".join(spec.local_hosts)]
    argv += _common(spec, origin)
    files = []
    # neper has no sums of each flow: there the samples must do.
    if spec.samples or origin == "neper":
        argv.append(f"--all-samples={prefix}.samples.csv")
        files.append(OutputFile(side, "samples", f"{prefix}.samples.csv"))
    if origin == "zdlab":
        argv.append(f"--flow-summary={prefix}.flows.csv")
        files.append(OutputFile(side, "flows", f"{prefix}.flows.csv"))
    return TrafficCommand((*argv, *spec.extra), tuple(files))


def _common(spec: TrafficSpec, origin: Origin) -> list[str]:
    """The arguments both ends have in common."""
    seconds = f"{math.ceil(spec.seconds)}" if origin == "neper" else f"{spec.seconds:.9g}"
    argv = [
        *("-F", str(spec.flows), "-T", str(spec.threads)),
        *("-l", seconds, "-I", f"{spec.interval:.9g}"),
        *("-C", str(spec.control_port), "-P", str(spec.port)),
        "--nolog",
    ]
    if spec.data_ports > 1:
        argv.append(f"--num-ports={spec.data_ports}")
    if spec.buffer is not None:
        argv += ["-B", str(spec.buffer)]
    if spec.tool == "tcp_rr":
        if spec.request is not None:
            argv += ["-Q", str(spec.request)]
        if spec.response is not None:
            argv += ["-R", str(spec.response)]
        if spec.percentiles:
            argv += ["-p", ",".join(f"{percent:g}" for percent in spec.percentiles)]
    if origin == "zdlab":
        argv += [
            f"--connect-timeout={spec.connect_timeout:.9g}",
            f"--control-timeout={spec.control_timeout:.9g}",
            f"--seed={spec.seed}",
        ]
    return argv


def _deadline(spec: TrafficSpec) -> float:
    """Seconds for reaching the server, greeting it, connecting, the test, the results, and closing."""
    closing = 3 + spec.flows / 5_000
    return 4 * spec.control_timeout + spec.connect_timeout + math.ceil(spec.seconds) + closing
