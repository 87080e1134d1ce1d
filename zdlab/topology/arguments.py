"""Further arguments of a traffic tool that a file may give.

A topology is somebody's file and its traffic runs with the rights of whoever runs it: what names a file, and what
zdlab sets itself, is no argument a file may have. The flags are those of ``images/traffic/options.c``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from zdlab.errors import MistakeError


@dataclass(frozen=True)
class _Flag:
    letter: str = ""
    value: bool = False
    #: Of the one tool that has it.
    tool: str = ""
    #: zdlab's tools alone have it, neper's do not.
    own: bool = False


#: By their long names, what a file may say.
_ALLOWED: Final = {
    "ipv4": _Flag("4"),
    "ipv6": _Flag("6"),
    "source-port": _Flag(value=True),
    "enable-read": _Flag("r", tool="tcp_stream"),
    "enable-write": _Flag("w", tool="tcp_stream"),
    "enable-tcp-maerts": _Flag("M", tool="tcp_stream"),
    "reuseaddr": _Flag("R", tool="tcp_stream"),
    "no-cork": _Flag(tool="tcp_stream"),
    "skip-rx-copy": _Flag(tool="tcp_stream"),
    "delay": _Flag("D", value=True),
    "max-pacing-rate": _Flag("m", value=True),
    "mark": _Flag(value=True),
    "time-wait": _Flag(),
    "maxevents": _Flag(value=True),
    "listen-backlog": _Flag(value=True),
    "pin-cpu": _Flag("U"),
    "async-connect": _Flag(),
    "nonblocking": _Flag(),
    "connect-window": _Flag(value=True, own=True),
    "start-jitter": _Flag(value=True, own=True),
}
#: What zdlab says itself, by all its names, and what a file says in its place.
_SAID: Final = {
    "-F": "`flows`",
    "--num-flows": "`flows`",
    "-T": "`threads`",
    "--num-threads": "`threads`",
    "-B": "`buffer`",
    "--buffer-size": "`buffer`",
    "-l": "`duration`",
    "--test-length": "`duration`",
    "-Q": "`request`",
    "--request-size": "`request`",
    "--response-size": "`response`",
    "-H": "`to`",
    "--host": "`to`",
}


def own_flags(arguments: Sequence[str]) -> list[str]:
    """Return those of valid arguments that are flags of zdlab's tools alone: neper's would refuse them."""
    names = [word.partition("=")[0] for word in arguments]
    return [name for name in names if name.startswith("--") and (flag := _ALLOWED.get(name[2:])) and flag.own]


def check_arguments(tool: str, arguments: Sequence[str]) -> None:
    """See that arguments are flags a file may give to ``tcp_stream`` or ``tcp_rr``, with their values.

    :raises MistakeError: when one is not, or two exclude each other.
    """
    if len(_families(tool, arguments)) > 1:
        raise MistakeError("-4 and -6 exclude each other", "have two workloads")


def address_family(tool: str, arguments: Sequence[str]) -> int | None:
    """Return the version of IP that valid arguments ask for, ``None`` where they leave it open."""
    return next(iter(_families(tool, arguments)), None)


def _families(tool: str, arguments: Sequence[str]) -> set[int]:
    """Return the versions of IP that arguments ask for.

    :raises MistakeError: when one may not be given.
    """
    words = iter(arguments)
    flags = [_checked(tool, word, words) for word in words]
    return {int(flag.letter) for flag in flags if flag.letter in {"4", "6"}}


def _checked(tool: str, word: str, rest: Iterator[str]) -> _Flag:
    """Return the flag a word is; its value is taken from the rest where it is a word of its own."""
    flag, attached = _find(tool, word)
    if flag is None:
        name = word.partition("=")[0] if word.startswith("--") else word[:2]
        if name in _SAID:
            raise MistakeError(f"{word[:80]!r} is for zdlab to say", f"write {_SAID[name]} instead")
        raise MistakeError(
            f"{word[:80]!r} is no argument of {tool} that a file may give", f"those it may: {', '.join(_known(tool))}"
        )
    if not flag.value and attached is not None:
        raise MistakeError(f"{word[:80]!r}: this flag has no value", "write every flag as a word of its own")
    if flag.value and attached is None and next(rest, None) is None:
        raise MistakeError(f"{word[:80]!r} needs a value", f"write [{word[:80]}, VALUE]")
    return flag


def _find(tool: str, word: str) -> tuple[_Flag | None, str | None]:
    """Return the flag a word is, if it may be given, and the value that is attached to it."""
    if word.startswith("--"):
        name, equals, value = word[2:].partition("=")
        # In full: the tools would take any beginning of a name that is one flag's alone.
        flag = _ALLOWED.get(name)
        return (flag if flag and flag.tool in {"", tool} else None), (value if equals else None)
    for flag in _ALLOWED.values():
        if flag.letter and word.startswith(f"-{flag.letter}") and flag.tool in {"", tool}:
            return flag, word[2:] or None
    return None, None


def _known(tool: str) -> list[str]:
    return [
        f"-{flag.letter}/--{name}" if flag.letter else f"--{name}"
        for name, flag in _ALLOWED.items()
        if flag.tool in {"", tool}
    ]
