"""Collectives on arrays in GPU memory give the bytes of the CPU's, also where some ranks use the CPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradwire
from gradwire import Communicator, _native
from gradwire.testing import run_ranks

sys.path[:0] = [str(Path(__file__).parent.parent)]
import exact  # noqa: E402

ALGORITHMS = [a["name"] for a in _native.algorithms()]
TOPOLOGY = _native.Topology(host=[0, 0, 1])
WITH_KERNELS = [
    "int8",
    "int4(block=64)",
    "rotated4(seed=5)",
    "bf16",
    "int6(rounding=stochastic,seed=1)",
    "topk(ratio=0.1)",
    "randk(ratio=0.1)",
]
ON_THE_CPU = ["rice4", "lossless"]
COUNTS = [0, 33, 20_003]
PLACES = {"gpu": (True, True, True), "mixed": (True, False, True), "lonely": (False, False, True)}


class Kept:
    """An array on the CPU or on the GPU, with one way to read it."""

    def __init__(self, host: Any, on_gpu: bool) -> None:
        self.host, self.array = host, host
        if on_gpu:
            shape, dtype = tuple(host.shape), str(host.dtype).split(".")[-1]
            self.array = _native.gpu.DeviceArray(shape, dtype)
            if self._bytes().size:
                self.array.copy_from(self._bytes())

    def _bytes(self) -> Any:
        host = self.host if isinstance(self.host, np.ndarray) else self.host.view(exact.torch.int16).numpy()
        return np.ascontiguousarray(host).view(np.uint8).reshape(-1)

    def bits(self) -> bytes:
        if self.array is not self.host and self._bytes().size:
            got = np.empty(self._bytes().size, np.uint8)
            self.array.copy_to(got)
            return got.tobytes()
        return exact.bits(self.host)


def values(rank: int, count: int, dtype: str) -> Any:
    x = np.random.default_rng([rank, count]).standard_normal(count).astype(np.float32)
    return exact.array(x, dtype)


def outcome(
    places: tuple[bool, ...], call: Any, dtype: str, codec: str | None, transport: str = "inproc"
) -> list[list[bytes]]:
    """Per rank the bits of the array and of the residual, for every count."""
    feeds_back = codec is not None and gradwire.codec(codec).lossy

    def rank(comm: Communicator) -> list[bytes]:
        comm._native.set_topology(TOPOLOGY)
        found = []
        for count in COUNTS:
            for step in range(2):
                on_gpu = places[comm.rank]
                x = Kept(values(comm.rank + 3 * step, count, dtype), on_gpu)
                owed = Kept(np.full(count, 0.25, np.float32), on_gpu) if feeds_back else None
                call(comm, x, owed)
                found.append(x.bits() + (owed.bits() if owed else b""))
        return found

    settings = {"channel_bytes": 1 << 18, "segment_bytes": 1 << 15} if transport != "inproc" else {}
    return run_ranks(len(places), rank, transport, **settings)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_reduce_with_a_codec_gives_the_bytes_of_the_cpu(algorithm: str) -> None:
    turn = ALGORITHMS.index(algorithm)  # all combinations, over all algorithms
    for i, codec in enumerate([*WITH_KERNELS, *ON_THE_CPU], start=turn):
        dtype, op = ("float32", "float16", "bfloat16")[i % 3], ("avg", "sum")[i % 2]

        def call(comm: Communicator, x: Kept, owed: Kept | None) -> None:
            residual = owed.array if owed else None
            comm.all_reduce(x.array, op, codec, algorithm, residual)  # noqa: B023

        expected = outcome((False,) * 3, call, dtype, codec)
        places = PLACES[("gpu", "mixed", "lonely")[(i // 2) % 3]]
        assert outcome(places, call, dtype, codec) == expected, (codec, dtype, op, places)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_reduce_without_a_codec_is_exact_for_every_dtype_and_operator(algorithm: str) -> None:
    turn = ALGORITHMS.index(algorithm)
    for dtype, op in exact.cases()[turn % 3 :: 3]:

        def call(comm: Communicator, x: Kept, owed: Kept | None) -> None:
            comm.all_reduce(x.array, op, algorithm=algorithm)  # noqa: B023

        expected = outcome((False,) * 3, call, dtype, None)
        assert outcome(PLACES["lonely"], call, dtype, None) == expected, (dtype, op)


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_answers_in_place_and_sockets_carry_the_same_bytes(transport: str) -> None:
    for i, algorithm in enumerate(ALGORITHMS):
        for codec in ("int8", None):

            def call(comm: Communicator, x: Kept, owed: Kept | None) -> None:
                comm.all_reduce(x.array, "avg", codec, algorithm, owed.array if owed else None)  # noqa: B023

            expected = outcome((False,) * 3, call, "float32", codec)
            places = PLACES["mixed" if (i + (codec is None)) % 2 else "gpu"]
            assert outcome(places, call, "float32", codec, transport) == expected, (algorithm, codec)


@pytest.mark.parametrize("codec", ["int8", "rice4", None])
@pytest.mark.parametrize("places", ["gpu", "mixed"])
def test_the_other_collectives_give_the_bytes_of_the_cpu(places: str, codec: str | None) -> None:
    def results(on_gpu: tuple[bool, ...]) -> list[list[bytes]]:
        def rank(comm: Communicator) -> list[bytes]:
            found = []
            for count in (0, 3, 999, 30_000):
                x = [Kept(values(comm.rank, count, "float32"), on_gpu[comm.rank]) for _ in range(4)]
                outs = [
                    comm.reduce_scatter(x[0].array, codec=codec),
                    comm.all_gather(x[1].array, codec=codec),
                    comm.all_to_all(x[2].array, codec=codec),
                ]
                comm.broadcast(x[3].array, root=1, codec=codec)
                found += [(gradwire.testing.to_cpu(y) if on_gpu[comm.rank] else y).tobytes() for y in outs]
                found += [k.bits() for k in x]
            return found

        return run_ranks(3, rank)

    assert results(PLACES[places]) == results((False,) * 3)


def test_messages_go_between_gpus_and_cpus() -> None:
    def rank(comm: Communicator) -> bytes:
        x = Kept(values(comm.rank, 70_001, "float32"), comm.rank == 0)
        for turn in (0, 1):
            if comm.rank == turn:
                comm.send(x.array, 1 - turn)
            else:
                comm.recv(x.array, turn)
        return x.bits()

    assert set(run_ranks(2, rank)) == {exact.bits(values(0, 70_001, "float32"))}


def test_a_rank_alone_pays_the_residual_out() -> None:
    for codec in ("int8", "rice4"):
        x, owed = Kept(values(0, 40_003, "bfloat16"), True), Kept(np.full(40_003, 0.25, np.float32), True)
        with gradwire.init(rank=0, size=1) as comm:
            comm.all_reduce(x.array, "avg", codec, residual=owed.array)
        assert x.bits() == exact.bits((values(0, 40_003, "bfloat16").float() + 0.25).to(exact.torch.bfloat16))
        assert not np.frombuffer(owed.bits(), np.float32).any()
