"""Arrays from `comm.empty`, which peers read and write where they lie: the same bits as any other array, for
every collective, and no copies."""

from __future__ import annotations

import gc
import hashlib
import threading
from collections.abc import Callable
from typing import Any

import exact
import numpy as np
import pytest
import reference

import gradwire
from gradwire import Communicator, _native, arrays
from gradwire.testing import run_ranks

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

COUNTS = [0, 1021, 20_000]  # the last is worth lending at every size
MESSAGE = _native.HEADER_BYTES + 24  # that lends: the place of the value follows the header
Call = Callable[[Communicator, Any], Any]


def shared(comm: Communicator, like: Any) -> Any:
    """The same values in shared memory, at an odd offset."""
    dtype = like.dtype
    whole = comm.empty(like.size + 3 if isinstance(like, np.ndarray) else like.numel() + 3, dtype)
    x = whole[3:]
    x[:] = like.reshape(-1)
    return x


def collectives(size: int) -> dict[str, Call]:
    """Every collective under every algorithm that has it; each takes size * n elements."""
    calls: dict[str, Call] = {}
    for a in [a["name"] for a in _native.algorithms()] + ["auto"]:
        for c in ("all_reduce", "broadcast", "reduce_scatter", "all_gather"):
            if a != "auto" and not _native.supports(a, c, size):
                continue
            more = {"root": size - 1} if c == "broadcast" else {}
            calls[f"{c} {a}"] = lambda comm, x, c=c, a=a, more=more: getattr(comm, c)(  # type: ignore[misc]
                x, algorithm=a, **more
            )
    calls["all_to_all"] = lambda comm, x: comm.all_to_all(x)
    calls["all_reduce int8"] = lambda comm, x: (
        comm.all_reduce(x, codec="int8") if str(x.dtype).endswith("float32") else x
    )
    return calls


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
def test_results_have_the_bits_of_ordinary_arrays(size: int) -> None:
    def rank(comm: Communicator) -> list[str]:
        wrong = []
        for count in COUNTS:
            x = np.random.default_rng([count, comm.rank]).standard_normal(count * size).astype(np.float32)
            for what, call in collectives(size).items():
                wanted = call(comm, x.copy())
                # ordinary on some ranks: nobody needs to know what the others have
                for mine in (True, comm.rank % 2 == 0):
                    got = call(comm, shared(comm, x) if mine else x.copy())
                    if exact.bits(got) != exact.bits(wanted):
                        wrong.append(f"{what}, {count} elements, rank {comm.rank}, shared here: {mine}")
        return wrong

    assert [what for of_rank in run_ranks(size, rank) for what in of_rank] == []


@pytest.mark.parametrize("transport", ["inproc", "shm", "tcp"])
def test_every_dtype_and_op_gives_the_reference_bits_over_every_transport(transport: str) -> None:
    todo = [(dtype, op, count) for dtype, op in exact.cases() for count in (33, 8191)]

    def rank(comm: Communicator) -> list[Any]:
        results = []
        for dtype, op, count in todo:
            x = shared(comm, exact.array(exact.values(count, op, comm.rank, dtype), dtype))
            results.append(exact.bits(comm.all_reduce(x, op=op)))
        return results

    results = run_ranks(3, rank, transport)
    for i, (dtype, op, count) in enumerate(todo):
        xs = [exact.array(exact.values(count, op, r, dtype), dtype) for r in range(3)]
        wanted = exact.bits(reference.all_reduce(xs, op, dtype))
        assert all(of_rank[i] == wanted for of_rank in results), (dtype, op, count)


