"""Properties of every codec, on arrays and frames that hypothesis thinks up: any bits, any size, any
damage."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gradwire
from gradwire import FrameError, _native

CODECS = [n for n in _native.codec_names() if gradwire.codec(n).id != 255]
HEADER = _native.HEADER_BYTES
GUARD = np.float32(12345.0)

# A seed and a kind draw faster than lists of floats, and shrink to "zeros, few elements".
KINDS = ["zeros", "normal", "tiny", "huge", "bits", "one", "holes"]
quick = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def array(kind: str, count: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(count).astype(np.float32)
    if kind == "zeros":
        x[:] = 0
    elif kind == "tiny":
        x *= np.float32(1e-42)
    elif kind == "huge":
        x *= np.float32(3e37)
    elif kind == "bits":
        x = rng.integers(0, 2**32, count, np.uint32).view(np.float32)
    elif kind == "one" and count:
        x[:] = 0
        x[rng.integers(count)] = np.float32(rng.standard_normal() * 10.0 ** rng.integers(-30, 30))
    elif kind == "holes" and count:
        x[rng.integers(0, count, 1 + count // 50)] = rng.choice(np.float32([np.nan, np.inf, -np.inf]))
    return x


inputs = st.builds(
    array,
    st.sampled_from(KINDS),
    st.one_of(st.integers(0, 300), st.sampled_from([511, 512, 513, 4095, 4096, 4097, 9001])),
    st.integers(0, 2**32 - 1),
)


def blocks(finite: Any, block: int) -> Any:
    """Per element: is every element of its block finite?"""
    padded = np.concatenate([finite, np.ones(-len(finite) % block, bool)]).reshape(-1, block)
    return np.repeat(padded.all(axis=1), block)[: len(finite)]


@pytest.mark.parametrize("name", CODECS)
@quick
@given(x=inputs)
def test_what_is_decoded_and_what_is_lost_make_up_the_input(name: str, x: Any) -> None:
    codec = gradwire.codec(name)
    loss = np.zeros_like(x)
    frame = gradwire.encode(x, codec, loss)
    decoded = gradwire.decode(frame)
    payload = len(frame) - HEADER
    assert (
        payload == codec.encoded_bytes(x.size) if codec.fixed_size else payload <= codec.encoded_bytes(x.size)
    )
    assert np.isfinite(loss).all(), "a residual must never hold NaN or Inf"
    whole = blocks(np.isfinite(x), codec.block) & np.isfinite(decoded)
    a, b = x[whole].astype(np.float64), decoded[whole].astype(np.float64)
    # one fp32 subtraction: half a unit of the larger of the two, or of the smallest subnormal
    slack = 2.0**-23 * np.maximum(np.abs(a), np.abs(b)) + 2.0**-149
    assert (np.abs(a - b - loss[whole]) <= slack).all()


@pytest.mark.parametrize("name", CODECS)
@quick
@given(x=inputs)
def test_nan_and_inf_show_in_their_block_and_nowhere_else(name: str, x: Any) -> None:
    codec = gradwire.codec(name)
    decoded = gradwire.decode(gradwire.encode(x, codec))
    for begin in range(0, x.size, codec.block):
        part, back = x[begin : begin + codec.block], decoded[begin : begin + codec.block]
        if not np.isfinite(part).all():
            assert not np.isfinite(back).all(), f"block at {begin} hides its NaN or Inf"
        elif np.abs(part).max(initial=0) < 1e30:  # larger ones may round to Inf in 16 bits and less
            top = np.abs(part).max(initial=0)
            if name not in ("fp16", "fp8_e4m3", "fp8_e5m2") or top < 200:
                assert np.isfinite(back).all(), f"block at {begin} makes up a NaN or Inf"


@pytest.mark.parametrize("name", CODECS)
@quick
@given(x=inputs, cut=st.integers(0, 20), step=st.integers(0, 2**40))
def test_encoding_is_a_function_and_adds_up_over_blocks(name: str, x: Any, cut: int, step: int) -> None:
    codec = gradwire.codec(name)
    whole = bytes(gradwire.encode(x, codec, step=step))
    assert whole == bytes(gradwire.encode(x.copy(), codec, step=step))
    if whole[HEADER:] != bytes(gradwire.encode(x, codec, step=step + 1))[HEADER:]:
        return  # it draws random numbers, which depend on the place
    at = min(x.size, cut * codec.block)
    parts = [bytes(gradwire.encode(p, codec, step=step))[HEADER:] for p in (x[:at], x[at:])]
    assert b"".join(parts) == whole[HEADER:]


@pytest.mark.parametrize("name", CODECS)
@quick
@given(x=inputs, seed=st.integers(0, 2**32 - 1))
def test_decode_add_is_decode_and_an_addition(name: str, x: Any, seed: int) -> None:
    frame = gradwire.encode(x, name)
    acc = array("normal", x.size, seed)
    with np.errstate(all="ignore"):
        want = acc + gradwire.decode(frame)
    np.testing.assert_array_equal(gradwire.decode_add(frame, acc), want)


@pytest.mark.parametrize("name", CODECS)
@quick
@given(
    x=inputs,
    seed=st.integers(0, 2**32 - 1),
    where=st.sampled_from(["header", "payload", "anywhere", "length"]),
)
def test_a_damaged_frame_is_refused_or_decodes_within_its_array(
    name: str, x: Any, seed: int, where: str
) -> None:
    frame = np.array(gradwire.encode(x, name))
    rng = np.random.default_rng(seed)
    if where == "length":
        frame = np.resize(frame, rng.integers(0, 2 * len(frame)))
    else:
        low, high = {"header": (0, HEADER), "payload": (HEADER, len(frame)), "anywhere": (0, len(frame))}[
            where
        ]
        for at in rng.integers(low, max(high, low + 1), rng.integers(1, 6)):
            frame[at % len(frame)] ^= rng.integers(1, 256)
    room = np.full(x.size + 64, GUARD)
    out = room[32 : 32 + x.size]
    for call in (_native.decode, _native.decode_add):
        # ArgumentError: a valid frame of another count or dtype
        with suppress(FrameError, gradwire.ArgumentError):
            call(frame, out)
    assert (room[:32] == GUARD).all() and (room[32 + x.size :] == GUARD).all()


@quick
@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_are_no_frame(data: bytes) -> None:
    with pytest.raises(FrameError):
        gradwire.decode(data)
    with pytest.raises(FrameError):
        gradwire.decode(b"GWR1\x01" + data[5:])
