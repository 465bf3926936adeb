"""What every lossy codec must do in every algorithm: replicas end with the same bits, what is lost is in the
residuals,
and the error stays within the bound that the codec's header derives."""

from __future__ import annotations

from typing import Any

import exact
import numpy as np
import numpy.typing as npt
import pytest

import gradwire
from gradwire import Communicator, _native
from gradwire.testing import run_ranks

ALGORITHMS = [a["name"] for a in _native.algorithms()]
CODECS = [
    "bf16",
    "fp16",
    "int8",
    "int4",
    "int4(block=64)",
    "int3(levels=lloyd-max)",
    "int6(rounding=stochastic,seed=1)",
    "rotated4(seed=5)",
    "rice4",
    "topk(ratio=0.05,values=fp32)",
    "topk(ratio=0.25)",
]
SIZES = [2, 3, 5, 8]
COUNTS = [1, 33, 1021, 40_003]
PAIR_AND_ONE = _native.Topology(host=[0, 0, 1])


def encodes(algorithm: str) -> int:
    return _native.make_schedule(algorithm, "all_reduce", 0, 3, -1, PAIR_AND_ONE).lossy_encodes


def gradients(size: int, count: int) -> list[npt.NDArray[np.float32]]:
    rng = np.random.default_rng([size, count])
    return [rng.standard_normal(count).astype(np.float32) for _ in range(size)]


def exact_sum(xs: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float64]:
    return np.sum([x.astype(np.float64) for x in xs], axis=0)


def all_algorithms() -> list[Any]:
    return [(a, s) for a in ALGORITHMS for s in SIZES if _native.supports(a, "all_reduce", s)]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("algorithm", "size"), all_algorithms())
def test_replicas_agree_and_the_loss_is_conserved(algorithm: str, size: int, codec: str) -> None:
    def rank(comm: Communicator) -> list[Any]:
        out = []
        for count in COUNTS:
            for op in ("sum", "avg"):
                x = gradients(size, count)[comm.rank].copy()
                residual = np.zeros(count, np.float32)
                comm.all_reduce(x, op=op, codec=codec, algorithm=algorithm, residual=residual)
                out.append((count, op, x, residual))
        return out

    results = run_ranks(size, rank)
    for i, (count, op, first, _) in enumerate(results[0]):
        what = (algorithm, size, codec, count, op)
        assert {exact.bits(r[i][2]) for r in results} == {exact.bits(first)}, f"{what}: replicas differ"
        wanted = exact_sum(gradients(size, count))
        # In units of the sum: an average pays its loss out size times.
        got = first.astype(np.float64) * (size if op == "avg" else 1)
        residuals = np.sum([r[i][3].astype(np.float64) for r in results], axis=0)
        # fp32 rounding of up to 2 size additions of values of this magnitude
        scale = np.abs(wanted).max() + sum(np.abs(x).max() for x in gradients(size, count))
        assert np.abs(wanted - got - residuals).max() <= 2 * size * 2.0**-23 * scale, what


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a not in ("one_shot",)])
def test_on_a_topology_replicas_agree_and_the_loss_is_conserved(algorithm: str, dtype: str) -> None:
    size = 5
    slow = [False, True, False, False, False]
    topology = _native.Topology(host=[0, 0, 1, 1, 1], order=[0, 2, 1, 3, 4], slow=slow)

    def rank(comm: Communicator) -> list[Any]:
        comm._native.set_topology(topology)
        out = []
        for count in COUNTS:
            for codec in ("int8", "topk(ratio=0.25)", None):
                x = gradients(size, count)[comm.rank].astype(dtype)
                owed = np.full(count, 0.25, np.float32)
                comm.all_reduce(x, codec=codec, algorithm=algorithm, residual=owed if codec else None)
                out.append((count, codec, x, owed))
        return out

    results = run_ranks(size, rank)
    for i, (count, codec, first, _) in enumerate(results[0]):
        what = (algorithm, codec, count)
        assert {exact.bits(r[i][2]) for r in results} == {exact.bits(first)}, f"{what}: replicas differ"
        given = [x.astype(dtype).astype(np.float32) for x in gradients(size, count)]
        wanted = exact_sum(given) + (0.25 * size if codec else 0)
        owed = np.sum([r[i][3].astype(np.float64) for r in results], axis=0) if codec else 0
        # fp32 rounding of up to 3 size additions; a 16-bit array rounds a finished sum, and without a
        # residual every partial one
        scale = sum(np.abs(x).max() for x in given) + 0.25 * size
        unit = 2.0**-23 if dtype == "float32" else 2.0**-11 * (0.5 if codec else 1)
        assert np.abs(wanted - first - owed).max() <= 3 * size * unit * scale, what