@pytest.mark.parametrize("size", [2, 4])
def test_nothing_but_headers_is_sent(size: int) -> None:
    def rank(comm: Communicator) -> dict[str, int]:
        x, out = comm.empty(size * 100_000), comm.empty(size * 100_000)
        x[:] = 1
        sent = {}
        calls: dict[str, Callable[[], Any]] = {
            "all_reduce": lambda: comm.all_reduce(x, algorithm="direct"),
            "async": lambda: comm.all_reduce(x, algorithm="direct", async_op=True).wait(),
            "reduce_scatter": lambda: comm.reduce_scatter(x, algorithm="direct"),
            "all_gather": lambda: comm.all_gather(x[:100_000], out, algorithm="direct"),
            "broadcast": lambda: comm.broadcast(x),
            "all_to_all": lambda: comm.all_to_all(x, out),
            "send": lambda: comm.send(x, 1) if comm.rank == 0 else comm.rank == 1 and comm.recv(x, 0),
        }
        for name, call in calls.items():
            before = comm.stats()["bytes_sent"]
            call()
            sent[name] = comm.stats()["bytes_sent"] - before
        return sent

    for sent in run_ranks(size, rank, "shm"):
        # to every peer, for every 16 KiB at least: a header and the place of the value
        messages = (size - 1) * -(-size * 400_000 // (16 << 10))
        assert max(sent.values()) <= messages * MESSAGE, sent
        assert all(nbytes % MESSAGE == 0 for nbytes in sent.values()), sent


@pytest.mark.parametrize("size", [2, 3])
def test_an_array_may_be_changed_as_soon_as_the_call_returns(size: int) -> None:
    def rank(comm: Communicator) -> bool:
        x, y = comm.empty(50_000, "int32"), np.empty(50_000, np.int32)
        gathered = np.empty((size, 50_000), np.int32)
        right = True
        for step in range(60):
            x[:] = 10 * step + comm.rank
            comm.all_gather(x, gathered)
            x[:] = -1
            right &= all((gathered[r] == 10 * step + r).all() for r in range(size))
            x[:] = step
            if comm.rank == 0:
                comm.send(x, 1)
                x[:] = -1
            elif comm.rank == 1:
                comm.recv(y, 0)
                right &= bool((y == step).all())
        return right

    assert all(run_ranks(size, rank, "shm"))


def test_arrays_outlive_communicators_and_serve_others() -> None:
    kept: list[Any] = [None, None]

    def first(comm: Communicator) -> None:
        kept[comm.rank] = comm.empty(30_000)
        kept[comm.rank][:] = comm.rank + 1
        comm.all_reduce(kept[comm.rank])

    def second(comm: Communicator) -> int:
        comm.all_reduce(kept[comm.rank])
        return comm.stats()["bytes_sent"]

    run_ranks(2, first, "shm")
    assert all((x == 3).all() for x in kept)
    assert max(run_ranks(2, second, "shm")) < 10_000
    assert all((x == 6).all() for x in kept)


def test_arrays_come_and_go_while_peers_map_them() -> None:
    def rank(comm: Communicator) -> tuple[str, int]:
        digest = hashlib.sha256()
        random = np.random.default_rng(7)  # the same sizes on every rank, in other places
        held: list[Any] = []
        for step in range(60):
            x = comm.empty(int(random.integers(2000, 60_000)))
            x[:] = np.arange(x.size) % 97 + comm.rank * step
            digest.update(comm.all_reduce(x).tobytes())
            held.append(x)
            if step % (2 + comm.rank) == 0:
                held.pop(0)
        return digest.hexdigest(), comm.stats()["shared_bytes"]

    gc.collect()
    before = gradwire.init(rank=0, size=1).stats()["shared_bytes"]
    results = run_ranks(3, rank, "shm")
    assert len({digest for digest, _ in results}) == 1
    assert min(held for _, held in results) > before
    gc.collect()
    assert gradwire.init(rank=0, size=1).stats()["shared_bytes"] == before


def test_after_a_failure_the_arrays_are_this_ranks_alone() -> None:
    hub = gradwire.testing.Hub()
    survivor_is_through = threading.Event()  # else its first call may lose the peer already

    def rank(comm: Communicator) -> tuple[bool, bool]:
        x, other = comm.empty(100_000), comm.empty(100_000)
        x[:] = other[:] = 1
        comm.all_reduce(x)
        if comm.rank == 1:
            assert survivor_is_through.wait(timeout=30)
            hub.close(1)
            return True, True
        survivor_is_through.set()
        with pytest.raises(gradwire.PeerLost):
            comm.all_reduce(x, timeout=10)
        x[:] = 5
        return arrays.is_shared(x), arrays.is_shared(other)

    assert run_ranks(2, rank, hub)[0] == (False, True)


def test_wrong_shapes_and_dtypes_are_refused() -> None:
    comm = gradwire.init(rank=0, size=1)
    with pytest.raises(gradwire.ArgumentError, match="complex64"):
        comm.empty(3, "complex64")
    with pytest.raises(gradwire.ArgumentError, match="negative"):
        comm.empty((3, -1))
    with pytest.raises(gradwire.ArgumentError, match="ml_dtypes"):
        comm.empty(3, "bfloat16")
    with pytest.raises(MemoryError):
        comm.empty(1 << 50, "uint8")
    assert comm.empty((0, 3)).shape == (0, 3)
    assert comm.empty((2, 3), np.int64).dtype == np.int64


@pytest.mark.skipif(torch is None, reason="needs torch")
def test_tensors_and_views_of_them_share_the_memory() -> None:
    def rank(comm: Communicator) -> tuple[bool, int]:
        flat = comm.empty(60_000, torch.bfloat16)
        flat.fill_(comm.rank + 1)
        from_numpy = torch.from_numpy(comm.empty(60_000))
        from_numpy.fill_(comm.rank + 1)
        layer = torch.nn.Linear(200, 100, bias=False)
        layer.weight.grad = comm.empty((100, 200), torch.float32).fill_(comm.rank + 1)
        before = comm.stats()["bytes_sent"]
        for x in (flat, from_numpy, layer.weight.grad, flat[10_000:50_000]):
            comm.all_reduce(x)
        right = flat[0] == 3 and flat[20_000] == 6 and from_numpy[-1] == 3 and layer.weight.grad[3, 3] == 3
        return bool(right), comm.stats()["bytes_sent"] - before

    for right, sent in run_ranks(2, rank, "shm"):
        assert right and sent < 20_000
