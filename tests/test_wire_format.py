"""The bytes of WIRE_FORMAT.md: golden frames, and payloads decoded by an independent reader in Python.

Golden files: tests/golden/<codec>.bin are frames of `golden_input()`. To make them again after a new version
of the format (never for the same version): python tests/test_wire_format.py
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gradwire import _native
from gradwire._native import Codec
from gradwire.errors import ArgumentError

GOLDEN = Path(__file__).parent / "golden"
HEADER = "<4s8BIQQQQIHHII"  # one letter a field, in the order of the table
GOLDEN_CODECS: dict[str, dict[str, Any]] = {
    "identity": {},
    "bf16": {},
    "fp16": {},
    "int8": {},
    "int8_block32": {"block": 32},
    "int4": {},
    "int4_block128": {"block": 128},
    "int6": {},
    "int6_lloyd": {"levels": "lloyd-max"},
    "int5": {},
    "int5_lloyd": {"levels": "lloyd-max"},
    "int4_lloyd": {"block": 128, "levels": "lloyd-max"},
    "int4_stochastic": {"rounding": "stochastic", "seed": 7},
    "int3": {},
    "int3_lloyd": {"levels": "lloyd-max"},
    "int2": {},
    "int2_lloyd": {"levels": "lloyd-max"},
    "sign": {},
    "rotated4": {"seed": 1},
    "rotated4_unbiased": {"scale": "unbiased", "seed": 65535},
    "rice4": {},
    "topk": {},
    "topk_fp32": {"values": "fp32"},
    "topk_int8": {"ratio": 0.05, "values": "int8"},
    "topk_int4": {"ratio": 0.3, "values": "int4"},
    "randk": {},
    "randk_int8": {"ratio": 0.05, "values": "int8", "seed": 3},
    "fp8_e4m3": {},
    "fp8_e4m3_block256": {"block": 256},
    "fp8_e5m2": {},
    "fp8_e5m2_block32": {"block": 32},
    "mxfp8_e4m3": {},
    "mxfp8_e5m2": {},
    "mxfp4": {},
    "nvfp4": {},
    "lossless": {},
}
STEPS = {"int4_stochastic": 5, "rotated4": 5, "rotated4_unbiased": 5}


def codec_name(golden: str) -> str:
    """The codec that a golden file's name begins with."""
    return max((n for n in _native.codec_names() if f"{golden}_".startswith(f"{n}_")), key=len)


def golden_input() -> npt.NDArray[np.float32]:
    """[4096 + 45] values that need no random generator: growing waves, then the special ones."""
    i = np.arange(4096 + 45, dtype=np.int64)
    x = ((i * 7919 % 2003 - 1001) * (1 + i % 97)).astype(np.float32) / np.float32(1024)
    x[64:96] = 0
    x[96:128] = np.float32(-2.5)
    x[128:130] = [3.0e38, -3.4e38]
    x[256:258] = [1e-40, -1e-38]
    x[384] = np.nan
    x[512] = -np.inf
    x[640:642] = [7.0, -7.0]
    return x


def golden_frame(name: str) -> npt.NDArray[np.uint8]:
    parameters = GOLDEN_CODECS[name]
    step = STEPS.get(name, 0)
    return _native.encode(golden_input(), Codec(codec_name(name), **parameters), step=step)


@pytest.mark.parametrize("name", GOLDEN_CODECS)
def test_encoding_gives_the_golden_bytes(name: str) -> None:
    assert golden_frame(name).tobytes() == (GOLDEN / f"{name}.bin").read_bytes()


@pytest.mark.parametrize("name", GOLDEN_CODECS)
def test_golden_bytes_decode(name: str) -> None:
    frame = np.frombuffer((GOLDEN / f"{name}.bin").read_bytes(), np.uint8)
    x = golden_input()
    y = np.empty_like(x)
    _native.decode(frame, y)
    info = _native.frame_info(frame)
    assert (info["dtype"], info["count"]) == ("float32", x.size)
    assert not np.isfinite(y[384:513]).all()
    if name == "identity":
        np.testing.assert_array_equal(x.view(np.uint32), y.view(np.uint32))


def test_every_codec_has_golden_bytes() -> None:
    assert {codec_name(n) for n in GOLDEN_CODECS} == set(_native.codec_names())


