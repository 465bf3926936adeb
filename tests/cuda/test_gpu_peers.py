"""all_reduce goes through GPU memory that ranks map: the bytes of the CPU's, errors that name who."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradwire
from gradwire import Communicator, _native, gpu_peers
from gradwire.testing import Hub, run_processes, run_ranks, to_cpu, to_gpu

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
import exact  # noqa: E402
from streams import SIMULATED, OnStream, Stream  # noqa: E402
from test_collectives import Kept  # noqa: E402

ALGORITHMS = ["auto", "one_shot", "direct", "ring", "double_tree", "halving_doubling"]
DTYPES = ["float32", "bfloat16", "float16"]
CODECS = [
    None,
    "int8",
    "int4(block=32)",
    "int8(block=64,rounding=stochastic,seed=3)",
    "int6",
    "int5",
    "int3",
    "int2",
    "sign",
    "rotated4(seed=2)",
    "fp8_e4m3",
    "fp8_e5m2",
    "mxfp4",
    "bf16",
    "fp16",
    "identity",
    "nvfp4",
    "topk(ratio=0.05)",
    "randk(ratio=0.1)",
]
BY_PINNED_MEMORY = ["rice4", "lossless"]
MESSAGE = 64 + 144  # header and address
WORKER = Path(__file__).parent / "gpu_peers_worker.py"
held = pytest.mark.skipif(not SIMULATED, reason="holds a simulated stream")


def calls(n: int) -> list[tuple[Any, ...]]:
    """(count, dtype, codec, op, algorithm, feeds back, async): every codec, and the others in turn."""
    made = []
    for i, codec in enumerate([*CODECS, None, None, *BY_PINNED_MEMORY]):
        block = gradwire.codec(codec).block if codec else 64
        count = (1, block - 1, block, block + 1, 5003, 0, 1024 * n + 3)[(i + n) % 7]
        lossy = codec is not None and gradwire.codec(codec).lossy
        op = ("sum", "avg")[i % 2] if codec else ("sum", "avg", "min", "max", "prod")[(i + n) % 5]
        algorithm = "direct" if lossy and i % 3 == 0 else ALGORITHMS[(i + n) % len(ALGORITHMS)]
        if algorithm == "auto":  # the two ways choose apart
            algorithm = "one_shot"
        made.append((count, DTYPES[(i + n) % 3], codec, op, algorithm, lossy and i % 2 == 0, i % 4 == 1))
    return made


def values(rank: int, count: int, dtype: str) -> Any:
    return exact.array(np.random.default_rng([rank, count]).standard_normal(count), dtype)


def outcome(comm: Communicator, on_gpu: bool) -> list[tuple[bytes, int]]:
    """Of every call the bits of the array and of the residual, and the bytes that this rank sent."""
    found = []
    for count, dtype, codec, op, algorithm, feeds_back, async_op in calls(comm.size):
        x = Kept(values(comm.rank, count, dtype), on_gpu)
        owed = Kept(np.full(count, 0.25, np.float32), on_gpu) if feeds_back else None
        before = comm.stats()["bytes_sent"]
        residual = owed.array if owed else None
        work = comm.all_reduce(x.array, op, codec, algorithm, residual, async_op=async_op)
        if async_op:
            work.wait()
        sent = comm.stats()["bytes_sent"] - before
        found.append((x.bits() + (owed.bits() if owed else b""), sent))
    return found


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8])
def test_results_are_those_of_the_cpu_and_only_signatures_travel(n: int) -> None:
    expected = run_ranks(n, lambda comm: outcome(comm, False))
    got = run_ranks(n, lambda comm: outcome(comm, True), gpu_peers=True)
    for rank in range(n):
        for call, (bits, _), (other, sent) in zip(calls(n), expected[rank], got[rank]):
            assert other == bits, (rank, call)
            if call[2] not in BY_PINNED_MEMORY:
                assert sent == (n - 1) * MESSAGE, call


def test_memory_grows_with_what_is_asked_for() -> None:
    def rank(comm: Communicator) -> Any:
        assert comm.gpu_peers == "on"
        for count in (3, 40_000, 100, 300_000, 1):
            x = to_gpu(np.full(count, comm.rank + 1, np.float32))
            comm.all_reduce(x, "avg")
            np.testing.assert_array_equal(to_cpu(x), np.full(count, 2, np.float32))
        return True

    assert all(run_ranks(3, rank, "shm", gpu_peers=True))


def test_a_topology_orders_the_ring_on_both_ways() -> None:
    def rank(comm: Communicator, on_gpu: bool) -> bytes:
        comm._native.set_topology(_native.Topology(order=[0, 2, 1, 3], slow=[False, True, False, False]))
        found = b""
        for algorithm in ("ring", "direct", "double_tree"):
            x = Kept(values(comm.rank, 3001, "float32"), on_gpu)
            comm.all_reduce(x.array, algorithm=algorithm, codec="int4")
            found += x.bits()
        return found

    got = run_ranks(4, lambda comm: rank(comm, True), gpu_peers=True)
    assert got == run_ranks(4, lambda comm: rank(comm, False))


def test_size_invariant_results_stay_so() -> None:
    """auto takes one_shot for a lossy codec, and what depends on the size is refused."""

    def rank(comm: Communicator) -> None:
        x, cut = to_gpu(values(comm.rank, 4096, "float32")), to_gpu(values(comm.rank, 4096, "float32")[:1024])
        comm.all_reduce(x, codec="int8")
        comm.all_reduce(cut, codec="int8")
        np.testing.assert_array_equal(to_cpu(x)[:1024], to_cpu(cut))
        with pytest.raises(gradwire.ArgumentError, match="size-invariant"):
            comm.all_reduce(x, codec="int8", algorithm="direct")

    run_ranks(3, rank, gpu_peers=True, deterministic="size-invariant")


def test_an_array_on_the_cpu_of_one_rank_is_a_mismatch_for_all() -> None:
    for algorithm in ("direct", "ring", "double_tree", "one_shot"):

        def rank(comm: Communicator) -> str:
            x = np.ones(1000, np.float32)
            with pytest.raises(gradwire.MismatchError, match="by memory of GPUs") as caught:
                comm.all_reduce(x if comm.rank == 1 else to_gpu(x), algorithm=algorithm, timeout=20)  # noqa: B023
            return type(caught.value).__name__

        assert run_ranks(3, rank, gpu_peers=True) == ["MismatchError"] * 3


@pytest.mark.parametrize("what", ["count", "codec", "algorithm", "op"])
def test_different_calls_are_a_mismatch_before_a_kernel_runs(what: str) -> None:
    def rank(comm: Communicator) -> float:
        odd = comm.rank == 1
        x = to_gpu(np.ones(101 if odd and what == "count" else 100, np.float32))
        began = time.monotonic()
        with pytest.raises(gradwire.MismatchError, match="ranks called different operations"):
            comm.all_reduce(
                x,
                "avg" if odd and what == "op" else "sum",
                "int4" if odd and what == "codec" else "int8",
                "ring" if odd and what == "algorithm" else "direct",
                timeout=20,
            )
        np.testing.assert_array_equal(to_cpu(x), np.ones(x.size, np.float32))
        return time.monotonic() - began

    assert max(run_ranks(3, rank, gpu_peers=True)) < 10


def test_a_rank_that_does_not_call_is_named_by_the_deadline() -> None:
    def rank(comm: Communicator) -> int | None:
        if comm.rank == 1:
            time.sleep(1.5)
            return None
        with pytest.raises(gradwire.Timeout, match="rank 1") as caught:
            comm.all_reduce(to_gpu(np.ones(10, np.float32)), timeout=0.5)
        return caught.value.rank

    assert run_ranks(3, rank, gpu_peers=True) == [1, None, 1]


@held
def test_a_peer_whose_gpu_does_not_come_is_named_with_the_step() -> None:
    """Its signature came, so the kernels of the others wait: no longer than the operation may take."""

    def rank(comm: Communicator) -> Any:
        x, stream = to_gpu(np.ones(100, np.float32)), Stream()
        began = time.monotonic()
        with stream.held() if comm.rank == 1 else _nothing(), pytest.raises(gradwire.Timeout) as caught:
            comm.all_reduce(OnStream(x, stream), algorithm="direct", timeout=20 if comm.rank == 1 else 0.8)
        assert "rank 1" in str(caught.value) and "its GPU did not come so far" in str(caught.value)
        error, late = caught.value, time.monotonic() - began
        with pytest.raises(gradwire.Timeout):
            comm.all_reduce(x)
        return error.rank, error.step, late, x

    for culprit, step, late, _ in run_ranks(3, rank, gpu_peers=True):
        assert culprit == 1 and step >= 0 and late < 4


@held
def test_a_peer_that_dies_before_its_kernel_ends_the_waiting_of_the_others() -> None:
    hub = Hub()

    def rank(comm: Communicator) -> Any:
        x, stream = to_gpu(np.ones(100, np.float32)), Stream()
        began = time.monotonic()
        if comm.rank == 1:
            with stream.held():
                work = comm.all_reduce(OnStream(x, stream), async_op=True, timeout=20)
                time.sleep(0.3)
                hub.close(1)
                time.sleep(0.5)
            return x, work
        with pytest.raises(gradwire.PeerLost, match="rank 1") as caught:
            comm.all_reduce(x, timeout=20)
        assert time.monotonic() - began < 10
        return caught.value.rank, x

    found = run_ranks(3, rank, hub, gpu_peers=True)
    assert [found[0][0], found[2][0]] == [1, 1]


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


def test_survivors_of_a_killed_process_reduce_on() -> None:
    done = run_processes(3, WORKER, timeout=60, env={"OMP_NUM_THREADS": "1"}, check=False)
    assert [p.returncode for p in done] == [0, -9, 0], done
    for p in (done[0], done[2]):
        assert p.stdout.split() == ["PeerLost", "1", "on", "5.0"], p


def test_more_ranks_than_the_kernels_take_go_the_other_way() -> None:
    def rank(comm: Communicator) -> str:
        x = to_gpu(np.ones(3, np.float32))
        comm.all_reduce(x)
        assert to_cpu(x).tolist() == [17.0] * 3
        return comm.gpu_peers

    assert set(run_ranks(17, rank, gpu_peers=True)) == {"off: it takes up to 16 ranks, there are 17"}


def test_what_was_measured_decides_between_one_shot_and_two_shot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def rank(comm: Communicator) -> list[bool]:
        found = []
        for count in (100, 1000):
            x, y = (to_gpu(values(comm.rank, count, "float32")) for _ in range(2))
            comm.all_reduce(x, codec="int4")
            comm.all_reduce(y, codec="int4", algorithm="one_shot")
            found.append(bool((to_cpu(x) == to_cpu(y)).all()))
        return found

    assert run_ranks(3, rank, gpu_peers=True)[0] == [True, True]
    assert gpu_peers.save({2: None, 4: 2000}).parent == tmp_path / "gradwire"
    assert [gpu_peers.one_shot_below(n) for n in (3, 4, 5)] == [2000, 2000, 0]
    assert run_ranks(3, rank, gpu_peers=True)[0] == [True, False]
    gpu_peers.cache_path().write_text("{}")
    assert run_ranks(3, rank, gpu_peers=True)[0] == [True, True]


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b'{"kind": 1}', b"\xff" * 8])
def test_a_record_that_is_none_is_a_frame_error_that_names_its_rank(record: bytes) -> None:
    with pytest.raises(gradwire.FrameError, match="rank 3 sent no record"):
        gpu_peers._read(3, record.ljust(1024, b"\0"))
