"""What is wrong with a single value, in a sentence: pydantic's findings in the words of a topology file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from pydantic_core import ErrorDetails

from zdlab.errors import MistakeError
from zdlab.topology.yamltree import Path, path_text
from zdlab.units import format_size, format_time

#: How a number is written at a key that takes a unit.
_UNITS: Final[Mapping[str, Callable[[int], str]]] = {
    "memory": format_size,
    "buffer": format_size,
    "request": format_size,
    "response": format_size,
    "duration": format_time,
    "start": format_time,
}


def value_sentence(detail: ErrorDetails, path: Path) -> tuple[str, str]:
    """Return what is wrong with the value at a path, and what would be right."""
    where = path_text(path)
    kind = detail["type"]
    for kinds, sentence in _SENTENCES.items():
        if kind in kinds:
            return sentence(detail, where)
    error = detail.get("ctx", {}).get("error")
    if isinstance(error, MistakeError):
        return f"{where}: {error.problem}", error.hint
    return f"{where}: {detail['msg'].removeprefix('Value error, ')}", "docs/topology.md says what stands here"


def _list(_detail: ErrorDetails, where: str) -> tuple[str, str]:
    return f"{where} is a list", "write [ONE, ANOTHER]"


def _mapping(_detail: ErrorDetails, where: str) -> tuple[str, str]:
    return f"{where} is a mapping", "write {KEY: VALUE}, such as {kind: host} or {kind: pfifo, limit: 100p}"


def _length(detail: ErrorDetails, where: str) -> tuple[str, str]:
    context = detail["ctx"]
    if "min_length" in context:
        least = context["min_length"]
        return f"{where} needs at least {least}, and has {context['actual_length']}", f"write {least} or more"
    most = context["max_length"]
    return f"{where} has {context['actual_length']}, at most {most} are taken", f"write {most} or fewer"


def _bound(detail: ErrorDetails, where: str) -> tuple[str, str]:
    context = detail["ctx"]
    written = _UNITS.get(where.rpartition(".")[2], str)
    given = detail["input"]
    named = f"{where}: {given[:40] if isinstance(given, str) else written(given)}"
    if "ge" in context:
        bound = written(context["ge"])
        return f"{named} is too small: {where} is at least {bound}", f"write {bound} or more"
    bound = written(context["le"])
    return f"{named} is too large: {where} is at most {bound}", f"write {bound} or less"


def _number(detail: ErrorDetails, where: str) -> tuple[str, str]:
    whole = "whole " if detail["type"].startswith("int_") else ""
    hint = "write 0.05 for 5 %" if str(detail["input"]).endswith("%") else "write it without a unit"
    return f"{where}: {str(detail['input'])[:60]!r} is no {whole}number", hint


def _pattern(detail: ErrorDetails, where: str) -> tuple[str, str]:
    written = repr(str(detail["input"])[:60])
    if where.endswith(".mac"):
        return f"{where}: {written} is no MAC address of an interface", (
            "six bytes like 02:00:00:00:00:01; the first is even: an odd one is a multicast address's"
        )
    return f"{where}: {written} is not a name that works here", f"it must match {detail['ctx']['pattern']}"


def _choice(detail: ErrorDetails, where: str) -> tuple[str, str]:
    return f"{where}: {str(detail['input'])[:40]!r} is not known here", f"write {detail['ctx']['expected']}"


def _text(_detail: ErrorDetails, where: str) -> tuple[str, str]:
    return f"{where} is a text", "write a word, in quotes where YAML takes it for something else"


def _text_length(detail: ErrorDetails, where: str) -> tuple[str, str]:
    context = detail["ctx"]
    if "min_length" in context:
        return f"{where} is empty", "write something, or leave it out"
    return f"{where} is too long", f"write at most {context['max_length']} characters"


_SENTENCES: Final[Mapping[frozenset[str], Callable[[ErrorDetails, str], tuple[str, str]]]] = {
    frozenset({"tuple_type", "list_type"}): _list,
    frozenset({"model_type", "model_attributes_type", "dict_type"}): _mapping,
    frozenset({"too_short", "too_long"}): _length,
    frozenset({"greater_than_equal", "less_than_equal"}): _bound,
    frozenset(
        {
            "int_parsing",
            "int_type",
            "int_from_float",
            "int_parsing_size",
            "float_parsing",
            "float_type",
            "finite_number",
        }
    ): _number,
    frozenset({"string_pattern_mismatch"}): _pattern,
    frozenset({"literal_error"}): _choice,
    frozenset({"string_type"}): _text,
    frozenset({"string_too_short", "string_too_long"}): _text_length,
}