def test_header_fields_lie_where_the_table_says() -> None:
    frame = _native.encode(np.ones(100, np.float16), Codec("int4", block=64)).tobytes()
    fields = struct.unpack(HEADER, frame[:64])
    assert struct.calcsize(HEADER) == 64 == _native.HEADER_BYTES
    assert fields == (b"GWR1", 1, 4, 4, 0, 0, 0, 0, 0, 64, 100, len(frame) - 64, 100, 0, 0, 0, 0, 0, 0)


def bf16(u: int) -> np.float32:
    return np.frombuffer(struct.pack("<I", u << 16), np.float32)[0]


@pytest.mark.parametrize("count", [32, 33, 49, 63, 64, 95])
def test_int4_payload_read_by_the_letter(count: int) -> None:
    x = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    codec = Codec("int4", block=32)
    payload = np.empty(codec.encoded_bytes(count), np.uint8)
    _native.quantize(x, codec, payload)
    got = np.empty(count, np.float32)
    _native.dequantize(payload, codec, got)
    p, expected = payload.tobytes(), []
    for start in range(0, count, 32):
        length = min(32, count - start)
        d = bf16(int.from_bytes(p[:2], "little"))
        n = min(length, 16)
        codes = [b & 15 for b in p[2 : 2 + n]] + [0] * (16 - n) + [b >> 4 for b in p[2 : 2 + n]]
        expected += [np.float32(c - 16 if c > 7 else c) * d for c in codes[:length]]
        m = max(x[start : start + length], key=abs)
        assert abs(d + m / 8) <= abs(m) / 8 * 2.0**-8
        p = p[2 + n :]
    assert p == b""
    np.testing.assert_array_equal(np.array(expected, np.float32), got)


def index_bits(n: int, length: int) -> tuple[str, int, int]:
    """(code, low bits, bits), by the rule of the text."""
    width = (length - 1).bit_length()
    split = [("split", low, n * (low + 1) + (length - 1 >> low)) for low in range(width)]
    return min([("plain", width, n * width), *split, ("bitmap", 0, length)], key=lambda code: code[2])


