"""all_reduce between ranks on one GPU gives the bytes of the CPU's ranks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gradwire
from gradwire._native import Codec
from gradwire.testing import run_ranks, to_gpu, virtual_ranks

sys.path[:0] = [str(Path(__file__).parent)]
from memory import Placed  # noqa: E402

torch = pytest.importorskip("torch")

ALGORITHMS = ("one_shot", "direct", "ring", "double_tree")
SIZES = (2, 3, 4, 5, 8)
DTYPES = ("float32", "bfloat16", "float16")
Bytes = npt.NDArray[np.uint8]


def inputs(n: int, count: int, dtype: str, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    made = [rng.standard_normal(count) * np.exp2(rng.integers(-3, 3, count)) for _ in range(n)]
    return [torch.from_numpy(x.astype(np.float32)).to(getattr(torch, dtype)) for x in made]


def raw(x: Any) -> Bytes:
    return x.contiguous().view(torch.uint8).numpy() if x.numel() else np.empty(0, np.uint8)


def on_cpu(xs: list[Any], residuals: Sequence[Any] = (), **call: Any) -> list[tuple[Bytes, Any]]:
    """What ranks that are threads make of it: the array's bytes and the residual of each."""

    def rank(comm: gradwire.Communicator) -> tuple[Bytes, Any]:
        x = xs[comm.rank].clone()
        residual = residuals[comm.rank].copy() if residuals else None
        comm.all_reduce(x, residual=residual, **call)
        return raw(x), residual

    return run_ranks(len(xs), rank)


def on_gpu(xs: list[Any], mode: str = "one_launch", residuals: Sequence[Any] = (), **call: Any) -> list[Any]:
    """The same by one_launch or streams; arrays begin at another address on each rank."""
    dtype = str(xs[0].dtype).removeprefix("torch.")
    there = [Placed(x.numel(), dtype, r * x.element_size(), raw(x)) for r, x in enumerate(xs)]
    owed = [Placed(x.numel(), "float32", 4 * r, res) for r, (x, res) in enumerate(zip(xs, residuals))]
    with virtual_ranks(len(xs), mode=mode) as ranks:
        ranks.all_reduce(there, residuals=owed, **call)
    owes = [r.bytes() for r in owed] if owed else [None] * len(xs)
    return list(zip([x.bytes() for x in there], owes))


