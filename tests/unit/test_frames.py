"""Frames survive whatever pieces the channel delivers them in, and what is no frame is noticed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdlab.agent import frames

_FRAMES = st.lists(
    st.tuples(st.integers(0, frames.HELLO), st.integers(0, 2**32 - 1), st.binary(max_size=300)), max_size=8
)
_HEADERS = st.dictionaries(
    st.text(max_size=8), st.none() | st.integers() | st.text(max_size=8) | st.lists(st.booleans()), max_size=4
)


def _fed(pieces: Iterable[bytes]) -> list[tuple[int, int, bytes]]:
    decoder = frames.Decoder()
    return [frame for piece in pieces for frame in decoder.feed(piece)]


@given(_FRAMES, st.lists(st.integers(1, 40), min_size=1))
def test_frames_arrive_whole_whatever_the_pieces(sent: list[tuple[int, int, bytes]], sizes: list[int]) -> None:
    data = b"".join(frames.pack(*frame) for frame in sent)
    pieces: list[bytes] = []
    while data:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[:size])
        data = data[size:]

    assert _fed(pieces) == sent


@given(_HEADERS, st.binary(max_size=300))
def test_messages_carry_a_header_and_bytes(header: dict[str, object], data: bytes) -> None:
    ((kind, stream, payload),) = _fed([frames.pack_message(frames.CALL, 7, header, data)])

    assert (kind, stream) == (frames.CALL, 7)
    assert frames.unpack_message(payload) == (header, data)


def test_the_largest_frame_is_taken_and_a_larger_one_refused_before_it_arrives() -> None:
    largest = bytes(frames.MAX_PAYLOAD)
    assert _fed([frames.pack(frames.STDOUT, 1, largest)]) == [(frames.STDOUT, 1, largest)]

    with pytest.raises(frames.FrameError, match="no frame"):
        _fed([frames.HEADER.pack(frames.MAX_PAYLOAD + 1, frames.STDOUT, 1)])


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(frames.FrameError, match="type 8"):
        _fed([frames.pack(frames.HELLO + 1, 0)])


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"", "not readable"),
        (b"\0\0\0", "not readable"),
        (b"\0\0\0\x05{}", "cut short"),
        (b"\0\0\0\x02{]", "not readable"),
        (b"\0\0\0\x02[]", "no object"),
        (b"\0\0\0\x01\xff", "not readable"),
    ],
)
def test_a_broken_message_is_noticed(payload: bytes, problem: str) -> None:
    with pytest.raises(frames.FrameError, match=problem):
        frames.unpack_message(payload)


@given(st.binary())
def test_garbage_gives_frames_or_a_frame_error(data: bytes) -> None:
    with contextlib.suppress(frames.FrameError):
        for _, _, payload in _fed([data]):
            frames.unpack_message(payload)


def test_bulk_data_fits_into_frames_and_windows() -> None:
    assert frames.CHUNK <= frames.WINDOW <= frames.MAX_PAYLOAD
