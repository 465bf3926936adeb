"""What the dense quantisers promise beyond the contract: error at a number of bits, robustness, no bias.

The bars are those of the design; every one is measured on 2^20 values.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

import gradwire
from gradwire import Communicator
from gradwire.testing import run_ranks

Floats = npt.NDArray[np.float32]
COUNT = 1 << 20
X = np.random.default_rng(0).standard_normal(COUNT).astype(np.float32)


def error(x: Floats, codec: str, step: int = 0) -> tuple[float, float]:
    """(relative 2-norm of the error in percent, payload bits an element)"""
    frame = gradwire.encode(x, codec, step=step)
    y = gradwire.decode(frame)
    return 100 * float(np.linalg.norm(x - y) / np.linalg.norm(x)), 8 * (frame.size - 64) / x.size


BARS = [
    ("int6(block=32)", 6.5, 2.15),
    ("int6(block=128, levels=lloyd-max)", 6.125, 2.3),
    ("int5(levels=lloyd-max)", 5.125, 4.6),
    ("int4(block=32)", 4.5, 8.7),
    ("int4(block=32, levels=lloyd-max)", 4.5, 8.2),
    ("int4(block=128, levels=lloyd-max)", 4.125, 9.6),
    ("int3(levels=lloyd-max)", 3.125, 18.5),
    ("int2(levels=lloyd-max)", 2.125, 34.5),
    ("sign", 1.125, 60.5),
    ("rotated4", 4.125, 9.6),
    ("rice4", 4.2, 8.3),
]


@pytest.mark.parametrize(("codec", "bits", "percent"), BARS)
def test_error_on_gaussian_data_is_below_the_bar(codec: str, bits: float, percent: float) -> None:
    got, used = error(X, codec)
    assert got <= percent
    assert used <= bits * 1.0001


def test_rice4_lies_within_half_a_bit_of_the_rate_distortion_bound() -> None:
    percent, bits = error(X, "rice4")
    assert bits - np.log2(100 / percent) <= 0.5  # R(D) = log2(1 / D) / 2 for D the squared relative error


def draw(kind: str) -> Floats:
    rng = np.random.default_rng(1)
    made = {
        "gaussian": lambda: rng.standard_normal(COUNT),
        "laplace": lambda: rng.laplace(size=COUNT),
        "student-t3": lambda: rng.standard_t(3, COUNT),
        "lognormal": lambda: rng.lognormal(size=COUNT),
        "sparse": lambda: rng.standard_normal(COUNT) * (rng.random(COUNT) < 0.05),
    }
    return made[kind]().astype(np.float32)


@pytest.mark.parametrize("kind", ["gaussian", "laplace", "student-t3", "lognormal", "sparse"])
def test_rotated4_has_the_same_error_on_any_distribution(kind: str) -> None:
    assert error(draw(kind), "rotated4")[0] <= 10
    assert error(draw(kind), "rotated4(scale=unbiased)")[0] <= 10.2


@pytest.mark.parametrize("codec", ["int8", "int4", "int2"])
def test_stochastic_rounding_is_right_on_average(codec: str) -> None:
    # The error of one draw has mean below 2^-14 d and takes two values d apart: by Hoeffding the mean of n
    # draws is off by more than t d with probability 2 exp(-2 n t^2); n = 512, t = 0.16: 1e-11 an element.
    x, n = X[:1024], 512
    mean = np.zeros(x.size)
    for step in range(n):
        mean += gradwire.decode(gradwire.encode(x, f"{codec}(rounding=stochastic, seed=1)", step=step))
    top = 2 ** (int(codec[3:]) - 1) - 1
    block = 128 if codec != "int4" else 32
    d = np.repeat(np.abs(x).reshape(-1, block).max(1) / top, block) * (1 + 2.0**-7)
    off = (mean / n - x) / d
    assert np.abs(off).max() <= 0.16
    # and over all elements: variance at most 1/4 each
    assert abs(off.mean()) <= 5 * np.sqrt(0.25 / (n * x.size)) + 2.0**-14


def test_unbiased_rotation_loses_its_error_in_the_mean() -> None:
    # D' = D / (1 - D) for one draw, D' / n for the mean of n independent ones; half as much again for what
    # 128 random signs are short of a uniform rotation
    x, n = draw("student-t3")[: 1 << 14], 128
    codec = "rotated4(scale=unbiased, seed=2)"
    mean = sum(gradwire.decode(gradwire.encode(x, codec, step=s)).astype(np.float64) for s in range(n)) / n
    once = (error(x, codec)[0] / 100) ** 2
    assert (np.linalg.norm(mean - x) / np.linalg.norm(x)) ** 2 <= 1.5 * once / n
    biased = "rotated4(seed=2)"
    mean = sum(gradwire.decode(gradwire.encode(x, biased, step=s)).astype(np.float64) for s in range(n)) / n
    shrunk = 1 - float(mean @ x / (x.astype(np.float64) @ x))
    assert 0.5 * once < shrunk < 2 * once, "least squares shrinks by D"


RANDOM = ["int4(rounding=stochastic, seed=3)", "rotated4(seed=3)"]


@pytest.mark.parametrize("codec", RANDOM)
def test_random_numbers_depend_on_seed_and_step_and_element(codec: str) -> None:
    x = np.tile(X[:128], 2)
    frames = [gradwire.encode(x, codec, step=s).tobytes()[64:] for s in (0, 0, 1)]
    assert frames[0] == frames[1] != frames[2]
    assert frames[0] != gradwire.encode(x, codec.replace("=3", "=4")).tobytes()[64:]
    assert frames[0][: len(frames[0]) // 2] != frames[0][len(frames[0]) // 2 :], "both blocks drew the same"


@pytest.mark.parametrize("codec", RANDOM)
def test_random_numbers_do_not_depend_on_how_an_array_is_cut(codec: str) -> None:
    # float64 goes through the codec in pieces, float32 at once
    x = X[:50_003]
    whole, pieces = (gradwire.encode(a, codec, step=7) for a in (x, x.astype(np.float64)))
    assert whole.tobytes()[64:] == pieces.tobytes()[64:]
    np.testing.assert_array_equal(gradwire.decode(whole), gradwire.decode(pieces).astype(np.float32))
    with_residual = gradwire.encode(x, codec, np.zeros_like(x), step=7)
    assert whole.tobytes() == with_residual.tobytes()


@pytest.mark.parametrize("codec", ["bf16", "int4", "int5", *RANDOM, "rice4", "topk"])
@pytest.mark.parametrize("threads", [2, 3, 100])
def test_threads_change_no_bit(codec: str, threads: int) -> None:
    x = X[: 3 * (1 << 18) + 77]
    residuals = [np.full_like(x, 0.25), np.full_like(x, 0.25)]
    one = gradwire.encode(x, codec, residuals[0], step=1)
    many = gradwire.encode(x, codec, residuals[1], step=1, threads=threads)
    assert one.tobytes() == many.tobytes()
    assert residuals[0].tobytes() == residuals[1].tobytes()
    out = np.empty_like(x)
    assert gradwire.decode(one).tobytes() == gradwire.decode(one, out, threads=threads).tobytes()
    sums = [gradwire.decode_add(one, X[: x.size].copy(), threads=t).tobytes() for t in (1, threads)]
    assert sums[0] == sums[1]


@pytest.mark.parametrize("size", [2, 5, 16, 64])
@pytest.mark.parametrize("codec", ["int4", "rotated4"])
def test_direct_all_reduce_costs_at_most_two_encodes_for_any_number_of_ranks(size: int, codec: str) -> None:
    count = 1 << 15
    xs = np.random.default_rng(size).standard_normal((size, count)).astype(np.float32)

    def rank(comm: Communicator) -> Floats:
        return comm.all_reduce(xs[comm.rank].copy(), codec=codec, algorithm="direct")

    got = run_ranks(size, rank, channel_bytes=1 << 17)[0]
    wanted = xs.astype(np.float64).sum(0)
    once = error(wanted.astype(np.float32), codec)[0] / 100
    assert np.linalg.norm(got - wanted) / np.linalg.norm(wanted) <= 1.45 * once


def test_ranks_round_the_same_element_differently() -> None:
    x = X[:4096]
    alone = gradwire.decode(gradwire.encode(x, "int4(rounding=stochastic)")) - x
    mean = run_ranks(
        8, lambda c: c.all_reduce(x.copy(), op="avg", codec="int4(rounding=stochastic)", algorithm="direct")
    )[0]
    # eight independent errors average to an eighth of the variance, plus the owner's encode: 9/8, not 2
    assert np.linalg.norm(mean - x) <= 1.25 * np.linalg.norm(alone)


def by_the_letter(payload: bytes, bits: int, block: int, count: int) -> list[list[int]]:
    """Codes of each block, read as WIRE_FORMAT.md says."""
    blocks = []
    for start in range(0, count, block):
        length = min(block, count - start)
        codes, shift, payload = [0] * block, 0, payload[2:]
        for width in (w for w in (4, 2, 1) if bits & w):
            slice_bytes = block * width // 8
            for j in range(min(length, slice_bytes)):
                for p in range(8 // width):
                    codes[j + p * slice_bytes] |= (payload[j] >> (p * width) & (2**width - 1)) << shift
            payload, shift = payload[min(length, slice_bytes) :], shift + width
        blocks.append(codes[:length])
    assert payload == b""
    return blocks


@pytest.mark.parametrize("bits", [2, 3, 5, 6])
@pytest.mark.parametrize("count", [32, 33, 40, 63, 95])
def test_slices_of_codes_read_by_the_letter(bits: int, count: int) -> None:
    x = X[:count]
    payload = gradwire.encode(x, f"int{bits}(block=32)").tobytes()[64:]
    expected = gradwire.decode(gradwire.encode(x, f"int{bits}(block=32)"))
    for i, codes in enumerate(by_the_letter(payload, bits, 32, count)):
        m = x[32 * i : 32 * i + 32][np.abs(x[32 * i : 32 * i + 32]).argmax()]
        d = np.float32(-m / 2 ** (bits - 1))
        signed = [c - 2**bits if c >= 2 ** (bits - 1) else c for c in codes]
        np.testing.assert_allclose(expected[32 * i : 32 * i + 32], np.float32(signed) * d, rtol=2.0**-8)


def test_zeros_stay_zeros_at_lloyd_max_levels() -> None:
    x = X[:4096].copy()
    x[::3] = 0
    for bits in (3, 4, 5, 6):
        y = gradwire.decode(gradwire.encode(x, f"int{bits}(levels=lloyd-max)"))
        assert (y[::3] == 0).all()


def test_a_damaged_rice4_payload_is_refused_or_decodes_to_something() -> None:
    frame = gradwire.encode(X[:1000], "rice4")
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        bad = frame.copy()
        bad[64 + rng.integers(0, bad.size - 64)] ^= rng.integers(1, 256)
        out = np.full(1000, 77, np.float32)
        try:
            gradwire.decode(bad, out)
        except gradwire.FrameError:
            refused += 1
    assert refused > 0
