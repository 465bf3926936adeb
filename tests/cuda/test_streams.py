"""Collectives keep the order of the caller's stream: they wait for what was there, and hold back the rest."""

from __future__ import annotations

import gc
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradwire
from gradwire import Communicator, _native
from gradwire.testing import run_ranks, to_cpu, to_gpu

sys.path[:0] = [str(Path(__file__).parent)]
from streams import SIMULATED, OnStream, Stream, library  # noqa: E402

CODECS = ["int8", None]
COUNT = 50_000
simulated = pytest.mark.skipif(not SIMULATED, reason="holds a simulated stream")


@pytest.fixture
def slow() -> Iterator[None]:
    """Streams dawdle, so that whatever is out of order comes out wrong."""
    if SIMULATED:
        library.gradwire_cusim_delay(1000)
    yield
    if SIMULATED:
        library.gradwire_cusim_delay(0)


@pytest.mark.parametrize("codec", CODECS)
def test_results_are_there_for_what_comes_next_on_the_callers_stream(codec: str | None, slow: None) -> None:
    ones, zeros = np.ones(COUNT, np.float32), np.zeros(COUNT, np.float32)

    def rank(comm: Communicator) -> list[Any]:
        found = []
        for async_op in (False, True):
            stream, x = Stream(), to_gpu(zeros)
            before, after, seen = to_gpu(ones), to_gpu(zeros), OnStream(x, stream)
            stream.copy(x, before)
            if async_op:
                assert comm.all_reduce(seen, codec=codec, async_op=True).wait() is seen
            else:
                comm.all_reduce(seen, codec=codec)
            stream.copy(after, x)
            stream.copy(x, before)
            stream.synchronize()
            found.append(to_cpu(after))
        return found

    for results in run_ranks(2, rank):
        for result in results:
            np.testing.assert_array_equal(result, ones * 2)


@simulated
@pytest.mark.parametrize("codec", CODECS)
def test_the_caller_goes_on_while_a_stream_is_busy(codec: str | None) -> None:
    def rank(comm: Communicator) -> Any:
        stream = Stream()
        x, values = to_gpu(np.zeros(COUNT, np.float32)), to_gpu(np.ones(COUNT, np.float32))
        with stream.held():
            stream.copy(x, values)
            work = comm.all_reduce(OnStream(x, stream), codec=codec, async_op=True)
            time.sleep(0.02)
            assert not work.done()
            with pytest.raises(gradwire.Timeout, match="is not done yet"):
                work.wait(timeout=0.01)
        work.wait()
        stream.synchronize()
        assert work.done()
        return to_cpu(x)

    for result in run_ranks(2, rank):
        np.testing.assert_array_equal(result, np.full(COUNT, 2, np.float32))


@simulated
@pytest.mark.parametrize("codec", CODECS)
def test_a_gpu_that_stands_still_ends_in_a_timeout_that_names_its_rank(codec: str | None) -> None:
    def rank(comm: Communicator) -> tuple[int | None, str]:
        stream, x = Stream(), to_gpu(np.ones(COUNT, np.float32))
        error = None
        if comm.rank == 1:
            with stream.held():
                try:
                    comm.all_reduce(OnStream(x, stream), codec=codec, timeout=0.3)
                except gradwire.Timeout as e:
                    error = e
        else:
            try:
                comm.all_reduce(x, codec=codec, timeout=20)
            except gradwire.Timeout as e:
                error = e
        assert error is not None
        return error.rank, str(error)

    for culprit, text in run_ranks(2, rank):
        assert culprit == 1 and "the GPU of rank 1" in text and "still runs" in text


@simulated
def test_an_array_whose_work_was_dropped_lives_until_the_gpu_is_done() -> None:
    def rank(comm: Communicator) -> None:
        stream = Stream()
        array = OnStream(to_gpu(np.ones(COUNT, np.float32)), stream)
        alive = weakref.ref(array)
        with stream.held():
            comm.all_reduce(array, codec="int8", async_op=True)
            del array
            gc.collect()
            assert alive() is not None
        comm.barrier()  # is behind it in the order of calls
        for _ in range(50):  # each sweeps what is over
            comm.all_reduce(to_gpu(np.ones(1, np.float32)), async_op=True).wait()
            time.sleep(0.001)
        assert alive() is None

    run_ranks(2, rank)


@pytest.mark.parametrize("codec", CODECS)
def test_many_calls_in_flight_share_a_stream_and_end_in_order(codec: str | None, slow: None) -> None:
    if SIMULATED:
        library.gradwire_cusim_delay(50)

    def rank(comm: Communicator) -> list[Any]:
        xs = [to_gpu(np.full(n, comm.rank + 1, np.float32)) for n in (5, 70_000, 1, 0, 33_000)]
        works = [comm.all_reduce(x, codec=codec, async_op=True) for x in xs]
        for work in works:
            work.wait()
        return [to_cpu(x) for x in xs]

    for results in run_ranks(3, rank):
        for result in results:
            np.testing.assert_allclose(result, np.full(result.shape, 6, np.float32), rtol=0.02)


def test_arrays_of_one_call_must_be_in_one_place() -> None:
    there, here = to_gpu(np.ones(8, np.float32)), np.ones(8, np.float32)
    with gradwire.init(rank=0, size=1) as comm:
        with pytest.raises(gradwire.ArgumentError, match="residual is in CPU memory, the array is on GPU 0"):
            comm.all_reduce(there, codec="int8", residual=here)
        with pytest.raises(gradwire.ArgumentError, match="residual is on GPU 0, the array is in CPU memory"):
            comm.all_reduce(here, codec="int8", residual=there)
        with pytest.raises(gradwire.ArgumentError, match=r"output is in CPU memory.*torch: y\.to"):
            comm.all_gather(there, out=here)
        with pytest.raises(gradwire.ArgumentError, match="in GPU memory"):
            comm.all_reduce_many([there])
        comm.all_reduce(there)  # nothing was sent: it goes on


def test_arrays_with_holes_are_refused_with_a_remedy() -> None:
    class Strided:
        shape, size, dtype = (4,), 4, "float32"
        array = _native.gpu.DeviceArray((8,), "float32")
        __cuda_array_interface__ = {  # noqa: RUF012
            **array.__cuda_array_interface__,  # type: ignore[attr-defined]
            "shape": (4,),
            "strides": (8,),
        }

    with (
        gradwire.init(rank=0, size=1) as comm,
        pytest.raises(gradwire.ArgumentError, match=r"not contiguous.*cupy\.ascontiguousarray"),
    ):
        comm.all_reduce(Strided())
