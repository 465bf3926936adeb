"""Kind in, kind out: NumPy for NumPy, torch for torch; DLPack and the buffer protocol are read and written in
place.
"""

from __future__ import annotations

import array
import ctypes
from types import SimpleNamespace
from typing import Any

import exact
import numpy as np
import pytest

import gradwire
from gradwire import Communicator, arrays
from gradwire.testing import run_ranks

torch = pytest.importorskip("torch") if "bfloat16" in exact.DTYPES else None
needs_torch = pytest.mark.skipif(torch is None, reason="torch is not installed")


class DlpackOnly:
    """An array library that gradwire has never heard of."""

    def __init__(self, x: Any) -> None:
        self.x = x
        self.shape = tuple(x.shape)

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.x.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return self.x.__dlpack_device__()


def writable_kinds() -> dict[str, Any]:
    """name -> (make three fp32 ones, read them back as a list)"""
    kinds: dict[str, Any] = {
        "numpy": (lambda: np.ones(3, np.float32), lambda x: x.tolist()),
        "numpy, 2-D": (lambda: np.ones((1, 3), np.float32), lambda x: x.ravel().tolist()),
        "array.array": (lambda: array.array("f", [1, 1, 1]), lambda x: x.tolist()),
        "memoryview": (lambda: memoryview(np.ones(3, np.float32)), lambda x: x.tolist()),
        "ctypes": (lambda: (ctypes.c_float * 3)(1, 1, 1), list),
        "DLPack": (lambda: DlpackOnly(np.ones(3, np.float32)), lambda x: x.x.tolist()),
    }
    if torch is not None:
        kinds["torch"] = (lambda: torch.ones(3), lambda x: x.tolist())
        kinds["torch parameter"] = (lambda: torch.nn.Parameter(torch.ones(3)), lambda x: x.tolist())
        kinds["DLPack of torch"] = (lambda: DlpackOnly(torch.ones(3)), lambda x: x.x.tolist())
    return kinds


KINDS = writable_kinds()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_array_is_reduced_in_place(kind: str) -> None:
    make, read = KINDS[kind]

    def rank(comm: Communicator) -> Any:
        x = make()
        assert comm.all_reduce(x) is x
        return read(x)

    assert run_ranks(2, rank) == [[2.0, 2.0, 2.0]] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_new_arrays_are_of_the_kind_that_went_in(kind: str) -> None:
    make, _ = KINDS[kind]
    wanted = torch.Tensor if torch is not None and isinstance(make(), torch.Tensor) else np.ndarray

    def rank(comm: Communicator) -> list[Any]:
        x = make()
        return [comm.all_gather(x), comm.all_to_all(make()), gradwire.encode(x, "int8")]

    results = run_ranks(1, rank)[0]
    x = make()
    results += [gradwire.decode(results[2]), gradwire.ops.quantize(x).payload, *gradwire.ops.topk(x, k=1)]
    assert all(isinstance(r, wanted) for r in results)
    assert list(results[0].shape) == [1, *arrays.shape_of(x)]


@pytest.mark.parametrize("dtype", exact.DTYPES)
def test_new_arrays_keep_dtype_and_shape(dtype: str) -> None:
    x = exact.array(np.ones((4, 3), np.int64), dtype)

    def rank(comm: Communicator) -> list[Any]:
        return [comm.all_gather(x), comm.reduce_scatter(x), comm.all_to_all(x)]

    gathered, share, exchanged = run_ranks(2, rank)[0]
    assert [tuple(y.shape) for y in (gathered, share, exchanged)] == [(2, 4, 3), (2, 3), (4, 3)]
    assert gathered.dtype == share.dtype == exchanged.dtype == x.dtype
    flat = run_ranks(2, lambda comm: comm.reduce_scatter(exact.array(np.ones((3, 2), np.int64), dtype)))[0]
    assert tuple(flat.shape) == (3,), "rows that do not divide by the ranks give a flat share"


@needs_torch
def test_strides_that_cover_flat_memory_are_contiguous_and_others_are_not() -> None:
    comm = gradwire.init(rank=0, size=1)
    for good in (torch.ones(2, 3), torch.ones(2, 3)[1], torch.ones(0, 3), torch.ones(6).view(3, 2)):
        comm.all_reduce(good)
    for bad in (torch.ones(2, 3).T, torch.ones(4, 4)[:, :2], torch.ones(1).expand(3)):
        with pytest.raises(gradwire.ArgumentError, match="contiguous"):
            comm.all_reduce(bad)


@pytest.mark.parametrize("strides", [(8,), (-4,)])
def test_a_gpu_array_with_gaps_or_reversed_is_not_contiguous(strides: tuple[int, ...]) -> None:
    interface = {"shape": (3,), "typestr": "<f4", "strides": strides, "data": (0, False), "version": 3}
    with pytest.raises(gradwire.ArgumentError, match=r"cupy\.ascontiguousarray"):
        gradwire._native.array_info(SimpleNamespace(__cuda_array_interface__=interface))


@needs_torch
def test_a_tensor_that_is_not_on_the_cpu_or_of_a_foreign_dtype_is_refused() -> None:
    comm = gradwire.init(rank=0, size=1)
    with pytest.raises(gradwire.ArgumentError, match="CPU"):
        comm.all_reduce(torch.ones(3, device="meta"))
    for dtype in (torch.bool, torch.complex64, torch.int8):
        with pytest.raises(gradwire.ArgumentError, match="dtype"):
            comm.all_reduce(torch.ones(3, dtype=dtype))


@needs_torch
def test_ranks_may_bring_different_kinds() -> None:
    def rank(comm: Communicator) -> Any:
        return comm.all_reduce(torch.ones(5) if comm.rank else np.ones(5, np.float32))

    a, b = run_ranks(2, rank)
    assert a.tolist() == b.tolist() == [2.0] * 5


def test_bytes_are_frames_but_not_outputs() -> None:
    frame = gradwire.encode(np.float32([1, 2, 3]), "int8").tobytes()
    assert gradwire.decode(frame).tolist() == pytest.approx([1, 2, 3], rel=0.02)
    with pytest.raises(gradwire.ArgumentError, match="read-only"):
        gradwire.init(rank=0, size=1).all_reduce(frame)


def test_arrays_that_are_not_aligned_work() -> None:
    def rank(comm: Communicator) -> Any:
        raw = bytearray(4 * 1001 + 1)
        x = np.frombuffer(raw, np.float32, 1000, offset=1)
        x[:] = 3
        comm.all_reduce(x)
        comm.all_reduce(x, codec="int8")
        return x.tolist()

    assert run_ranks(2, rank) == [[12.0] * 1000] * 2