@pytest.mark.parametrize("codec", ["bf16", "int8", "int4"])
@pytest.mark.parametrize(("algorithm", "size"), all_algorithms())
def test_the_error_stays_within_the_encodes_that_the_schedule_counts(
    algorithm: str, size: int, codec: str
) -> None:
    # Largest error of one encode, as a share of the block's largest magnitude: the bounds in quant.hpp and
    # cast.hpp.
    share = {"bf16": 2.0**-9, "int8": 2.0**-7 + 2.0**-8, "int4": 2.0**-3 + 2.0**-8}[codec]
    count = 40_003
    xs = gradients(size, count)
    result = run_ranks(size, lambda c: c.all_reduce(xs[c.rank].copy(), codec=codec, algorithm=algorithm))[0]
    error = np.abs(result - exact_sum(xs)).max()
    # Every rank's value is encoded at most `encodes` times; no value, own or partial, exceeds the sum of
    # maxima by more than the errors made before.
    encodes = max(1, _native.make_schedule(algorithm, "all_reduce", 0, size).lossy_encodes)
    largest = sum(np.abs(x).max() for x in xs)
    assert error <= largest * ((1 + share) ** encodes - 1) * (1 + 1e-5)
    if codec == "bf16":
        assert error > 0, "a lossy codec that loses nothing was not used"


@pytest.mark.parametrize("codec", ["int8", "topk(ratio=0.25)"])
@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_lossy_results_do_not_depend_on_the_transport(codec: str, transport: str) -> None:
    xs = gradients(3, 100_003)

    def rank(comm: Communicator) -> bytes:
        comm._native.set_topology(PAIR_AND_ONE)
        return b"".join(
            exact.bits(comm.all_reduce(xs[comm.rank].copy(), codec=codec, algorithm=a)) for a in ALGORITHMS
        )

    settings = {"channel_bytes": 1 << 18, "segment_bytes": 1 << 15}
    over = run_ranks(3, rank, transport, **settings)
    inproc = run_ranks(3, rank, **settings)
    assert set(over) == set(inproc)
    assert len(set(over)) == 1


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", [d for d in exact.FLOATS if d in exact.DTYPES])
def test_lossy_codecs_take_every_float_dtype(dtype: str, codec: str) -> None:
    xs = [exact.array(x, dtype) for x in gradients(2, 5000)]

    def rank(comm: Communicator) -> Any:
        x = exact.array(exact.numbers(xs[comm.rank]), dtype)
        return comm.all_reduce(x, codec=codec)

    a, b = run_ranks(2, rank)
    assert exact.bits(a) == exact.bits(b)
    wanted = np.sum([exact.numbers(x).astype(np.float64) for x in xs], axis=0)
    error = np.linalg.norm(exact.numbers(a) - wanted) / np.linalg.norm(wanted)
    # 1.5 of one encode's relative error: two independent encodes of a sum (FACTS: 2 D), top-k keeps the
    # larger half
    assert error <= {"bf16": 0.01, "fp16": 0.01, "int8": 0.02, "int4": 0.3}.get(
        codec.split("(", maxsplit=1)[0], 1.0
    )


