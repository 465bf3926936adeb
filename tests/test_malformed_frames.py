"""Attacks on frames, one test each. A bad frame is refused with FrameError, and nothing is written."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwire import _native
from gradwire._native import Codec
from gradwire.errors import ArgumentError, FrameError

Bytes = npt.NDArray[np.uint8]
COUNT = 5000
X = np.random.default_rng(1).standard_normal(COUNT).astype(np.float32)


def frame_of(name: str = "int8") -> Bytes:
    return _native.encode(X, Codec(name))


def put(frame: Bytes, offset: int, kind: str, value: int) -> Bytes:
    raw = struct.pack("<" + kind, value)
    frame[offset : offset + len(raw)] = np.frombuffer(raw, np.uint8)
    return frame


def refused(frame: Bytes, match: str) -> None:
    out = np.full(COUNT, 77, np.float32)
    for call in (_native.frame_info, lambda f: _native.decode(f, out), lambda f: _native.decode_add(f, out)):
        with pytest.raises(FrameError, match=match):
            call(frame)
    assert (out == 77).all()


def test_attack_empty() -> None:
    refused(np.empty(0, np.uint8), "truncated")


def test_attack_header_cut_short() -> None:
    refused(frame_of()[:63].copy(), "64 bytes, the buffer has 63")


def test_attack_payload_cut_short() -> None:
    refused(frame_of()[:-1].copy(), "truncated; bytes after the header: expected")


def test_attack_trailing_bytes() -> None:
    refused(np.append(frame_of(), np.uint8(0)), "trailing")


def test_attack_wrong_magic() -> None:
    refused(put(frame_of(), 0, "B", ord("g")), "magic")


def test_attack_future_version() -> None:
    refused(put(frame_of(), 4, "B", 2), "version: expected 1, got 2")


@pytest.mark.parametrize("codec", [6, 31, 32, 255])
def test_attack_unknown_codec(codec: int) -> None:
    refused(put(frame_of(), 5, "B", codec), f"unknown codec id {codec}")


@pytest.mark.parametrize("other", [0, 1, 2])
def test_attack_another_codec_than_encoded(other: int) -> None:
    refused(put(put(frame_of(), 5, "B", other), 12, "I", 0), "payload_bytes")


@pytest.mark.parametrize("dtype", [0, 8, 255])
def test_attack_unknown_dtype(dtype: int) -> None:
    refused(put(frame_of(), 6, "B", dtype), "dtype")


def test_attack_integer_dtype_under_a_float_codec() -> None:
    refused(put(frame_of(), 6, "B", 5), "holds floats")


def test_attack_message_of_a_collective() -> None:
    refused(put(frame_of(), 7, "B", 1), "collective")


@pytest.mark.parametrize("offset", [8, 9, 10, 11, 48, 52, 54, 56, 63])
def test_attack_reserved_field_set(offset: int) -> None:
    refused(put(frame_of(), offset, "B", 1), "reserved")


@pytest.mark.parametrize("params", [0, 1, 31, 33, 256, 128 | 1 << 16, 2**32 - 1])
def test_attack_params_out_of_range(params: int) -> None:
    refused(put(frame_of(), 12, "I", params), "out of range")


@pytest.mark.parametrize("params", [0, 4097, 41 | 4 << 16, 2**32 - 1])
def test_attack_topk_params_out_of_range(params: int) -> None:
    refused(put(frame_of("topk"), 12, "I", params), "out of range")


@pytest.mark.parametrize("codec", _native.codec_names())
@pytest.mark.parametrize("count", [2**64 - 1, 2**63, 2**62 + 16, 2**48 + 1])
def test_attack_count_overflow(codec: str, count: int) -> None:
    refused(put(put(frame_of(codec), 16, "Q", count), 32, "Q", count), "count")


@pytest.mark.parametrize("count", [0, 1, COUNT - 128, COUNT + 128, 2**48])
def test_attack_count_that_the_payload_does_not_hold(count: int) -> None:
    refused(put(put(frame_of(), 16, "Q", count), 32, "Q", count), "payload_bytes")


def test_attack_total_differs_from_count() -> None:
    refused(put(frame_of(), 32, "Q", COUNT + 1), "total")


@pytest.mark.parametrize("claimed", [0, 1, 2**32, 2**64 - 1])
def test_attack_payload_bytes_forged(claimed: int) -> None:
    refused(put(frame_of(), 24, "Q", claimed), "payload_bytes")


def split_bits(indices: list[int], low: int) -> int:
    """Elias-Fano's two rows, whatever the numbers: what an attacker would write."""
    bits = sum((i & (1 << low) - 1) << (low * j) for j, i in enumerate(indices))
    for j, i in enumerate(indices):
        bits |= 1 << (low * len(indices) + j + (i >> low))
    return bits


