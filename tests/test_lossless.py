"""The codec "lossless": every bit comes back, in fewer bytes, alone and in collectives."""

from __future__ import annotations

from typing import Any

import exact
import numpy as np
import numpy.typing as npt
import pytest

from gradwire import Communicator, _native
from gradwire._native import Codec
from gradwire.errors import FrameError
from gradwire.testing import run_ranks

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
LOSSLESS = Codec("lossless")
HEAD = 4


def values(kind: str, count: int) -> Floats:
    rng = np.random.default_rng(count)
    x = rng.standard_normal(count).astype(np.float32)
    patterns = rng.integers(0, 2**32, count, dtype=np.uint32)
    made: dict[str, Any] = {
        "normal": x,
        "bf16": (x.view(np.uint32) & 0xFFFF0000).view(np.float32),
        "fp16": x.astype(np.float16).astype(np.float32),
        "14 bits": (x.view(np.uint32) & 0xFFFFFC00).view(np.float32),
        "zeros": np.where(rng.random(count) < 0.5, x, 0),
        "negative zeros": np.where(rng.random(count) < 0.9, np.float32(-0.0), np.float32(0.0)),
        "constant": np.full(count, -1.5),
        "any bits": patterns.view(np.float32),
        "nan payloads": (patterns | np.uint32(0x7F800001)).view(np.float32),
        "denormal": (patterns & 0x807FFFFF).view(np.float32),
        "outliers": np.where(rng.random(count) < 0.01, np.float32(1e38), x * np.float32(1e-30)),
        "one exponent": 1 + rng.random(count) * 0.99,
        "special": rng.choice(np.float32([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-45, 3.4e38, 1.0]), count),
    }
    return np.ascontiguousarray(made[kind], np.float32)


KINDS = ["normal", "bf16", "fp16", "14 bits", "zeros", "negative zeros", "constant", "any bits"]
KINDS += ["nan payloads", "denormal", "outliers", "one exponent", "special"]


@pytest.fixture(params=_native.isas())
def isa(request: pytest.FixtureRequest) -> Any:
    usual = _native.isa()
    _native.use_isa(request.param)
    yield request.param
    _native.use_isa(usual)


def payload_of(x: Floats) -> Bytes:
    payload = np.full(LOSSLESS.encoded_bytes(x.size), 0xA5, np.uint8)
    used = _native.quantize(x, LOSSLESS, payload)
    assert (payload[used:] == 0xA5).all()
    return payload[:used].copy()


@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_comes_back(isa: str, kind: str) -> None:
    for count in (0, 1, 2, 7, 8, 9, 63, 65, 511, 512, 513, 1100, 20011):
        x = values(kind, count)
        out = np.full(count, 77, np.float32)
        _native.dequantize(payload_of(x), LOSSLESS, out)
        np.testing.assert_array_equal(out.view(np.uint32), x.view(np.uint32))


# Bits an element of 1 M values: sign and mantissa as they are (fp16 has 11 of 24, "14 bits" 14), 3.3 for an
# exponent of N(0, 1), 0.0625 for the head. Of "zeros" half the exponents are escapes.
BITS = {"normal": 27.4, "bf16": 11.4, "fp16": 14.4, "14 bits": 17.4, "zeros": 31.3, "constant": 0.13}
BITS |= {"one exponent": 24.07, "any bits": 32.07, "nan payloads": 24.07}


@pytest.mark.parametrize("kind", BITS)
def test_payloads_are_as_small_as_stated(kind: str) -> None:
    x = values(kind, 1 << 20)
    assert 8 * payload_of(x).size / x.size <= BITS[kind]


