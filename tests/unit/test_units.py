"""Quantities mean what they mean to tc, and what tc reads in a surprising way is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdlab import units

PARSERS = (units.parse_rate, units.parse_size, units.parse_time, units.parse_packets)
AMOUNTS = st.integers(min_value=0, max_value=units.LARGEST)


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("1bit", 1),
        ("200mbit", 200_000_000),
        ("2.5gbit", 2_500_000_000),
        ("1tbit", 10**12),
        ("64kbit", 64_000),
        ("1kibit", 1024),
        ("1MiBit", 1 << 20),
        (" 10 Gbit ", 10**10),
    ],
)
def test_rates_are_decimal_bits(text: str, bits: int) -> None:
    assert units.parse_rate(text) == bits


@pytest.mark.parametrize(
    ("text", "size"),
    [("1500", 1500), (1500, 1500), ("64kb", 65_536), ("1k", 1024), ("1.5mb", 1_572_864), ("1gib", 1 << 30), ("7b", 7)],
)
def test_sizes_are_binary_bytes(text: object, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("5ms", 5_000_000), ("1.5s", 1_500_000_000), ("20us", 20_000), ("20µs", 20_000), ("2min", 120 * 10**9)],
)
def test_times_are_nanoseconds(text: str, nanoseconds: int) -> None:
    assert units.parse_time(text) == nanoseconds


@pytest.mark.parametrize(("text", "packets"), [("1000p", 1000), ("1000", 1000), (1000, 1000), ("3 packets", 3)])
def test_packets_are_counted(text: object, packets: int) -> None:
    assert units.parse_packets(text) == packets


@pytest.mark.parametrize("text", ["200mbps", "25 Mbps", "1gbps", "9bps", "1kibps"])
def test_bytes_per_second_are_refused_with_the_unit_that_was_meant(text: str) -> None:
    with pytest.raises(ValueError, match="write bits, like 200mbit"):
        units.parse_rate(text)


@pytest.mark.parametrize(
    ("parse", "value", "complaint"),
    [
        (units.parse_rate, "200", "a rate needs a unit"),
        (units.parse_rate, "5ms", "'ms' is not a unit of a rate"),
        (units.parse_time, "5", "a time needs a unit"),
        (units.parse_time, "5kb", "'kb' is not a unit of a time"),
        (units.parse_size, "5mbit", "'mbit' is not a unit of a size"),
        (units.parse_packets, "5kb", "'kb' is not a unit of a packet count"),
        (units.parse_packets, "1.5p", "finer than the smallest unit"),
        (units.parse_rate, "0.5bit", "finer than the smallest unit"),
        (units.parse_size, "9223372036854775808", "too large"),
        (units.parse_size, "999999999999999999gb", "too large"),
        (units.parse_rate, "9300000000gbit", "too large"),
    ],
)
def test_refusals_say_what_is_wrong(parse: Callable[[object], int], value: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(value)


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "value",
    ["", " ", "-1", "-1mbit", "mbit", "1e3", "1,5s", "0x10", "1 2", "nan", "inf", "٣", "٣mbit", "\uff11kb", "²s"],
)
def test_what_is_no_quantity_is_refused(parse: Callable[[object], int], value: str) -> None:
    with pytest.raises(ValueError, match="write one like"):
        parse(value)


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("value", [None, True, [], {}, b"1", float("nan"), float("inf"), -1, -0.5, 1e30])
def test_other_types_and_numbers_out_of_range_are_refused(parse: Callable[[object], int], value: object) -> None:
    with pytest.raises(ValueError, match="write one like"):
        parse(value)


@given(AMOUNTS)
def test_what_is_written_reads_back_exactly(amount: int) -> None:
    assert units.parse_rate(units.format_rate(amount)) == amount
    assert units.parse_size(units.format_size(amount)) == amount
    assert units.parse_time(units.format_time(amount)) == amount


@given(st.integers(1, 999), st.sampled_from(["k", "m", "g"]))
def test_round_amounts_are_written_short(number: int, prefix: str) -> None:
    assert units.format_rate(units.parse_rate(f"{number}{prefix}bit")) == f"{number}{prefix}bit"
    assert units.format_size(units.parse_size(f"{number}{prefix}b")) == f"{number}{prefix}b"


@given(st.text() | st.integers() | st.floats() | st.booleans() | st.none())
def test_anything_else_is_a_value_error_and_nothing_worse(value: object) -> None:
    for parse in PARSERS:
        try:
            amount = parse(value)
        except ValueError:
            continue
        assert 0 <= amount <= units.LARGEST
