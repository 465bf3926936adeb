"""What goes wrong is said in a typed error: who, where, what was expected; and what can be used then."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gradwire
from gradwire import Communicator
from gradwire.testing import Hub, run_ranks

F32 = np.float32


def read_only() -> Any:
    x = np.ones(8, F32)
    x.setflags(write=False)
    return x


BAD_CALLS: dict[str, tuple[Callable[[Communicator], Any], str]] = {
    "every second element": (lambda c: c.all_reduce(np.ones(16, F32)[::2]), "contiguous"),
    "a transposed matrix": (lambda c: c.all_reduce(np.ones((3, 4), F32).T), "contiguous"),
    "a read-only array": (lambda c: c.all_reduce(read_only()), "read-only"),
    "complex numbers": (lambda c: c.all_reduce(np.ones(4, np.complex64)), "dtype"),
    "booleans": (lambda c: c.all_reduce(np.ones(4, np.bool_)), "dtype"),
    "a list": (lambda c: c.all_reduce([1.0, 2.0]), "array"),
    "None": (lambda c: c.all_reduce(None), "array"),
    "foreign byte order": (lambda c: c.all_reduce(np.ones(4, ">f4")), "dtype"),
    "an unknown op": (lambda c: c.all_reduce(np.ones(4, F32), op="mean"), "avg"),
    "an average of integers": (lambda c: c.all_reduce(np.ones(4, np.int32), op="avg"), "float"),
    "an unknown algorithm": (lambda c: c.all_reduce(np.ones(4, F32), algorithm="star"), "ring"),
    "an unknown codec": (lambda c: c.all_reduce(np.ones(4, F32), codec="int7"), "int8"),
    "a codec of another type": (lambda c: c.all_reduce(np.ones(4, F32), codec=8), "codec"),
    "a lossy codec on integers": (lambda c: c.all_reduce(np.ones(4, np.int64), codec="int8"), "lossy"),
    "a lossy codec on a minimum": (lambda c: c.all_reduce(np.ones(4, F32), op="min", codec="int8"), "lossy"),
    "a lossy codec on a product": (lambda c: c.all_reduce(np.ones(4, F32), op="prod", codec="bf16"), "lossy"),
    "a residual without a codec": (
        lambda c: c.all_reduce(np.ones(4, F32), residual=np.ones(4, F32)),
        "residual",
    ),
    "a short residual": (
        lambda c: c.all_reduce(np.ones(4, F32), codec="int8", residual=np.ones(3, F32)),
        "residual",
    ),
    "a residual in fp64": (
        lambda c: c.all_reduce(np.ones(4, F32), codec="int8", residual=np.ones(4)),
        "residual",
    ),
    "a residual with gaps": (
        lambda c: c.all_reduce(np.ones(4, F32), codec="int8", residual=np.ones(8, F32)[::2]),
        "contiguous",
    ),
    "a share that does not divide": (lambda c: c.reduce_scatter(np.ones(7, F32)), "7"),
    "an out of another size": (lambda c: c.all_gather(np.ones(4, F32), np.ones(7, F32)), "8"),
    "an out of another dtype": (lambda c: c.all_gather(np.ones(4, F32), np.ones(8)), "dtype"),
    "all_to_all of an odd count": (lambda c: c.all_to_all(np.ones(7, F32)), "multiple"),
    "a root that is not there": (lambda c: c.broadcast(np.ones(4, F32), root=2), "root"),
    "sending to oneself": (lambda c: c.send(np.ones(4, F32), dst=c.rank), "rank"),
    "receiving from nobody": (lambda c: c.recv(np.ones(4, F32), src=-1), "rank"),
    "a timeout of nothing": (lambda c: c.all_reduce(np.ones(4, F32), timeout=0), "timeout"),
    "a negative timeout": (lambda c: c.all_reduce(np.ones(4, F32), timeout=-1), "timeout"),
    "a reconfigure to nowhere": (lambda c: c.reconfigure(rank=2, size=2), "rank"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_bad_argument_is_refused_and_the_communicator_stays_usable(name: str) -> None:
    call, word = BAD_CALLS[name]

    def rank(comm: Communicator) -> float:
        with pytest.raises(gradwire.ArgumentError, match=word):
            call(comm)
        return float(comm.all_reduce(np.ones(4, F32)).sum())

    assert run_ranks(2, rank) == [8.0, 8.0]


MISMATCHES: dict[
    str, tuple[Callable[[Communicator], Any], Callable[[Communicator], Any], tuple[str, str, str]]
] = {
    "count": (
        lambda c: c.all_reduce(np.ones(1000, F32)),
        lambda c: c.all_reduce(np.ones(1001, F32)),
        ("1000", "1001", "count"),
    ),
    "large counts": (
        lambda c: c.all_reduce(np.ones(10**5, F32)),
        lambda c: c.all_reduce(np.ones(3 * 10**5, F32)),
        ("100000", "300000", "count"),
    ),
    "dtype": (
        lambda c: c.all_reduce(np.ones(8, F32)),
        lambda c: c.all_reduce(np.ones(8, np.int32)),
        ("float32", "int32", "dtype"),
    ),
    "op": (
        lambda c: c.all_reduce(np.ones(8, F32)),
        lambda c: c.all_reduce(np.ones(8, F32), op="max"),
        ("sum", "max", "op"),
    ),
    "codec": (
        lambda c: c.all_reduce(np.ones(8, F32), algorithm="direct"),
        lambda c: c.all_reduce(np.ones(8, F32), codec="int8", algorithm="direct"),
        ("none", "int8", "codec"),
    ),
    "codec parameters": (
        lambda c: c.all_reduce(np.ones(8, F32), codec="int4(block=32)"),
        lambda c: c.all_reduce(np.ones(8, F32), codec="int4(block=64)"),
        ("block=32", "block=64", "codec"),
    ),
    "algorithm": (
        lambda c: c.all_reduce(np.ones(8, F32), algorithm="ring"),
        lambda c: c.all_reduce(np.ones(8, F32), algorithm="direct"),
        ("ring", "direct", "algorithm"),
    ),
    "order of calls": (
        lambda c: (c.all_reduce(np.ones(8, F32)), c.barrier()),
        lambda c: (c.barrier(), c.all_reduce(np.ones(8, F32))),
        ("all_reduce", "barrier", "collective"),
    ),
    "collective": (
        lambda c: c.broadcast(np.ones(8, F32), root=1),
        lambda c: c.all_reduce(np.ones(8, F32)),
        ("broadcast", "all_reduce", "collective"),
    ),
    "tag": (
        lambda c: c.send(np.ones(8, F32), dst=1, tag=1),
        lambda c: c.recv(np.ones(8, F32), src=0, tag=2),
        ("send", "send", "root, tag"),
    ),
}


@pytest.mark.parametrize("what", MISMATCHES)
def test_a_mismatch_is_an_error_on_both_sides_that_prints_both(what: str) -> None:
    first, second, words = MISMATCHES[what]
    start = time.monotonic()

    def rank(comm: Communicator) -> str:
        try:
            (first if comm.rank == 0 else second)(comm)
            comm.barrier()  # whoever sent and went on learns it here
        except gradwire.MismatchError as error:
            return str(error)
        pytest.fail("no error")

    for message in run_ranks(2, rank, timeout=10):
        assert words[0] in message and words[1] in message
        assert "rank 0" in message and "rank 1" in message
        assert f"They differ in: {words[2]}" in message
    assert time.monotonic() - start < 5, "found by a timeout, not by comparing"


def test_errors_are_also_the_builtin_kind_that_fits() -> None:
    pairs = [
        (gradwire.ArgumentError, ValueError),
        (gradwire.FrameError, ValueError),
        (gradwire.Timeout, TimeoutError),
        (gradwire.PeerLost, ConnectionError),
        (gradwire.RendezvousError, ConnectionError),
    ]
    for ours, builtin in pairs:
        assert issubclass(ours, builtin) and issubclass(ours, gradwire.GradwireError)


def test_an_error_survives_pickling_with_its_fields() -> None:
    error = gradwire.PeerLost("rank 3 died")
    error.rank, error.host, error.op, error.seq, error.step = 3, "node7", "all_reduce", 12, 4
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (gradwire.PeerLost, "rank 3 died", vars(error))


def test_a_killed_rank_is_named_and_the_survivors_regroup() -> None:
    hub = Hub()

    def rank(comm: Communicator) -> Any:
        assert float(comm.all_reduce(np.ones(100, F32))[0]) == 4.0  # works
        comm.barrier()
        if comm.rank == 2:
            hub.close(2)
            return None
        with pytest.raises(gradwire.PeerLost) as caught:
            comm.all_reduce(np.ones(100, F32))
        assert caught.value.rank == 2 and caught.value.host and caught.value.op == "all_reduce"
        with pytest.raises(gradwire.PeerLost):  # the first error stays
            comm.barrier()
        place = [0, 1, 3].index(comm.rank)
        assert comm.reconfigure(rank=place, size=3) is comm
        assert (comm.rank, comm.size, comm.epoch) == (place, 3, 1)
        x = comm.all_reduce(np.ones(100, F32), codec="int8")  # works again
        group = comm.split(color=0)
        assert group is not None and group.size == 3
        return float(x[0])

    assert run_ranks(4, rank, hub, timeout=20) == [3.0, 3.0, None, 3.0]


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_survivors_regroup_over_real_connections_and_take_in_a_newcomer(
    transport: str, tmp_path: Any
) -> None:
    store = f"file://{tmp_path}/again"
    finished = threading.Barrier(3)  # or the second call's error could reach a rank still inside the first

    def rank(comm: Communicator) -> float:
        comm.all_reduce(np.ones(10, F32))
        finished.wait(20)
        if comm.rank == 1:
            comm.close()  # leaves, and comes back as a newcomer that only knows the epoch
            fresh = gradwire.init(rank=2, size=3, store=store, epoch=1, transport=transport, timeout=20)
            result = float(fresh.all_reduce(np.ones(10, F32))[0])
            fresh.barrier()
            fresh.close()
            return result
        with pytest.raises(gradwire.PeerLost) as caught:
            for _ in range(100):
                comm.all_reduce(np.ones(10, F32))
        assert caught.value.rank == 1
        comm.reconfigure(rank=comm.rank // 2, size=3, store=store)
        result = float(comm.all_reduce(np.ones(10, F32))[0])
        comm.barrier()
        return result

    assert run_ranks(3, rank, transport, timeout=20) == [3.0] * 3


def test_a_silent_rank_is_named_within_the_timeout() -> None:
    hub = Hub()

    def rank(comm: Communicator) -> Any:
        comm.barrier()
        if comm.rank == 1:
            for other in (0, 2):
                hub.drop(1, other)
                hub.drop(other, 1)
            return None
        start = time.monotonic()
        with pytest.raises(gradwire.Timeout) as caught:
            comm.all_reduce(np.ones(100, F32), timeout=0.5)
        assert time.monotonic() - start < 2.5
        return caught.value.rank

    assert run_ranks(3, rank, hub) == [1, None, 1]


def test_a_late_rank_is_waited_for() -> None:
    hub = Hub()

    def rank(comm: Communicator) -> float:
        comm.barrier()
        if comm.rank == 0:
            hub.delay(0, 1, 0.1)
        return float(comm.all_reduce(np.ones(1000, F32), timeout=10)[0])

    assert run_ranks(2, rank, hub) == [2.0, 2.0]


def test_abort_reaches_every_rank_with_its_reason() -> None:
    def rank(comm: Communicator) -> str:
        comm.barrier()
        if comm.rank == 1:
            time.sleep(0.05)
            comm.abort("the loss is NaN")
        with pytest.raises(gradwire.Aborted) as caught:
            comm.all_reduce(np.ones(100, F32))
        assert caught.value.rank == 1
        return str(caught.value)

    assert all("the loss is NaN" in message for message in run_ranks(3, rank))


def test_leaving_the_block_by_an_exception_tells_the_others_why() -> None:
    def rank(comm: Communicator) -> Any:
        if comm.rank == 1:
            with pytest.raises(ZeroDivisionError), comm:
                raise ZeroDivisionError("batch 7")
            return None
        with pytest.raises(gradwire.Aborted, match="batch 7"):
            comm.all_reduce(np.ones(100, F32))

    run_ranks(2, rank)


def test_a_closed_communicator_says_so_and_close_may_be_repeated() -> None:
    comm = gradwire.init(rank=0, size=1)
    comm.close()
    comm.close()
    with pytest.raises(gradwire.Closed):
        comm.all_reduce(np.ones(4, F32))
    with pytest.raises(gradwire.Closed):
        comm.all_reduce(np.ones(4, F32), async_op=True)
    with pytest.raises(gradwire.ArgumentError, match="store"):
        comm.reconfigure(rank=0, size=1)


def test_operations_in_flight_end_with_an_error_when_the_communicator_closes() -> None:
    hub = Hub()

    def rank(comm: Communicator) -> None:
        if comm.rank == 0:
            work = comm.all_reduce(np.ones(100, F32), async_op=True)
            comm.close()
            with pytest.raises(gradwire.GradwireError):
                work.wait(timeout=5)

    run_ranks(2, rank, hub)