def check(xs: list[Any], what: str, residuals: Sequence[Any] = (), **call: Any) -> None:
    expected = on_cpu(xs, residuals, **call)
    got = on_gpu(xs, residuals=residuals, **call)
    for r, ((x, owes), (there, owes_there)) in enumerate(zip(expected, got)):
        np.testing.assert_array_equal(there, got[0][0], f"{what}: rank {r} differs from rank 0")
        np.testing.assert_array_equal(there, x, f"{what}: rank {r} differs from the CPU's")
        if owes is not None:
            np.testing.assert_array_equal(owes_there, owes.view(np.uint8), f"{what}: residual of rank {r}")


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_plain_sums_are_those_of_the_cpu(algorithm: str, n: int, order: str) -> None:
    counts = (1, 7, 1023, 2048 * n + 3, 40001)
    for i, count in enumerate(counts):
        dtype = DTYPES[(i + n) % 3]
        check(inputs(n, count, dtype, i), f"{algorithm} {n} {dtype} {count}", algorithm=algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("op", ["avg", "min", "max", "prod"])
def test_other_operators_are_those_of_the_cpu(op: str, algorithm: str) -> None:
    for dtype in DTYPES:
        check(inputs(3, 5003, dtype), f"{algorithm} {dtype} {op}", algorithm=algorithm, op=op)


CODECS = {
    "int8": Codec("int8"),
    "int4_block32": Codec("int4", block=32),
    "int8_stochastic": Codec("int8", block=64, rounding="stochastic", seed=3),
    "int3_lloyd": Codec("int3", levels="lloyd-max"),
    "sign": Codec("sign"),
    "rotated4": Codec("rotated4", seed=2),
    "fp8_e4m3": Codec("fp8_e4m3"),
    "mxfp4": Codec("mxfp4"),
    "bf16": Codec("bf16"),
    "identity": Codec("identity"),
    "nvfp4": Codec("nvfp4"),
    "topk": Codec("topk", ratio=0.02),
    "topk_int8": Codec("topk", ratio=0.3, values="int8"),
    "randk": Codec("randk", ratio=0.1, seed=5),
}


@pytest.mark.parametrize("name", CODECS)
def test_compressed_sums_are_those_of_the_cpu(name: str, order: str) -> None:
    codec = CODECS[name]
    block = codec.block
    counts = (block - 1, block, block + 1, 1024 * 3 + 5, 3 * block + 5 if block > 256 else 70001)
    for i, n in enumerate(SIZES):
        algorithm = ALGORITHMS[(i + len(name)) % 4]
        count, dtype, op = counts[(i + len(name)) % 5], DTYPES[(i + block) % 3], ("sum", "avg")[i % 2]
        what = f"{algorithm} {n} {dtype} {count} {op}"
        check(inputs(n, max(count, 1), dtype, i), what, algorithm=algorithm, codec=codec, op=op)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_error_feedback_leaves_the_residuals_of_the_cpu(algorithm: str, dtype: str) -> None:
    for n, op in ((2, "sum"), (3, "avg"), (5, "sum")):
        xs = inputs(n, 4099, dtype, n)
        owed = [np.float32(x.float().numpy()) / 16 for x in inputs(n, 4099, "float32", 9)]
        what = f"{algorithm} {n} {dtype} {op}"
        for codec in ("int4_block32", "topk", "nvfp4", "randk")[: 1 if n == 5 else 4]:
            check(xs, f"{what} {codec}", owed, algorithm=algorithm, codec=CODECS[codec], op=op)


@pytest.mark.parametrize("codec", [None, CODECS["int8"]])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_launch_for_each_rank_gives_the_same(algorithm: str, codec: Codec | None) -> None:
    for n in (2, 4):
        xs = inputs(n, 9001, "float32", n)
        one = on_gpu(xs, algorithm=algorithm, codec=codec)
        for (x, _), (y, _) in zip(one, on_gpu(xs, "streams", algorithm=algorithm, codec=codec)):
            np.testing.assert_array_equal(x, y)


def test_calls_follow_one_another_without_waiting() -> None:
    """Signals carry the number of their exchange: none is reset, whatever comes in between."""
    n, count = 3, 3001
    for mode in ("one_launch", "streams"):
        expected = [np.full(count, r, np.float32) for r in range(n)]
        there = [to_gpu(x) for x in expected]
        with virtual_ranks(n, mode=mode) as ranks:
            for algorithm in (*ALGORITHMS, *ALGORITHMS[::-1]):
                ranks.all_reduce(there, algorithm=algorithm, op="avg", wait=False)
                other = [to_gpu(np.ones(50 * len(algorithm), np.float32)) for _ in range(n)]
                ranks.all_reduce(other, algorithm=algorithm, codec="int8", wait=False)
            ranks.synchronize()
        for x in there:
            np.testing.assert_array_equal(gradwire.testing.to_cpu(x), np.full(count, 1, np.float32))


@pytest.mark.parametrize("codec", [None, "int8"])
def test_a_graph_is_replayed_a_hundred_times(codec: str | None) -> None:
    """Epochs are counted in device memory: a replay is a new exchange, not the old one's signals."""
    n = 2
    with virtual_ranks(n) as ranks:
        for algorithm in ALGORITHMS:
            arrays = [to_gpu(np.full(1000, r, np.float32)) for r in (1, 1)]
            replay = ranks.record(arrays, algorithm=algorithm, codec=codec, op="avg")
            np.testing.assert_array_equal(gradwire.testing.to_cpu(arrays[0]), np.float32(1))
            for i in range(25):
                replay(wait=i % 10 == 9)
            ranks.synchronize()
            for x in arrays:
                np.testing.assert_array_equal(gradwire.testing.to_cpu(x), np.ones(1000, np.float32))
            arrays[0].copy_from(np.full(1000, 3, np.float32))
            replay()
            np.testing.assert_allclose(gradwire.testing.to_cpu(arrays[1]), 2, rtol=1e-2)


def test_one_rank_and_no_elements_are_left_alone() -> None:
    with virtual_ranks(1) as ranks:
        x = ranks.all_reduce([to_gpu(np.float32([1, 2, 3]))], op="avg")[0]
        np.testing.assert_array_equal(gradwire.testing.to_cpu(x), np.float32([1, 2, 3]))
    with virtual_ranks(2) as ranks:
        ranks.all_reduce([to_gpu(np.empty(0, np.float32)) for _ in range(2)], codec="int4")


@pytest.mark.parametrize("silent", [0, 2])
def test_a_rank_that_does_not_answer_is_named(silent: int) -> None:
    n = 3
    with virtual_ranks(n, mode="streams") as ranks:
        for algorithm in ("direct", "ring"):
            arrays = [to_gpu(np.ones(1000, np.float32)) for _ in range(n)]
            ranks._silent = [silent]
            with pytest.raises(gradwire.Timeout, match=f"in vain for rank {silent}") as caught:
                ranks.all_reduce(arrays, algorithm=algorithm, timeout=0.2)
            assert caught.value.rank == silent and caught.value.op == "all_reduce"
            ranks._silent = []
            fresh = [to_gpu(np.ones(1000, np.float32)) for _ in range(n)]
            ranks.all_reduce(fresh, algorithm=algorithm)
            np.testing.assert_array_equal(gradwire.testing.to_cpu(fresh[0]), np.full(1000, n, np.float32))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        ({"arrays": 1}, "an array for each of the 2 ranks, got 1"),
        ({"dtype": "int64"}, "reduce float32, bfloat16 and float16, got int64"),
        ({"odd": True}, r"rank 0 has float32\[64\], rank 1 has float32\[65\]"),
        ({"codec": "int8", "op": "max"}, "lossy and works on sums and averages"),
        ({"codec": "rice4"}, "no kernels that exchange"),
        ({"algorithm": "broken"}, "broken"),
        ({"algorithm": "hierarchical"}, "hierarchical"),
        ({"timeout": 0.0}, "timeout must be positive"),
    ],
)
def test_bad_input_is_named(call: dict[str, Any], match: str) -> None:
    call = dict(call)
    n, dtype, odd = call.pop("arrays", 2), call.pop("dtype", "float32"), call.pop("odd", False)
    arrays = [to_gpu(np.zeros(64 + (odd and r), dtype)) for r in range(n)]
    with virtual_ranks(2) as ranks, pytest.raises(gradwire.ArgumentError, match=match):
        ranks.all_reduce(arrays, **call)
    with pytest.raises(gradwire.ArgumentError, match="1 to 16, got 17"):
        virtual_ranks(17)