def unpack(data: bytes, n: int, w: int) -> tuple[list[int], bytes]:
    """planes.hpp read by the letter."""
    if w == 8:
        return list(data[:n]), data[n:]
    codes, shift = [0] * n, 0
    for p in (4, 2, 1):
        if w & p:
            h = -(-n * p // 8)
            for i in range(n):
                codes[i] |= (data[i % h] >> (i // h * p) & (2**p - 1)) << shift
            shift += p
            data = data[h:]
    return codes, data


def read_block(data: bytes, n: int) -> tuple[list[int], bytes]:
    form, largest, escapes = data[0], data[1], int.from_bytes(data[2:4], "little")
    data = data[HEAD:]
    if form == 0xFF:
        return list(np.frombuffer(data[: 4 * n], "<u4")), data[4 * n :]
    if form == 0xFE:
        return [int.from_bytes(data[:4], "little")] * n, data[4:]
    width, low = form & 15, form >> 4
    upper, data = data[:n], data[n:]
    if low == 9:
        lower, data = [int(v) for v in np.frombuffer(data[: 2 * n], "<u2")], data[2 * n :]
    else:
        lower, data = unpack(data, n, low)
        lower = [v << (16 - low) for v in lower]
    codes, data = unpack(data, n, width)
    listed, data = list(data[:escapes]), data[escapes:]
    out = []
    for u, v, code in zip(upper, lower, codes):
        exponent = listed.pop(0) if 0 < width < 8 and code == 2**width - 1 and listed else largest - code
        out.append((u >> 7) << 31 | (exponent & 255) << 23 | (u & 127) << 16 | v)
    assert not listed
    return out, data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [5, 512, 1030])
def test_payload_read_by_the_letter(kind: str, count: int) -> None:
    x = values(kind, count)
    data, got = payload_of(x).tobytes(), []
    for start in range(0, count, 512):
        block, data = read_block(data, min(512, count - start))
        got += block
    assert data == b""
    np.testing.assert_array_equal(np.array(got, np.uint32), x.view(np.uint32))


# ---- hostile payloads --------------------------------------------------------------------------------------


def refused(frame: Bytes, count: int, match: str) -> None:
    out = np.full(count, 77, np.float32)
    for call in (_native.decode, _native.decode_add):
        with pytest.raises(FrameError, match=match):
            call(frame, out)
    assert (out == 77).all()


def lying(kind: str, offset: int, value: int, count: int = 1500) -> Bytes:
    """A frame whose first head has another byte at `offset`."""
    frame = _native.encode(values(kind, count), LOSSLESS)
    frame[_native.HEADER_BYTES + offset] = value
    return frame


@pytest.mark.parametrize("form", [0x0F, 0x09, 0xA3, 0xF3, 0x9F, 0xFD])
def test_a_form_that_does_not_exist_is_refused(form: int) -> None:
    refused(lying("normal", 0, form), 1500, "form that does not exist")


@pytest.mark.parametrize("form", [0x90, 0x92, 0x94, 0x97, 0xFF])
def test_a_lying_width_is_refused(form: int) -> None:
    refused(lying("normal", 0, form), 1500, "malformed payload")


@pytest.mark.parametrize(("offset", "value"), [(3, 0x03), (3, 0xFF)])
def test_more_escapes_than_values_are_refused(offset: int, value: int) -> None:
    refused(lying("normal", offset, value), 1500, "escapes")


def test_escapes_where_there_are_none_are_refused() -> None:
    refused(lying("any bits", 2, 1), 1500, "escapes")
    refused(lying("constant", 1, 9), 1500, "escapes")


@pytest.mark.parametrize("kind", ["normal", "bf16", "14 bits", "constant", "any bits"])
def test_a_frame_cut_short_or_grown_is_refused(kind: str) -> None:
    frame = _native.encode(values(kind, 1500), LOSSLESS)
    for size in (_native.HEADER_BYTES, _native.HEADER_BYTES + 3, frame.size - 1):
        cut = frame[:size].copy()
        cut[24:32] = np.frombuffer((size - _native.HEADER_BYTES).to_bytes(8, "little"), np.uint8)
        refused(cut, 1500, "malformed payload")
    grown = np.append(frame, np.uint8(0))
    grown[24:32] = np.frombuffer((grown.size - _native.HEADER_BYTES).to_bytes(8, "little"), np.uint8)
    with pytest.raises(FrameError):
        _native.decode(grown, np.empty(1500, np.float32))


# ---- collectives -------------------------------------------------------------------------------------------

ALGORITHMS = [a["name"] for a in _native.algorithms()]


def cases(size: int) -> list[Any]:
    names = [a for a in ALGORITHMS if _native.supports(a, "all_reduce", size)]
    return [pytest.param(a, size, id=f"{a}-{size}") for a in names]


@pytest.mark.parametrize(("algorithm", "size"), [c for s in (2, 3, 5) for c in cases(s)])
def test_all_reduce_gives_the_bits_of_no_codec(algorithm: str, size: int) -> None:
    def rank(comm: Communicator) -> list[tuple[Any, bytes, bytes]]:
        out = []
        for dtype, op in exact.cases():
            for count in (0, 1, 513, 5003):
                plain = exact.array(exact.values(count, op, comm.rank, dtype), dtype)
                coded = exact.array(exact.values(count, op, comm.rank, dtype), dtype)
                comm.all_reduce(plain, op=op, algorithm=algorithm)
                comm.all_reduce(coded, op=op, algorithm=algorithm, codec="lossless")
                out.append(((dtype, op, count), exact.bits(plain), exact.bits(coded)))
        # sums that round, in every float dtype and algorithm
        for kind in ("normal", "zeros", "denormal"):
            for dtype in [d for d in exact.FLOATS if d in exact.DTYPES]:
                x = values(kind, 3000 + comm.rank)[:3000]
                for op in ("sum", "avg"):
                    plain, coded = exact.array(x, dtype), exact.array(x, dtype)
                    comm.all_reduce(plain, op=op, algorithm=algorithm)
                    comm.all_reduce(coded, op=op, algorithm=algorithm, codec="lossless")
                    out.append(((kind, dtype, op), exact.bits(plain), exact.bits(coded)))
        return out

    for results in run_ranks(size, rank):
        for what, plain, coded in results:
            assert plain == coded, what


@pytest.mark.parametrize("transport", ["inproc", "shm", "tcp"])
def test_gathers_keep_every_bit_over_every_transport(transport: str) -> None:
    def rank(comm: Communicator) -> bool:
        same = True
        for kind in KINDS:
            x = values(kind, 3 * 1111 + comm.rank)[: 3 * 1111].copy()
            for call in (comm.all_gather, comm.all_to_all, comm.broadcast):
                a, b = call(x.copy()), call(x.copy(), codec="lossless")
                same = same and exact.bits(a) == exact.bits(b)
        return same

    assert all(run_ranks(3, rank, transport))


def test_a_lossless_codec_says_so_and_takes_no_residual() -> None:
    from gradwire.errors import ArgumentError

    assert not LOSSLESS.lossy

    def rank(comm: Communicator) -> None:
        with pytest.raises(ArgumentError, match="lossy"):
            comm.all_reduce(np.ones(3, np.float32), codec="lossless", residual=np.zeros(3, np.float32))

    run_ranks(2, rank)
