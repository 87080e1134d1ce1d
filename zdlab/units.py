"""Quantities as people write them in a topology: rates, sizes, times and packet counts.

The units are those of ``tc``: decimal prefixes for rates (``200mbit`` is 200,000,000 bit/s), binary ones for
sizes (``64kb`` is 65,536 bytes). What ``tc`` reads in a way that surprises people (``mbps``: megabytes per
second) is refused with the unit they meant. Everything is an integer inside zdlab: bit/s, bytes, nanoseconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from zdlab.errors import MistakeError

_QUANTITY: Final = re.compile(r"\s*([0-9]{1,19}(?:\.[0-9]{1,9})?)\s*([A-Za-zµ]*)\s*")

RATE_UNITS: Final[Mapping[str, int]] = {
    "bit": 1,
    "kbit": 10**3,
    "mbit": 10**6,
    "gbit": 10**9,
    "tbit": 10**12,
    "kibit": 2**10,
    "mibit": 2**20,
    "gibit": 2**30,
}
SIZE_UNITS: Final[Mapping[str, int]] = {
    "": 1,
    "b": 1,
    "k": 2**10,
    "kb": 2**10,
    "kib": 2**10,
    "m": 2**20,
    "mb": 2**20,
    "mib": 2**20,
    "g": 2**30,
    "gb": 2**30,
    "gib": 2**30,
}
TIME_UNITS: Final[Mapping[str, int]] = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "sec": 10**9,
    "min": 60 * 10**9,
}
PACKET_UNITS: Final[Mapping[str, int]] = {"": 1, "p": 1, "packets": 1}

#: Largest value accepted anywhere: the kernel's 64-bit fields are the widest there are.
LARGEST: Final = 2**63 - 1


def _parse(value: object, units: Mapping[str, int], what: str, example: str) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise MistakeError(f"not a {what}", f"write one like {example}")
    match = _QUANTITY.fullmatch(str(value))
    if match is None:
        raise MistakeError(f"{str(value)[:40]!r} is not a {what}", f"write one like {example}")
    number, unit = match.groups()
    if unit.lower() not in units:
        known = ", ".join(name for name in units if name)
        problem = f"{unit!r} is not a unit of a {what}" if unit else f"a {what} needs a unit"
        raise MistakeError(problem, f"write one like {example} (units: {known})")
    exact = Fraction(number) * units[unit.lower()]
    if exact.denominator != 1:
        smallest = next(unit for unit, scale in units.items() if unit and scale == 1)
        raise MistakeError(
            f"{str(value)[:40]!r} is finer than the smallest unit of a {what}", f"write a whole number of {smallest}"
        )
    if exact > LARGEST:
        raise MistakeError(f"{str(value)[:40]!r} is too large for a {what}", f"write one below 2^63, like {example}")
    return int(exact)


def parse_rate(value: object) -> int:
    """Return a rate in bit/s from ``200mbit``, ``2.5gbit`` and the like.

    :raises MistakeError: when it is not a rate; the text says how to write one.
    """
    if isinstance(value, str) and re.search(r"\dx?\s*[kmg]?i?bps\s*$", value.lower()):
        raise MistakeError(
            f"{value[:40]!r}: tc reads 'bps' as bytes per second", "write bits, like 200mbit (8 bits a byte)"
        )
    return _parse(value, RATE_UNITS, "rate", "200mbit")


def parse_size(value: object) -> int:
    """Return a size in bytes from ``64kb`` (65,536), ``1500`` and the like.

    :raises MistakeError: when it is not a size; the text says how to write one.
    """
    return _parse(value, SIZE_UNITS, "size", "64kb")


def parse_time(value: object) -> int:
    """Return a time in nanoseconds from ``5ms``, ``1.5s`` and the like.

    :raises MistakeError: when it is not a time; the text says how to write one.
    """
    return _parse(value, TIME_UNITS, "time", "5ms")


def parse_packets(value: object) -> int:
    """Return a number of packets from ``1000p`` or ``1000``.

    :raises MistakeError: when it is not a packet count; the text says how to write one.
    """
    return _parse(value, PACKET_UNITS, "packet count", "1000p")


def _format(value: int, units: Mapping[str, int]) -> str:
    best = max((scale, unit) for unit, scale in units.items() if scale == 1 or (value and value % scale == 0))
    return f"{value // best[0]}{best[1]}"


def format_rate(bits_per_second: int) -> str:
    """Write a rate so that :func:`parse_rate` gives it back exactly."""
    return _format(bits_per_second, {u: s for u, s in RATE_UNITS.items() if "i" not in u[:-2]})


def format_size(size: int) -> str:
    """Write a size in bytes so that :func:`parse_size` gives it back exactly."""
    return _format(size, {"b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30})


def format_time(nanoseconds: int) -> str:
    """Write a time so that :func:`parse_time` gives it back exactly."""
    return _format(nanoseconds, {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9})
