"""What every algorithm must do, for every collective, world size, count, dtype and op. Lossless results are
compared
bitwise with tests/reference.py. A new algorithm is tested here before its author writes a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import exact
import numpy as np
import pytest
import reference

from gradwire import Communicator, _native
from gradwire.testing import run_ranks

SIZES = [1, 2, 3, 4, 5, 8]
COUNTS = [0, 1, 31, 32, 33, 1021]
LARGE = 100_003
ALGORITHMS = [a["name"] for a in _native.algorithms()]
TRANSPORTS = ["inproc", "shm", "tcp"]

Case = tuple[str, str, int]  # dtype, op, count


def cases(large: bool) -> list[Case]:
    """Every dtype, op and count; the large count, where pipelining begins, for each dtype once."""
    found = [(dtype, op, count) for dtype, op in exact.cases() for count in COUNTS]
    if large:
        found += [(dtype, "sum", LARGE) for dtype in exact.DTYPES]
        found += [("float32", "avg", LARGE), ("float32", "max", 3 * LARGE)]
    return found


def supported(collective: str) -> list[Any]:
    return [
        pytest.param(algorithm, size, id=f"{algorithm}-{size}")
        for algorithm in [*ALGORITHMS, "auto"]
        for size in SIZES
        if algorithm == "auto" or _native.supports(algorithm, collective, size)
    ]


def inputs(case: Case, size: int) -> list[Any]:
    dtype, op, count = case
    return [exact.array(exact.values(count, op, r, dtype), dtype) for r in range(size)]


def same(results: list[Any], expected: Any, what: Any) -> None:
    """Every rank has exactly the expected bits."""
    wanted = exact.bits(expected)
    for rank, result in enumerate(results):
        if exact.bits(result) != wanted:
            got, want = exact.numbers(result).ravel(), exact.numbers(expected).ravel()
            at = int(np.flatnonzero(got != want)[0]) if got.shape == want.shape else -1
            pytest.fail(f"{what}: rank {rank} differs first at element {at}: {got[at]} instead of {want[at]}")


def copy_of(x: Any) -> Any:
    return x.copy() if isinstance(x, np.ndarray) else x.clone()


def run_all(
    size: int, todo: list[Case], call: Callable[[Communicator, Any, Case], Any], transport: str = "inproc"
) -> Iterator[tuple[Case, list[Any], list[Any]]]:
    """Runs every case on one communicator; yields (case, the ranks' inputs, the ranks' results)."""
    given = {case: inputs(case, size) for case in todo}

    def rank(comm: Communicator) -> list[Any]:
        return [call(comm, copy_of(given[case][comm.rank]), case) for case in todo]

    results = run_ranks(size, rank, transport)
    for i, case in enumerate(todo):
        yield case, given[case], [results[r][i] for r in range(size)]


@pytest.mark.parametrize(("algorithm", "size"), supported("all_reduce"))
def test_all_reduce_gives_every_rank_the_reference_bits(algorithm: str, size: int) -> None:
    def call(comm: Communicator, x: Any, case: Case) -> Any:
        y = comm.all_reduce(x, op=case[1], algorithm=algorithm)
        assert y is x, "all_reduce works in place and returns its argument"
        return y

    for case, xs, results in run_all(size, cases(large=size in (2, 3, 4)), call):
        same(results, reference.all_reduce(xs, case[1], case[0]), (algorithm, size, *case))


@pytest.mark.parametrize("transport", TRANSPORTS[1:])
@pytest.mark.parametrize(("algorithm", "size"), [(a, s) for a in ALGORITHMS for s in (2, 3)])
def test_all_reduce_is_the_same_over_every_transport(algorithm: str, size: int, transport: str) -> None:
    todo = [(d, "sum", c) for d in ("float32", "uint8") for c in (0, 1, 33, LARGE)] + [
        ("float32", "avg", 1021)
    ]

    def call(comm: Communicator, x: Any, case: Case) -> Any:
        return comm.all_reduce(x, op=case[1], algorithm=algorithm)

    for case, xs, results in run_all(size, todo, call, transport):
        same(results, reference.all_reduce(xs, case[1], case[0]), (algorithm, size, transport, *case))


@pytest.mark.parametrize("op", ["sum", "avg"])
@pytest.mark.parametrize(("algorithm", "size"), [p for p in supported("all_reduce") if p.values[0] != "auto"])
def test_sums_are_added_in_the_documented_order(algorithm: str, size: int, op: str) -> None:
    rng = np.random.default_rng(size)
    for count in (1, 33, 1021, LARGE):
        xs = [rng.standard_normal(count, np.float32) for _ in range(size)]
        results = run_ranks(
            size,
            lambda comm, xs=xs: comm.all_reduce(xs[comm.rank].copy(), op=op, algorithm=algorithm),  # type: ignore[misc]
        )
        same(results, reference.in_documented_order(xs, algorithm, op), (algorithm, size, op, count))


@pytest.mark.parametrize(("algorithm", "size"), supported("reduce_scatter"))
def test_reduce_scatter_gives_every_rank_its_share(algorithm: str, size: int) -> None:
    todo = [(d, o, c * size) for d, o, c in cases(large=False)] + [("float32", "sum", 20_001 * size)]

    def call(comm: Communicator, x: Any, case: Case) -> Any:
        return comm.reduce_scatter(x, op=case[1], algorithm=algorithm)

    for case, xs, results in run_all(size, todo, call):
        for rank, result in enumerate(results):
            wanted = reference.reduce_scatter(xs, case[1], case[0], rank)
            same([result], wanted, (algorithm, size, f"rank {rank}", *case))


@pytest.mark.parametrize(("algorithm", "size"), supported("all_gather"))
def test_all_gather_gives_every_rank_all_arrays_in_rank_order(algorithm: str, size: int) -> None:
    todo = [(d, "sum", c) for d in exact.DTYPES for c in COUNTS] + [("float32", "sum", 20_001)]

    def call(comm: Communicator, x: Any, case: Case) -> Any:
        return comm.all_gather(x, algorithm=algorithm)

    for case, xs, results in run_all(size, todo, call):
        assert tuple(results[0].shape) == (size, case[2])
        same(results, reference.all_gather(xs, case[0]), (algorithm, size, *case))


@pytest.mark.parametrize(("algorithm", "size"), supported("broadcast"))
def test_broadcast_gives_every_rank_the_roots_array(algorithm: str, size: int) -> None:
    todo = [(d, "sum", c) for d in exact.DTYPES for c in COUNTS] + [("float32", "sum", LARGE)]
    for root in {0, size - 1, size // 2}:

        def call(comm: Communicator, x: Any, case: Case, root: int = root) -> Any:
            return comm.broadcast(x, root=root, algorithm=algorithm)

        for case, xs, results in run_all(size, todo, call):
            same(results, xs[root], (algorithm, size, f"root {root}", *case))


@pytest.mark.parametrize("size", SIZES)
def test_all_to_all_delivers_part_r_to_rank_r(size: int) -> None:
    todo = [(d, "sum", c * size) for d in exact.DTYPES for c in (0, 1, 33)] + [
        ("float32", "sum", 20_001 * size)
    ]

    def call(comm: Communicator, x: Any, case: Case) -> Any:
        return comm.all_to_all(x)

    for case, xs, results in run_all(size, todo, call):
        for rank, result in enumerate(results):
            same([result], reference.all_to_all(xs, case[0], rank), (size, f"rank {rank}", *case))


@pytest.mark.parametrize("size", SIZES)
def test_nobody_leaves_a_barrier_before_the_last_has_come(size: int) -> None:
    import threading

    arrived: list[int] = []
    lock = threading.Lock()

    def rank(comm: Communicator) -> None:
        for step in range(1, 21):
            with lock:
                arrived.append(comm.rank)
            comm.barrier()
            with lock:
                assert len(arrived) >= step * size

    run_ranks(size, rank)
