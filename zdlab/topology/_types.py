"""Scalar types of the topology model: names, quantities, addresses, switches.

Each is an ``Annotated`` type that validates what the user wrote and describes itself in the JSON Schema.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from zdlab import units
from zdlab.errors import MistakeError


class Model(BaseModel):
    """Base of everything a topology file is made of: unknown keys refused, values immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _quantity(parse: Callable[[object], int], pattern: str, example: str) -> Any:
    return (
        BeforeValidator(parse),
        WithJsonSchema(
            {
                "anyOf": [{"type": "string", "pattern": pattern}, {"type": "number", "minimum": 0}],
                "examples": [example],
            }
        ),
    )


def _pattern(unit_names: dict[str, int]) -> str:
    names = "|".join(sorted((re.escape(name) for name in unit_names if name), key=len, reverse=True))
    optional = "?" if "" in unit_names else ""
    return rf"^\s*[0-9]+(\.[0-9]+)?\s*({names}){optional}\s*$"


Rate = Annotated[int, *_quantity(units.parse_rate, _pattern(dict(units.RATE_UNITS)), "200mbit")]
Size = Annotated[int, *_quantity(units.parse_size, _pattern(dict(units.SIZE_UNITS)), "64kb")]
Time = Annotated[int, *_quantity(units.parse_time, _pattern(dict(units.TIME_UNITS)), "5ms")]
Packets = Annotated[int, *_quantity(units.parse_packets, _pattern(dict(units.PACKET_UNITS)), "1000p")]

#: A node, link, workload or arm. Short enough for a host name and readable in a table.
NAME_PATTERN = r"^[a-zA-Z][a-zA-Z0-9_-]{0,30}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]

_INTERFACE: Final = r"[a-zA-Z][a-zA-Z0-9_.-]{0,14}"
#: ``lo`` every namespace has; under the others the kernel keeps the sysctls of all interfaces, and of new ones.
_TAKEN: Final = ("lo", "all", "default")


def _interface_name(value: object) -> str:
    if value in _TAKEN:
        raise MistakeError(f"{value!r} is a name the kernel has taken for itself", "choose another name, like eth0")
    if not isinstance(value, str) or not re.fullmatch(_INTERFACE, value):
        raise MistakeError(
            f"{str(value)[:40]!r} is no name of an interface",
            "at most 15 letters, digits, '_', '.' and '-', a letter first, like eth0",
        )
    return value


#: Interface names: the kernel's IFNAMSIZ leaves 15 characters; no slash, colon or blank.
InterfaceName = Annotated[
    str,
    BeforeValidator(_interface_name),
    WithJsonSchema({"type": "string", "pattern": rf"^(?!({'|'.join(_TAKEN)})$){_INTERFACE}$"}),
]

MacAddress = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$", to_lower=True)]

SysctlName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+([./][a-zA-Z0-9_-]+)+$")]


def _switch(value: object) -> object:
    if isinstance(value, str) and value.lower() in {"on", "off"}:
        return value.lower() == "on"
    if isinstance(value, bool):
        return value
    raise MistakeError(f"{str(value)[:40]!r} is no switch", "write on or off")


Switch = Annotated[
    bool,
    BeforeValidator(_switch),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": ["on", "off"]}]}),
]


def _switch_or_auto(value: object) -> object:
    if value == "auto":
        return value
    try:
        return _switch(value)
    except MistakeError as error:
        raise MistakeError(error.problem, "write on, off or auto") from None


SwitchOrAuto = Annotated[
    bool | Literal["auto"],
    BeforeValidator(_switch_or_auto),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": ["on", "off", "auto"]}]}),
]


def _sysctl_value(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise MistakeError("a sysctl's value is a number or a text", "write 1, or a text in quotes")
    text = str(value)
    if not text or len(text) > 256 or not text.isprintable():
        raise MistakeError("a sysctl's value is one printable line", "write at most 256 characters, such as 1")
    return " ".join(text.split())


SysctlValue = Annotated[
    str,
    BeforeValidator(_sysctl_value),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
]
Sysctls = dict[SysctlName, SysctlValue]

T = TypeVar("T")


def _listed(value: object) -> object:
    return value if isinstance(value, list | tuple) else [value]


def _interface_address(value: object) -> str:
    if not isinstance(value, str) or "/" not in value:
        raise MistakeError(
            f"{str(value)[:60]!r} is no address with its prefix length", "write one like 10.0.0.1/24 or fd00::1/64"
        )
    try:
        return str(ipaddress.ip_interface(value))
    except ValueError as error:
        raise MistakeError(str(error)[:120], "write one like 10.0.0.1/24 or fd00::1/64") from error


def _network(value: object) -> str:
    if not isinstance(value, str) or "/" not in value:
        raise MistakeError(f"{str(value)[:60]!r} is no subnet", "write a subnet like 10.0.0.0/24 or fd00::/64")
    try:
        loose = ipaddress.ip_network(value, strict=False)
    except ValueError as error:
        raise MistakeError(str(error)[:120], "write a subnet like 10.0.0.0/24 or fd00::/64") from error
    if ipaddress.ip_interface(value).ip != loose.network_address:
        raise MistakeError(f"{value[:60]} has host bits set", f"write {loose}")
    return str(loose)


def _gateway(value: object) -> str:
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError as error:
        raise MistakeError(
            f"{str(value)[:60]!r} is no address", "write one without a prefix length, like 10.0.0.1"
        ) from error


def _destination(value: object) -> str:
    return "default" if value == "default" else _network(value)


_TEXT = WithJsonSchema({"type": "string"})
Address = Annotated[str, BeforeValidator(_interface_address), _TEXT]
Subnet = Annotated[str, BeforeValidator(_network), _TEXT]
Gateway = Annotated[str, BeforeValidator(_gateway), _TEXT]
Destination = Annotated[str, BeforeValidator(_destination), _TEXT]


def _one_or_many(item: str) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": item}, {"type": "array", "items": {"type": item}}]})


#: One address or a list of them; always a tuple inside.
Addresses = Annotated[tuple[Address, ...], BeforeValidator(_listed), _one_or_many("string")]
Subnets = Annotated[tuple[Subnet, ...], BeforeValidator(_listed), _one_or_many("string")]


def _argument(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise MistakeError("an argument is a text or a number", "write each word as an item of its own")
    text = str(value)
    if len(text) > 1024 or not text.isprintable():
        raise MistakeError(
            "an argument is one printable line of at most 1024 characters", "write each word as an item of its own"
        )
    return text


Argument = Annotated[
    str,
    BeforeValidator(_argument),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}]}),
]


Mtu = Annotated[int, Field(ge=68, le=65535)]
