"""GlobalTopK of arrays on a GPU: results and residuals are the CPU's, also where ranks have both kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gradwire
from gradwire import GlobalTopK
from gradwire.testing import run_ranks, to_cpu, to_gpu

COUNT = 9_001
Floats = npt.NDArray[np.float32]


def gradient(rank: int, step: int, special: bool = False) -> Floats:
    rng = np.random.default_rng([rank, step])
    x = (rng.standard_normal(COUNT) * np.exp(rng.standard_normal(COUNT))).astype(np.float32)
    if special and step == 1:
        x[rng.integers(0, COUNT, 200)] = np.nan
        x[rng.integers(0, COUNT, 3)] = np.inf
    return x


def trained(size: int, gpu_ranks: set[int], special: bool = False, **options: Any) -> list[Any]:
    """What each rank of `size` has after every one of three steps, and what it owes in the end."""

    def rank(comm: gradwire.Communicator) -> Any:
        reducer, outs = GlobalTopK(**options), []
        for step in range(3):
            x = gradient(comm.rank, step, special)
            if comm.rank in gpu_ranks:
                there = to_gpu(x)
                assert reducer.all_reduce(comm, there, name="w") is there
                x = to_cpu(there)
            else:
                reducer.all_reduce(comm, x, name="w")
            outs.append(x)
        return [*outs, reducer.state_dict(comm.rank, size)[f"rank{comm.rank}/w"]]

    return run_ranks(size, rank)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (1, {"ratio": 0.02}),
        (2, {"ratio": 0.01, "values": "fp32"}),
        (3, {"ratio": 0.01, "values": "int8"}),
        (9, {"ratio": 0.01}),
        (2, {"ratio": 0.01, "reuse_threshold": True}),
        (2, {"ratio": 0.3}),  # all ranks send everything
        (2, {"ratio": 0.01, "error_feedback": False}),
        (3, {"ratio": 0.01, "special": True}),
    ],
)
def test_results_and_residuals_are_those_of_the_cpu(size: int, options: dict[str, Any]) -> None:
    expected = trained(size, set(), **options)
    for gpu_ranks in ({*range(size)}, {*range(1, size, 2)}):
        for got, wanted in zip(trained(size, gpu_ranks, **options), expected):
            for there, here in zip(got, wanted):
                np.testing.assert_array_equal(there.view(np.uint32), here.view(np.uint32))


def test_another_dtype_is_refused() -> None:
    def rank(comm: gradwire.Communicator) -> None:
        with pytest.raises(gradwire.ArgumentError, match="x must be float32, got float16"):
            GlobalTopK().all_reduce(comm, to_gpu(np.zeros(64, np.float16)))

    run_ranks(1, rank)
