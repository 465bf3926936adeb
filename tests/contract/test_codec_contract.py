"""What every codec of the list must do. A new codec is tested here before its author writes a test."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwire import _native
from gradwire._native import Codec
from gradwire.errors import ArgumentError

Floats = npt.NDArray[np.float32]

VARIANTS = {
    "int8": [{"block": 32}, {"block": 64}, {"rounding": "stochastic"}],
    "int6": [{"block": 128}, {"levels": "lloyd-max"}],
    "int5": [{"levels": "lloyd-max"}],
    "int4": [{"block": 64}, {"block": 128}, {"levels": "lloyd-max"}, {"rounding": "stochastic", "seed": 3}],
    "int3": [{"block": 32}, {"levels": "lloyd-max"}],
    "int2": [{"levels": "lloyd-max"}],
    "sign": [{"block": 32}],
    "rotated4": [{"scale": "unbiased", "seed": 9}],
    "topk": [
        *({"values": "fp32"}, {"ratio": 0.3, "values": "int8"}, {"ratio": 1.0}, {"ratio": 0.0001}),
        {"ratio": 0.05, "values": "int4"},
    ],
    "randk": [
        *({"values": "fp32"}, {"ratio": 0.3, "values": "int8", "seed": 7}, {"ratio": 1.0}),
        {"values": "int4"},
    ],
    "fp8_e4m3": [{"block": 32}, {"block": 256}],
    "fp8_e5m2": [{"block": 128}],
}
CODECS = [Codec(n, **p) for n in _native.codec_names() for p in [{}, *VARIANTS.get(n, [])]]

# The bound of each codec's header, elementwise:
# |x - decoded| <= relative * |x| + share * max|x| of the block + tiny.
RELATIVE = {"identity": 0.0, "bf16": 2.0**-8, "fp16": 2.0**-11}
TINY = {"bf16": 2.0**-134, "fp16": 2.0**-25}
INTS = (8, 6, 5, 4, 3, 2)
TINY |= dict.fromkeys([*(f"int{b}" for b in INTS), "sign", "rotated4", "rice4"], 2.0 ** (-112))
SHARE = {f"int{b}": 2.0 ** (1 - b) + 2.0**-8 for b in INTS} | {"rice4": 0.15 + 2.0**-7}
TOP_LEVEL = {"int6": 123, "int5": 118, "int4": 107}  # of 128, lloyd-max: what lies above is held to it
# from here on Inf is the rounded value
OVERFLOW = {"fp16": 65520, "bf16": 3.39e38, "topk": 3.39e38, "randk": 3.39e38}
OVERFLOW |= {"rotated4": 2.0**120, "rice4": 2.0**127}
OVERFLOW |= {"fp8_e5m2": 61440, "fp8_e4m3": 448}  # the same, and the value to which others are held
# Small floats: relative, share, tiny. An fp8 codec with a block is found as "fp8_e4m3(block)".
SMALL = {
    "fp8_e4m3": (2.0**-4, 0.0, 2.0**-10),
    "fp8_e5m2": (2.0**-3, 0.0, 2.0**-17),
    "fp8_e4m3(block)": (2.0**-4, 2.0**-18, 2.0**-117),
    "fp8_e5m2(block)": (2.0**-3, 2.0**-32, 2.0**-110),
    "mxfp8_e4m3": (2.0**-3, 2.0**-18, 2.0**-137),
    "mxfp8_e5m2": (2.0**-3, 2.0**-32, 2.0**-144),
    "mxfp4": (2.0**-2, 2.0**-4, 2.0**-129),
    "nvfp4": (2.0**-2, 2.0**-4, 2.0**-108),
}
ROUNDING = 1 + 2.0**-20  # a value over a scale is rounded to fp32 before it becomes a code
SPARSE = ("topk", "randk")  # most values are not sent
VALUE_BOUND = {"fp32": 0.0, "bf16": 2.0**-8, "int8": SHARE["int8"], "int4": SHARE["int4"]}


def sample(name: str, count: int) -> Floats:
    rng = np.random.default_rng(count)
    x = rng.standard_normal(count).astype(np.float32)
    edits: dict[str, Callable[[], object]] = {
        "normal": lambda: None,
        "nan": lambda: x.__setitem__(slice(count // 2, count // 2 + 1), np.nan),
        "inf": lambda: x.__setitem__(slice(count // 3, count // 3 + 1), -np.inf),
        "huge": lambda: np.multiply(x, np.float32(1e30), out=x),
        "largest": lambda: np.copysign(np.finfo(np.float32).max, x, out=x),
        "tiny": lambda: np.multiply(x, np.float32(1e-30), out=x),
        "subnormal": lambda: np.multiply(x, np.float32(1e-40), out=x),
        "mixed": lambda: np.multiply(x, np.float32(10.0) ** rng.integers(-38, 37, count), out=x),
        "equal": lambda: x.fill(-3.25),
        "plus minus": lambda: np.copysign(np.float32(1), x, out=x),
        "zero": lambda: x.fill(0.0),
        "negative zero": lambda: x.fill(-0.0),
    }
    edits[name]()
    return x


SPECIALS = ["normal", "nan", "inf", "huge", "largest", "tiny", "subnormal", "mixed", "equal", "plus minus"]
SPECIALS += ["zero", "negative zero"]
FINITE = [s for s in SPECIALS if s not in ("nan", "inf")]


def counts(codec: Codec) -> list[int]:
    b = codec.block
    return sorted({0, 1, max(b - 1, 1), b, b + 1, b // 2 + 1, 3 * b + 5, 20011})


def quantize(x: Floats, codec: Codec) -> npt.NDArray[np.uint8]:
    payload = np.full(codec.encoded_bytes(x.size), 0xA5, np.uint8)
    return payload[: _native.quantize(x, codec, payload)]


def dequantize(payload: npt.NDArray[np.uint8], codec: Codec, count: int) -> Floats:
    out = np.full(count, 77, np.float32)
    _native.dequantize(payload, codec, out)
    return out


def bits(x: Floats) -> npt.NDArray[np.uint32]:
    return x.view(np.uint32)


def block_max(x: Floats, block: int) -> Floats:
    out = np.empty_like(x)
    for i in range(0, x.size, block):
        out[i : i + block] = np.abs(x[i : i + block]).max()
    return out


def block_norm(x: Floats, block: int) -> npt.NDArray[np.float64]:
    starts = np.arange(0, x.size, block)
    squares = np.add.reduceat(np.square(x.astype(np.float64)), starts) if x.size else np.zeros(0)
    return np.repeat(np.sqrt(squares), block)[: x.size]


def by_block(codec: Codec) -> bool:
    """A contraction of blocks, not of single elements: the scale is fitted, or the values are rotated."""
    return codec.name in ("sign", "rotated4") or repr(codec).startswith(
        ("int3(block=128, levels=lloyd", "int2(block=128, levels=lloyd")
    )


def bound(codec: Codec, x: Floats) -> npt.NDArray[np.float64]:
    size = np.abs(x).astype(np.float64)
    if codec.name in SPARSE:
        kind = repr(codec).split("values=")[1].rstrip(")").split(",")[0]
        return VALUE_BOUND[kind] * block_max(x, codec.block).astype(np.float64) + 2.0**-119
    if codec.name in SMALL:
        key = codec.name + "(block)" * (codec.name.startswith("fp8") and codec.block > 1)
        relative, share, tiny = SMALL[key]
        return (relative * size + share * block_max(x, codec.block)) * ROUNDING + tiny
    if by_block(codec):  # |x'| <= |x| in the 2-norm of a block, and so |x - x'| of one element
        return 2.02 * block_norm(x, codec.block) + TINY[codec.name]
    share = SHARE.get(codec.name, 0.0)
    if "lloyd-max" in repr(codec):
        share = 1 - TOP_LEVEL[codec.name] / 128 + 2.0**-7 + 2.0**-8
    if "stochastic" in repr(codec):
        share = (1 + 2.0**-6) / (2 ** (int(codec.name[3:]) - 1) - 1) + 2.0**-8
    largest = block_max(x, codec.block).astype(np.float64) if share else 0.0
    return RELATIVE.get(codec.name, 0.0) * size + share * largest + TINY.get(codec.name, 0.0)


each_codec = pytest.mark.parametrize("codec", CODECS, ids=repr)


@each_codec
@pytest.mark.parametrize("special", FINITE)
def test_decoded_values_stay_within_the_bound_of_the_header(codec: Codec, special: str) -> None:
    for count in counts(codec):
        x = sample(special, count)
        y = dequantize(quantize(x, codec), codec, count)
        sent = (y != 0) | (x == 0) if codec.name in SPARSE else np.ones(count, bool)
        held = codec.block == 1 and codec.name == "fp8_e4m3"
        overflow = (np.isinf(y) | held) & (np.abs(x) >= OVERFLOW.get(codec.name, np.inf))
        check = sent & ~overflow
        error = np.abs(x.astype(np.float64) - y)[check]
        assert (error <= bound(codec, x)[check]).all(), (count, error.max())


@each_codec
@pytest.mark.parametrize("special", FINITE)
def test_encoding_never_enlarges_the_error_beyond_the_values(codec: Codec, special: str) -> None:
    # a contraction, the condition under which error feedback converges
    for count in counts(codec):
        x = sample(special, count).astype(np.float32)
        y = dequantize(quantize(x, codec), codec, count)
        keep = np.isfinite(y)
        slack = TINY.get(codec.name, 0.0) * 2
        wide = x.astype(np.float64)
        if "stochastic" in repr(codec) or "unbiased" in repr(codec):
            continue  # the price of being right on average
        if by_block(codec):
            lost = np.where(keep, wide - y, 0)
            most = block_norm(wide, codec.block) * (1 + 2.0**-7) + slack
            assert (block_norm(lost, codec.block) <= most).all()
            continue
        assert (np.abs(wide - y)[keep] <= np.abs(wide)[keep] * (1 + 2.0**-20) + slack).all()


@each_codec
@pytest.mark.parametrize("special", ["nan", "inf"])
def test_nan_and_inf_come_back_and_stay_out_of_the_residual(codec: Codec, special: str) -> None:
    for count in counts(codec)[1:]:
        x = sample(special, count)
        residual = np.zeros(count, np.float32)
        frame = _native.encode(x, codec, residual)
        y = np.empty(count, np.float32)
        _native.decode(frame, y)
        where = np.flatnonzero(~np.isfinite(x))[0] // codec.block
        assert not np.isfinite(y[where * codec.block : (where + 1) * codec.block]).all()
        assert np.isfinite(residual).all()
        assert (residual[~np.isfinite(y)] == 0).all()


@each_codec
@pytest.mark.parametrize("special", SPECIALS)
def test_value_is_decoded_plus_loss(codec: Codec, special: str) -> None:
    for count in counts(codec):
        x = sample(special, count)
        residual = np.zeros(count, np.float32)
        y = np.empty(count, np.float32)
        _native.decode(_native.encode(x, codec, residual), y)
        with np.errstate(all="ignore"):
            loss = x - y
        loss[~np.isfinite(loss)] = 0
        np.testing.assert_array_equal(residual, loss)


@each_codec
def test_residual_is_added_before_encoding(codec: Codec) -> None:
    x, r = sample("normal", 5000), sample("normal", 4999 + 1)[::-1].copy()
    expected = quantize(x + r, codec)
    np.testing.assert_array_equal(_native.encode(x, codec, r)[_native.HEADER_BYTES :], expected)


@each_codec
@pytest.mark.parametrize("special", SPECIALS)
def test_same_bytes_from_every_instruction_set(codec: Codec, special: str) -> None:
    usual = _native.isa()
    try:
        for count in counts(codec):
            x, seen = sample(special, count), set()
            for isa in _native.isas():
                _native.use_isa(isa)
                residual = np.full(count, 0.125, np.float32)
                frame = _native.encode(x, codec, residual)
                y, acc = np.empty(count, np.float32), np.full(count, 2, np.float32)
                _native.decode(frame, y)
                _native.decode_add(frame, acc)
                acc[np.isnan(acc)] = np.nan  # the payload of a sum of NaNs is up to the hardware
                seen.add((frame.tobytes(), residual.tobytes(), y.tobytes(), acc.tobytes()))
            assert len(seen) == 1, count
    finally:
        _native.use_isa(usual)


@each_codec
def test_decode_add_is_acc_plus_decode_bit_by_bit(codec: Codec) -> None:
    for count in counts(codec):
        x = sample("normal", count)
        acc = sample("normal", count + 1)[1:].copy()
        payload = _native.encode(x, codec)
        expected = acc + dequantize(payload[_native.HEADER_BYTES :].copy(), codec, count)
        _native.decode_add(payload, acc)
        np.testing.assert_array_equal(bits(acc), bits(expected))


@each_codec
def test_payload_size_depends_on_the_count_alone_and_adds_up(codec: Codec) -> None:
    b = codec.block
    for count in counts(codec):
        assert codec.encoded_bytes(3 * b + count) == 3 * codec.encoded_bytes(b) + codec.encoded_bytes(count)
        x = sample("normal", 3 * b + count)
        if "seed" in repr(codec):
            continue  # the second part would draw other numbers; see test_quantisers.py
        whole = quantize(x, codec)
        parts = [quantize(x[: 3 * b].copy(), codec), quantize(x[3 * b :].copy(), codec)]
        if codec.name == "randk":  # draws by place, and a stand-alone array begins at 0
            np.testing.assert_array_equal(whole[: parts[0].size], parts[0])
        else:
            np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert codec.encoded_bytes(0) == 0


@each_codec
def test_encoding_writes_and_decoding_reads_at_any_alignment(codec: Codec) -> None:
    x = sample("normal", 4101)
    expected = quantize(x, codec)
    for shift in range(1, 4):
        room = np.zeros(codec.encoded_bytes(x.size) + 8, np.uint8)
        payload = room[shift : shift + codec.encoded_bytes(x.size)]
        payload = payload[: _native.quantize(x, codec, payload)]
        np.testing.assert_array_equal(payload, expected)
        np.testing.assert_array_equal(dequantize(payload, codec, x.size), dequantize(expected, codec, x.size))
        assert not room[:shift].any()
        assert not room[shift + expected.size :].any()


@each_codec
def test_printed_form_makes_the_same_codec_again(codec: Codec) -> None:
    import gradwire

    again = gradwire.codec(repr(codec))
    assert repr(again) == repr(codec)
    assert again.encoded_bytes(12345) == codec.encoded_bytes(12345)


@each_codec
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_floats_survive_the_round_trip_rules(codec: Codec, data: st.DataObject) -> None:
    patterns = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=200))
    x = np.array(patterns, np.uint32).view(np.float32)
    residual = np.zeros_like(x)
    y = np.empty_like(x)
    frame = _native.encode(x, codec, residual)
    _native.decode(frame, y)
    assert np.isfinite(residual).all()
    if not np.isfinite(x).all():
        assert not np.isfinite(y).all()
    elif codec.name not in ("rotated4", "rice4", *SPARSE) and repr(codec) not in ("fp16", "bf16", "fp8_e5m2"):
        # those may round the largest values up to Inf
        assert np.isfinite(y).all()


BARS = [("bf16", 0, 0.17), ("fp16", 0, 0.025), ("int4", 32, 8.7)]
BARS += [("int8", 32, 0.54), ("int8", 64, 0.60), ("int8", 128, 0.65)]


@pytest.mark.parametrize(("name", "block", "percent"), BARS)
def test_error_on_gaussian_data_is_below_the_bar(name: str, block: int, percent: float) -> None:
    x = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32)
    codec = Codec(name, block=block)
    y = dequantize(quantize(x, codec), codec, x.size)
    assert 100 * np.linalg.norm(x - y) / np.linalg.norm(x) <= percent


@pytest.mark.parametrize(
    ("name", "parameters", "part"),
    [
        ("int9", {}, "known: identity, bf16, fp16, int8, int4"),
        ("int8", {"block": 33}, "32, 64 or 128"),
        ("int8", {"ratio": 0.1}, "it takes block"),
        ("bf16", {"block": 32}, "no parameters"),
        ("int4", {"levels": "uniform"}, "signed-max or lloyd-max"),
        ("int4", {"rounding": "up"}, "nearest or stochastic"),
        ("int4", {"seed": 3}, "rounding=stochastic"),
        ("int4", {"levels": "lloyd-max", "rounding": "stochastic"}, "even"),
        ("int8", {"levels": "lloyd-max"}, "6 bits"),
        ("rotated4", {"seed": 65536}, "0 to 65535"),
        ("rotated4", {"scale": "max"}, "least-squares or unbiased"),
        ("rotated4", {"block": 64}, "128"),
        ("sign", {"block": 16}, "32, 64 or 128"),
        ("topk", {"ratio": 1.5}, "at most 1"),
        ("topk", {"ratio": -0.1}, "above 0"),
        ("topk", {"ratio": float("nan")}, "above 0"),
        ("topk", {"block": 128}, "4096"),
        ("topk", {"values": "int3"}, "bf16"),
        ("randk", {"ratio": 2}, "at most 1"),
        ("randk", {"block": 64}, "ratio, values"),
    ],
)
def test_wrong_parameters_are_refused_with_what_is_allowed(
    name: str, parameters: dict[str, float], part: str
) -> None:
    with pytest.raises(ArgumentError, match=part):
        Codec(name, **parameters)  # type: ignore[arg-type]
