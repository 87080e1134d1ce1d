"""What an agent samples reads back as it was, and a cut is noticed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdlab.agent.sampler import ROW, SAMPLE
from zdlab.errors import InfrastructureError
from zdlab.measure.samples import Peak, QdiscSample, Sample, decode_samples, peaks, sample_lines

_U32 = st.integers(0, 2**32 - 1)
_U64 = st.integers(0, 2**64 - 1)
_INTERFACES = st.integers(1, 9)
_ROWS = st.tuples(_INTERFACES, _U32, _U32, _U64, _U64, _U32, _U32, _U32, _U32, _U32)
_SAMPLES = st.lists(st.tuples(_U64, _U64, _U64, _U64, _U64, st.lists(_ROWS, max_size=4)), max_size=4)
HEADER: dict[str, Any] = {"interfaces": [[1, "lo"], [2, "eth0"]], "kinds": [[2, 0x10000, "tbf"]]}


def _packed(samples: list[Any]) -> bytes:
    return b"".join(
        SAMPLE.pack(*sample[:5], len(sample[5])) + b"".join(ROW.pack(*row) for row in sample[5]) for sample in samples
    )


def _row(packets: int = 0, size: int = 0, interface: str = "eth0", kind: str = "tbf") -> QdiscSample:
    return QdiscSample(interface, kind, 0x10000, 0xFFFFFFFF, 0, 0, 0, 0, 0, packets, size)


def _sample(at: int, *rows: QdiscSample) -> Sample:
    return Sample(at, 0, 0, 0, 0, rows)


@given(_SAMPLES)
def test_samples_read_back_as_they_were_written(samples: list[Any]) -> None:
    found = list(decode_samples(HEADER, _packed(samples)))

    names = dict(HEADER["interfaces"])
    assert [tuple(sample)[:5] for sample in found] == [sample[:5] for sample in samples]
    for sample, written in zip(found, samples, strict=True):
        assert [(row.interface, *row[2:]) for row in sample.qdiscs] == [
            (names.get(row[0], str(row[0])), *row[1:]) for row in written[5]
        ]


def test_interfaces_and_kinds_get_their_names() -> None:
    rows = [(2, 0x10000, 0xFFFFFFFF, 9, 8, 7, 6, 5, 4, 3), (5, 0, 0xFFFFFFFF, 0, 0, 0, 0, 0, 0, 0)]
    (sample,) = decode_samples(HEADER, _packed([(1, 2, 3, 4, 5, rows)]))

    assert sample.qdiscs[0] == QdiscSample("eth0", "tbf", 0x10000, 0xFFFFFFFF, 9, 8, 7, 6, 5, 4, 3)
    assert (sample.qdiscs[1].interface, sample.qdiscs[1].kind) == ("5", "")


def test_data_that_is_cut_short_anywhere_is_refused() -> None:
    row = (2, 0x10000, 0xFFFFFFFF, 0, 0, 0, 0, 0, 0, 0)
    data = _packed([(1, 0, 0, 0, 0, [row, row])])

    assert list(decode_samples(HEADER, b"")) == []
    assert len(list(decode_samples(HEADER, data))) == 1
    for length in range(1, len(data)):
        with pytest.raises(InfrastructureError, match="cut short"):
            list(decode_samples(HEADER, data[:length]))


def test_a_peak_is_the_most_packets_and_the_most_bytes_each_for_itself() -> None:
    samples = [_sample(1, _row(5, 100)), _sample(2, _row(2, 900)), _sample(3, _row(6, 50), _row(1, 1, "eth1"))]

    assert peaks(samples) == {("eth0", 0x10000): Peak(6, 900), ("eth1", 0x10000): Peak(1, 1)}


def test_a_queue_that_stayed_empty_has_a_peak_of_zero() -> None:
    assert peaks([_sample(1, _row())]) == {("eth0", 0x10000): Peak(0, 0)}


def test_lines_are_json_with_times_from_the_beginning_and_handles_as_tc_writes_them() -> None:
    child = _row(3, 4)._replace(handle=0x20000, parent=0x1000A)
    lines = [
        json.loads(line)
        for line in sample_lines("a", [_sample(2_500_000_000, _row(1, 2), child, _row(kind="noqueue"))], 10**9)
    ]

    assert lines[0] == {"node": "a", "t": 1.5, "retransmits": 0, "segments": 0, "busy_ticks": 0, "all_ticks": 0}
    assert [(line["handle"], line["parent"], line["qlen"], line["backlog"]) for line in lines[1:]] == [
        ("1:", "root", 1, 2),
        ("2:", "1:a", 3, 4),
    ]