def topk_with_bits(bits: int, block: int = 0, k: int = 41) -> Bytes:
    """The default topk frame of X with other index bits in a block: 44 bytes of 4096, 11 of the last 904."""
    frame = frame_of("topk")
    at = 64 + block * Codec("topk").encoded_bytes(4096)
    size = 44 if k == 41 else 11
    frame[at : at + size] = np.frombuffer(bits.to_bytes(size, "little"), np.uint8)
    return frame


def refused_by_decode(frame: Bytes) -> None:
    out = np.full(COUNT, 77, np.float32)
    with pytest.raises(FrameError, match="topk ind"):
        _native.decode(frame, out)
    with pytest.raises(FrameError, match="topk ind"):
        _native.decode_add(frame, out)
    assert (out == 77).all()


def test_packed_indices_that_increase_are_taken() -> None:
    out = np.empty(COUNT, np.float32)
    _native.decode(topk_with_bits(split_bits(list(range(0, 4100, 100))[:41], 6)), out)
    assert set(np.flatnonzero(out[:4096])) == set(range(0, 4100, 100))


def test_attack_topk_duplicate_index() -> None:
    refused_by_decode(topk_with_bits(split_bits([3, 3, *range(10, 49)], 6)))


def test_attack_topk_decreasing_index() -> None:
    refused_by_decode(topk_with_bits(split_bits([4, 3, *range(10, 49)], 6)))


def test_attack_topk_too_few_and_too_many_ones() -> None:
    good = split_bits(list(range(41)), 6)
    refused_by_decode(topk_with_bits(good & ~(1 << 41 * 6)))
    refused_by_decode(topk_with_bits(good | 1 << 41 * 6 + 60))


def test_attack_topk_index_outside_a_short_block() -> None:
    # the last block holds 5000 - 4096 = 904 elements, ceil(41 * 904 / 4096) = 10 of them kept
    refused_by_decode(topk_with_bits(split_bits([*range(9), 904], 6), block=1, k=10))


def test_attack_topk_padding_carries_a_message() -> None:
    good = split_bits(list(range(41)), 6)  # 350 bits
    refused_by_decode(topk_with_bits(good | 1 << 351))
    small = _native.encode(X[:4096], Codec("topk", ratio=3 / 4096))  # plain: 36 bits
    small[64 + 4] |= 0x80
    with pytest.raises(FrameError, match="topk ind"):
        _native.decode(small, np.empty(4096, np.float32))


@pytest.mark.parametrize("codec", _native.codec_names())
def test_attack_out_of_another_size(codec: str) -> None:
    for count in (0, COUNT - 1, COUNT + 1):
        with pytest.raises(ArgumentError, match=f"expected {COUNT} elements, got {count}"):
            _native.decode(frame_of(codec), np.empty(count, np.float32))


def test_attack_frame_of_other_elements_than_bytes() -> None:
    with pytest.raises(ArgumentError, match="uint8"):
        _native.decode(np.zeros(64, np.float32), np.empty(0, np.float32))


@pytest.mark.parametrize("codec", _native.codec_names())
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_attack_random_bytes(codec: str, data: st.DataObject) -> None:
    """Any damage: an error or any values, but nothing outside the output."""
    frame = frame_of(codec)
    for _ in range(data.draw(st.integers(1, 8))):
        frame[data.draw(st.integers(0, frame.size - 1))] = data.draw(st.integers(0, 255))
    room = np.full(COUNT + 32, 77, np.float32)
    try:
        _native.decode(frame, room[16:-16])
        _native.decode_add(frame, room[16:-16])
    except FrameError:
        pass
    except ArgumentError as e:
        assert "frame holds" in str(e)  # a raw frame whose dtype was changed to an integer of the same size
    assert (room[:16] == 77).all()
    assert (room[-16:] == 77).all()
