"""Verbs about one node: exec, shell, console, logs, capture."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zdlab.cli.completion import link_names, machine_names, node_names
from zdlab.cli.labs import LabOption
from zdlab.errors import UsageError, unwritable

if TYPE_CHECKING:
    from zdlab.lab.client import Lab

NodeArgument = Annotated[str, typer.Argument(help="node", show_default=False, autocompletion=node_names)]
MachineArgument = Annotated[str, typer.Argument(help="machine", show_default=False, autocompletion=machine_names)]

#: How a terminal leaves a console, as in telnet: Ctrl-].
ESCAPE = b"\x1d"


def run_in(
    node: NodeArgument,
    command: Annotated[list[str], typer.Argument(help="command, after --", show_default=False)],
    lab: LabOption = None,
) -> None:
    """Run a command in a node; streams and exit code pass through."""
    from zdlab.cli.terminal import pass_through
    from zdlab.lab.client import Lab

    argv = command[1:] if command[0] == "--" else command
    if not argv:
        raise UsageError("there is no command to run", hint="zdlab exec NODE -- COMMAND")
    if argv is command and argv[0].startswith("-"):
        raise UsageError(f"{argv[0]} is no command", hint="options come before the node: zdlab exec --lab LAB NODE")
    attached = Lab.attach(lab)
    raise typer.Exit(pass_through(attached, "exec", {"node": node, "argv": argv, **_surroundings(attached, node)}))


def shell(node: NodeArgument, lab: LabOption = None) -> None:
    """Open a shell in a node."""
    from zdlab.cli.terminal import pass_through, terminal_size
    from zdlab.lab.client import Lab

    attached = Lab.attach(lab)
    header = {"node": node, **_surroundings(attached, node)}
    guest = "caller_cwd" not in header
    header["argv"] = ["/bin/bash", "--norc"] if guest or Path("/bin/bash").exists() else ["/bin/sh"]
    header["env"]["PS1"] = f"{node}:\\w# "
    header["terminal"] = terminal_size() if sys.stdin.isatty() else None
    raise typer.Exit(pass_through(attached, "exec", header))


def _surroundings(lab: Lab, node: str) -> dict[str, Any]:
    """Return environment and working directory of a program: the caller's where the files are the computer's own."""
    for entry in lab.status()["nodes"]:
        if entry["name"] == node and entry["kind"] != "machine" and not entry["in"]:
            try:
                directory = str(Path.cwd())
            except FileNotFoundError:  # it was removed
                directory = "/"
            return {"env": dict(os.environ), "caller_cwd": directory}
    return {"env": {}, "cwd": "/root"}


def console(machine: MachineArgument, lab: LabOption = None) -> None:
    """Show a machine's serial console from its beginning; Ctrl-] leaves."""
    from zdlab.cli.terminal import pass_through
    from zdlab.lab.client import Lab

    raise typer.Exit(pass_through(Lab.attach(lab), "console", {"node": machine}, escape=ESCAPE))


def logs(
    machine: Annotated[
        str | None, typer.Argument(help="machine; the lab's supervisor when left out", autocompletion=machine_names)
    ] = None,
    lab: LabOption = None,
) -> None:
    """Print what a machine's console, or the lab's supervisor, has said."""
    from zdlab.lab.client import Lab

    attached = Lab.attach(lab)
    data = attached.supervisor_log().encode() if machine is None else attached.console_log(machine)
    sys.stdout.buffer.write(data if data.endswith(b"\n") or not data else data + b"\n")
    sys.stdout.buffer.flush()


def capture(
    where: Annotated[
        str,
        typer.Argument(help="a link's name, or NODE:INTERFACE", show_default=False, autocompletion=link_names),
    ],
    to: Annotated[Path | None, typer.Option("--to", "-w", help="file; standard output when left out or -")] = None,
    packets: Annotated[int, typer.Option("--count", "-c", min=0, help="stop after so many packets")] = 0,
    expression: Annotated[list[str] | None, typer.Argument(help="filter, as in tcpdump", show_default=False)] = None,
    lab: LabOption = None,
) -> None:
    """Capture packets (pcap) of a link or interface, to a file or a pipe: zdlab capture uplink | wireshark -k -i -."""
    from zdlab.cli.terminal import pass_through
    from zdlab.lab.client import Lab

    to = None if str(to) == "-" else to
    attached = Lab.attach(lab)
    node, interface = _place(attached.status(), where)
    if to is None and sys.stdout.isatty():
        raise UsageError("a capture is nothing for a terminal", hint="--to FILE.pcap, or pipe it into a program")
    # A lab made without root has one user, whose number there is 0: tcpdump takes that for root, wants to become
    # another user, which there is none of, and to set its groups in any case.
    argv = ["tcpdump", "-Z", "root", "-i", interface, "-U", "-s", "0", "-w", "-"]
    argv += ["-c", str(packets)] if packets else []
    words = ["--", *expression] if expression else []
    if to is not None and words:
        # A filter that is none leaves the file as it is.
        checked = attached.run(node, ["tcpdump", "-d", "-i", interface, *words])
        if checked.returncode:
            raise UsageError(f"tcpdump takes no filter {' '.join(expression or [])!r}: {_reason(checked.stderr)}")
    argv += words
    header: dict[str, Any] = {"node": node, "argv": argv, "env": {}, "cwd": None, "keep_groups": True}
    if to is None:
        raise typer.Exit(pass_through(attached, "exec", header))
    try:
        with to.open("wb") as stream:
            status = pass_through(attached, "exec", header, stdout=stream.fileno())
    except OSError as error:
        raise unwritable(to, error) from error
    raise typer.Exit(status)


def _reason(stderr: bytes) -> str:
    """Return the last line a program said, without its name."""
    lines = stderr.decode(errors="replace").strip().splitlines() or ["it does not say why"]
    return lines[-1].removeprefix("tcpdump: ")


def _place(status: dict[str, object], where: str) -> tuple[str, str]:
    """Return node and interface to capture on: for a machine, its tap in the namespace at the other end.

    :raises UsageError: when there is no such link or interface.
    """
    ends = status["ends"]
    assert isinstance(ends, list)  # noqa: S101 - the supervisor's own answer
    for end in ends:
        if where in {end["link"], f"{end['node']}:{end['interface']}"}:
            return end["capture_node"], end["capture_interface"]
    links = sorted({end["link"] for end in ends})
    raise UsageError(
        f"there is no link or interface {where!r}",
        hint=f"links: {', '.join(links) or 'none'}; interfaces are written NODE:INTERFACE",
    )


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    settings = {"ignore_unknown_options": True, "allow_interspersed_args": False}
    app.command("exec", context_settings=settings)(run_in)
    for verb in (shell, console, logs, capture):
        app.command()(verb)