def read_indices(payload: bytes, n: int, length: int) -> tuple[list[int], bytes]:
    """The chosen places, and what follows them."""
    kind, low, total = index_bits(n, length)
    size = -(-total // 8)
    bits = int.from_bytes(payload[:size], "little")
    assert bits >> total == 0
    if kind == "bitmap":
        return [i for i in range(length) if bits >> i & 1], payload[size:]
    lows = [bits >> (low * j) & ((1 << low) - 1) for j in range(n)]
    if kind == "plain":
        return lows, payload[size:]
    row = bits >> (low * n)
    ones = [place for place in range(row.bit_length()) if row >> place & 1]
    return [(place - j) << low | lows[j] for j, place in enumerate(ones)], payload[size:]


@pytest.mark.parametrize(
    ("k", "kind"),
    [(1, "plain"), (3, "plain"), (4, "split"), (41, "split"), (900, "split"), (1500, "bitmap")],
)
def test_topk_payload_read_by_the_letter(k: int, kind: str) -> None:
    assert index_bits(k, 4096)[0] == kind
    x = np.random.default_rng(5).standard_normal(4096 + 100).astype(np.float32)
    payload = _native.encode(x, Codec("topk", ratio=k / 4096, values="fp32")).tobytes()[64:]
    for start, length, n in ((0, 4096, k), (4096, 100, -(-k * 100 // 4096))):
        indices, payload = read_indices(payload, n, length)
        block = x[start : start + length]
        np.testing.assert_array_equal(indices, np.sort(np.argsort(-np.abs(block), kind="stable")[:n]))
        np.testing.assert_array_equal(np.frombuffer(payload, np.float32, n), block[indices])
        payload = payload[4 * n :]
    assert payload == b""


def test_int4_values_of_topk_read_by_the_letter() -> None:
    x = np.random.default_rng(6).standard_normal(4096).astype(np.float32)
    codec = Codec("topk", ratio=41 / 4096, values="int4")
    frame = _native.encode(x, codec)
    indices, rest = read_indices(frame.tobytes()[64:], 41, 4096)
    d = bf16(int.from_bytes(rest[:2], "little"))
    nibbles = [code for byte in rest[2:] for code in (byte & 15, byte >> 4)]
    assert len(rest) == 2 + 21 and nibbles[41] == 0
    y = np.zeros(4096, np.float32)
    y[indices] = [np.float32(c - 16 if c > 7 else c) * d for c in nibbles[:41]]
    got = np.empty_like(x)
    _native.decode(frame, got)
    np.testing.assert_array_equal(got, y)


def splitmix(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def randk_places(seed: int, step: int, block: int, length: int, n: int) -> list[int]:
    def below(draw: int, most: int) -> int:
        return (draw >> 32) * most >> 32

    key = splitmix(splitmix(splitmix(seed) ^ step) ^ block)
    turn = below(splitmix(key), length)
    places = []
    for j in range(n):
        begin, end = j * length // n, (j + 1) * length // n
        places.append((begin + below(splitmix((key + 1 + j) % 2**64), end - begin) + turn) % length)
    return places


@pytest.mark.parametrize("k", [1, 41, 1000, 4096])
def test_randk_payload_read_by_the_letter(k: int) -> None:
    x = np.random.default_rng(7).standard_normal(2 * 4096 + 100).astype(np.float32)
    codec = Codec("randk", ratio=k / 4096, values="fp32", seed=9)
    payload = _native.encode(x, codec, step=12).tobytes()[64:]
    expected = []
    for block in range(3):
        length = min(4096, x.size - block * 4096)
        n = k if length == 4096 else -(-k * length // 4096)
        places = randk_places(9, 12, block, length, n)
        assert len(set(places)) == n
        expected.append(x[[block * 4096 + place for place in places]])
    np.testing.assert_array_equal(np.frombuffer(payload, np.float32), np.concatenate(expected))


def test_topk_ties_go_to_the_lower_index_and_nan_counts_as_largest() -> None:
    x = np.tile(np.float32([1, -1]), 2048)
    x[4000] = np.nan
    y = np.empty_like(x)
    _native.decode(_native.encode(x, Codec("topk", ratio=0.01)), y)
    assert list(np.flatnonzero(y != 0)) == [*range(40), 4000]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32", "int64", "uint8"])
def test_identity_frames_hold_the_arrays_own_bytes(dtype: str) -> None:
    x = np.arange(101).astype(dtype)
    identity = Codec("identity")
    frame = _native.encode(x, identity)
    assert frame.tobytes()[64:] == x.tobytes()
    assert _native.frame_bytes(x, identity) == frame.size
    y = np.empty_like(x)
    _native.decode(frame, y)
    np.testing.assert_array_equal(x, y)
    _native.decode_add(frame, y)
    np.testing.assert_array_equal(x + x, y)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("name", _native.codec_names()[1:])
def test_other_float_dtypes_pass_through_fp32(dtype: str, name: str) -> None:
    codec = Codec(name)
    x = np.random.default_rng(2).standard_normal(40000).astype(dtype)
    frame = _native.encode(x, codec)
    assert frame.tobytes()[64:] == _native.encode(x.astype(np.float32), codec).tobytes()[64:]
    assert _native.frame_info(frame)["dtype"] == dtype
    y32, y, acc = np.empty(40000, np.float32), np.empty_like(x), x.copy()
    _native.decode(frame, y32)
    _native.decode(frame, y)
    _native.decode_add(frame, acc)
    np.testing.assert_array_equal(y, y32.astype(dtype))
    wide = np.float64 if dtype == "float64" else np.float32
    np.testing.assert_array_equal(acc, (x.astype(wide) + y32.astype(wide)).astype(dtype))


def test_integers_go_through_identity_only() -> None:
    with pytest.raises(ArgumentError, match="identity"):
        _native.encode(np.arange(5, dtype=np.int32), Codec("int8"))
    with pytest.raises(ArgumentError, match="int32"):
        frame = _native.encode(np.arange(5, dtype=np.int32), Codec("identity"))
        _native.decode(frame, np.empty(5, np.float32))


def test_a_given_buffer_is_filled_and_returned() -> None:
    x, codec = np.ones(64, np.float32), Codec("int8")
    out = np.zeros(_native.frame_bytes(x, codec), np.uint8)
    assert _native.encode(x, codec, None, out) is out
    assert _native.frame_info(out)["count"] == 64
    with pytest.raises(ArgumentError, match="expected"):
        _native.encode(x, codec, None, np.zeros(out.size + 1, np.uint8))


if __name__ == "__main__":
    for golden in GOLDEN_CODECS:
        (GOLDEN / f"{golden}.bin").write_bytes(golden_frame(golden).tobytes())