@pytest.mark.parametrize("codec", ["int8", "int4", "bf16"])
def test_other_collectives_take_codecs_and_lose_what_one_encode_loses(codec: str) -> None:
    size, count = 3, 3000
    xs = gradients(size, count)
    made = gradwire.codec(codec)

    def rank(comm: Communicator) -> tuple[Any, Any, Any, Any, Any]:
        mine = xs[comm.rank]
        residual = np.zeros(count, np.float32)
        share = comm.reduce_scatter(mine.copy(), codec=made, residual=residual)
        gathered = comm.all_gather(mine.copy(), codec=made)
        sent = comm.broadcast(mine.copy(), root=1, codec=made)
        return share, residual, gathered, sent, comm.all_to_all(mine.copy(), codec=made)

    results = run_ranks(size, rank)
    once = np.stack([gradwire.decode(gradwire.encode(x, made)) for x in xs])
    for _, _, gathered, sent, _ in results:
        assert exact.bits(gathered) == exact.bits(results[0][2])
        assert exact.bits(sent) == exact.bits(results[0][3])
    np.testing.assert_array_equal(results[0][2], once)
    np.testing.assert_array_equal(results[0][3], once[1])
    shares = np.concatenate([r[0] for r in results])
    lost = np.sum([r[1].astype(np.float64) for r in results], axis=0)
    np.testing.assert_allclose(shares + lost, exact_sum(xs), atol=1e-5)


@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if encodes(a)])
def test_error_feedback_makes_up_for_the_loss_over_time(algorithm: str) -> None:
    size, count, steps = 3, 5000, 40
    xs = gradients(size, count)

    def rank(comm: Communicator) -> Any:
        comm._native.set_topology(PAIR_AND_ONE)
        residual = np.zeros(count, np.float32)
        total = np.zeros(count, np.float64)
        for _ in range(steps):
            x = xs[comm.rank].copy()
            total += comm.all_reduce(x, codec="topk(ratio=0.1)", algorithm=algorithm, residual=residual)
        return total / steps

    mean = run_ranks(size, rank)[0]
    wanted = exact_sum(xs)
    # What has not been sent yet is at most a few gradients per element; its share shrinks with the steps.
    assert np.linalg.norm(mean - wanted) < 0.45 * np.linalg.norm(wanted)

    def just_once(comm: Communicator) -> Any:
        comm._native.set_topology(PAIR_AND_ONE)
        return comm.all_reduce(xs[comm.rank].copy(), codec="topk(ratio=0.1)", algorithm=algorithm)

    once = run_ranks(size, just_once)[0]
    assert np.linalg.norm(mean - wanted) < 0.7 * np.linalg.norm(once - wanted)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_two_runs_give_the_same_bits_whatever_arrives_first(algorithm: str) -> None:
    xs = gradients(4, 10_007)

    def run(slow: int) -> bytes:
        hub = gradwire.testing.Hub()

        def rank(comm: Communicator) -> bytes:
            comm.barrier()
            if comm.rank == 0:
                for other in range(4):
                    if other != slow:
                        hub.delay(slow, other, 0.005)
            comm.barrier()
            return exact.bits(comm.all_reduce(xs[comm.rank].copy(), codec="int8", algorithm=algorithm))

        return run_ranks(4, rank, hub)[0]

    assert run(slow=1) == run(slow=3)


@pytest.mark.parametrize(("algorithm", "size"), [("ring", 5), ("double_tree", 5)])
def test_partial_sums_of_16_bit_arrays_lose_nothing_on_the_way(algorithm: str, size: int) -> None:
    rng = np.random.default_rng(7)
    shares = rng.uniform(0.5, 1.0, (size, 4096)).astype(np.float16)

    def rank(comm: Communicator) -> tuple[np.ndarray, np.ndarray]:
        x, residual = shares[comm.rank].copy(), np.zeros(4096, np.float32)
        comm.all_reduce(x, codec="int8", algorithm=algorithm, residual=residual)
        return x, residual

    results = run_ranks(size, rank)
    exact = shares.astype(np.float64).sum(0)
    owed = np.sum([residual for _, residual in results], axis=0, dtype=np.float64)
    # the one rounding that is left is that of the finished value to its 16 bits
    half_ulp = np.spacing(results[0][0]).astype(np.float64) / 2
    assert (np.abs(results[0][0] + owed - exact) <= half_ulp + 1e-5).all()
