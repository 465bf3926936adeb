"""Checks of the "gradwire" backend against a Gloo group of the same ranks. Values are small whole numbers,
whose sums are exact in every dtype, so that results must be equal bit for bit."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from scene import Scene

import gradwire
import gradwire.torch

BACKEND = "gradwire"
GLOO_DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int8, torch.uint8, torch.int32, torch.int64),
)
FURTHER_DTYPES = (
    *(torch.int16, torch.uint16, torch.uint32, torch.uint64),
    *(torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2),
)
ALL_DTYPES = (*GLOO_DTYPES, *FURTHER_DTYPES, torch.bool)
Op = dist.ReduceOp


@functools.cache
def gloo() -> Any:
    return dist.new_group(backend="gloo")


def ints_of(
    rank: int, shape: Any = (5, 3), dtype: torch.dtype = torch.float32, seed: int = 0
) -> torch.Tensor:
    g = torch.Generator().manual_seed(1000 * seed + rank)
    return torch.randint(0, 3, shape, generator=g).to(dtype)


def ints(scene: Scene, shape: Any = (5, 3), dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    return ints_of(scene.rank, shape, dtype, seed)


def same(a: Any, b: Any) -> None:
    if isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            same(x, y)
        return
    assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, b.dtype, a.shape, b.shape)
    if not torch.equal(bits(a), bits(b)):
        raise AssertionError(f"{a}\nis not\n{b}")


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.resolve_conj().contiguous().reshape(-1).view(torch.uint8)


def layouts(x: torch.Tensor) -> Iterator[torch.Tensor]:
    """The values of x: contiguous, transposed, with gaps, of no dimension, empty."""
    yield x.clone()
    yield x.clone().t().contiguous().t()
    gaps = torch.zeros(2 * x.shape[0], 2 * x.shape[1], dtype=x.dtype)
    gaps[::2, ::2] = x
    yield gaps[::2, ::2]
    yield x[0, 0].clone()
    yield x[:0].clone()


def raises(kind: type[BaseException], call: Any, *args: Any, **kw: Any) -> BaseException:
    try:
        call(*args, **kw)
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


# -- collectives ---------------------------------------------------------------------------------------------
def check_all_reduce_gives_gloos_bits_for_every_dtype_and_operator(scene: Scene) -> None:
    for dtype in GLOO_DTYPES:
        ops = [Op.SUM, Op.MIN, Op.MAX, Op.PRODUCT]
        ops += [] if dtype.is_floating_point else [Op.BAND, Op.BOR, Op.BXOR]
        for op in ops:
            for x in layouts(ints(scene, dtype=dtype)):
                want = x.clone()
                dist.all_reduce(want, op, group=gloo())
                dist.all_reduce(x, op)
                same(x, want)


def check_all_reduce_of_what_gloo_does_not_know(scene: Scene) -> None:
    n = scene.size
    everyone = [ints_of(r, dtype=torch.int64) for r in range(n)]
    total = torch.stack(everyone).sum(0)
    for dtype in (*FURTHER_DTYPES, torch.complex32):
        x = everyone[scene.rank].to(dtype)
        dist.all_reduce(x)
        same(x, total.to(dtype))
    flags = everyone[scene.rank].bool()
    every = torch.stack(everyone).bool()
    for ops, want in (
        ((Op.SUM, Op.MAX, Op.BOR), every.any(0)),
        ((Op.PRODUCT, Op.MIN, Op.BAND), every.all(0)),
        ((Op.BXOR,), every.sum(0) % 2 == 1),
    ):
        for op in ops:
            x = flags.clone()
            dist.all_reduce(x, op)
            same(x, want)
    for dtype in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8):  # only the sum overflows
        x = torch.full((3,), 100 + scene.rank, dtype=dtype)
        dist.all_reduce(x, Op.AVG)
        same(x, torch.full((3,), sum(100 + r for r in range(n)) // n, dtype=dtype))
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.complex64):
        x = (everyone[scene.rank] * n).to(dtype)
        dist.all_reduce(x, Op.AVG)
        same(x, total.to(dtype))
        for factor in (2.0, torch.tensor([2.0])):
            x = everyone[scene.rank].to(dtype)
            dist.all_reduce(x, dist._make_nccl_premul_sum(factor))
            same(x, (2 * total).to(dtype))
    assert "bool" in str(raises(RuntimeError, dist.all_reduce, flags.clone(), Op.AVG))
    assert "PREMUL" in str(
        raises(ValueError, dist.all_reduce, everyone[0].clone(), dist._make_nccl_premul_sum(2.0))
    )
    raises(RuntimeError, dist.all_reduce, torch.ones(2), Op.BXOR)


def check_sparse_tensors_are_reduced(scene: Scene) -> None:
    x = torch.eye(4)[scene.rank : scene.rank + 1].to_sparse()
    want = x.clone()
    dist.all_reduce(x)
    dist.all_reduce(want, group=gloo())
    same(x.to_dense(), want.to_dense())


def check_rooted_collectives(scene: Scene) -> None:
    for root in range(scene.size):
        for dtype in ALL_DTYPES:
            for i, x in enumerate(layouts(ints(scene, dtype=dtype, seed=root))):
                source = list(layouts(ints_of(root, dtype=dtype, seed=root)))
                dist.broadcast(x, src=root)
                same(x, source[i])
        for dtype in GLOO_DTYPES:
            for op in (Op.SUM, Op.MAX):
                x = ints(scene, dtype=dtype)
                mine, want = x.clone(), x.clone()
                dist.reduce(x, root, op)
                dist.reduce(want, root, op, group=gloo())
                same(x, want if scene.rank == root else mine)
        for dtype in ALL_DTYPES:
            x = ints(scene, dtype=dtype)
            parts = [torch.zeros_like(x) for _ in range(scene.size)] if scene.rank == root else None
            dist.gather(x.t(), None if parts is None else [p.t() for p in parts], dst=root)
            if parts is not None:
                same(parts, [ints_of(r, dtype=dtype) for r in range(scene.size)])
            out = torch.zeros_like(x)
            dist.scatter(out, parts, src=root)
            same(out, x)


def check_all_gather(scene: Scene) -> None:
    n = scene.size
    for dtype in ALL_DTYPES:
        of = [ints_of(r, dtype=dtype) for r in range(n)]
        x = of[scene.rank]
        outs = [torch.zeros_like(x) for _ in range(n)]
        dist.all_gather(outs, x)
        same(outs, of)
        outs = [torch.zeros(3, 5, dtype=dtype).t() for _ in range(n)]
        dist.all_gather(outs, x.t().contiguous().t())
        same(outs, of)
        flat = torch.zeros(n * 5, 3, dtype=dtype)
        dist.all_gather_into_tensor(flat, x)
        same(flat, torch.cat(of))
        stacked = torch.zeros(n, 5, 3, dtype=dtype)
        dist.all_gather_into_tensor(stacked, x)
        same(stacked, torch.stack(of))
        inside = torch.zeros(n * 5, 3, dtype=dtype)
        own = inside[5 * scene.rank : 5 * scene.rank + 5]
        own.copy_(x)
        dist.all_gather_into_tensor(inside, own)  # in place, as FSDP does
        same(inside, torch.cat(of))
        moved = torch.zeros(n * 5, 3, dtype=dtype)
        other = moved[:5] if scene.rank else moved[5 * n - 5 :]
        other.copy_(x)
        dist.all_gather_into_tensor(moved, other)  # overlaps elsewhere
        same(moved, torch.cat(of))
    uneven = [torch.zeros(r + 1) for r in range(n)]
    dist.all_gather(uneven, torch.full((scene.rank + 1,), float(scene.rank)))
    same(uneven, [torch.full((r + 1,), float(r)) for r in range(n)])
    lists = [[torch.zeros(2), torch.zeros(3)] for _ in range(n)]
    want = [[torch.full((2,), float(r)), torch.full((3,), 10.0 + r)] for r in range(n)]
    dist.all_gather_coalesced(lists, want[scene.rank])
    same(lists, want)


def check_reduce_scatter(scene: Scene) -> None:
    n = scene.size
    for dtype in (*GLOO_DTYPES, torch.bool, torch.int16, torch.complex64):
        ops = [Op.SUM] if dtype.is_complex else [Op.SUM, Op.MAX, Op.MIN, Op.PRODUCT]
        ops += [] if dtype.is_floating_point or dtype.is_complex else [Op.BXOR]
        for op in ops:
            x = ints(scene, (n * 4, 3), dtype)
            want = x.clone()
            dist.all_reduce(want, op)
            want = want[4 * scene.rank : 4 * scene.rank + 4]
            out = torch.zeros(4, 3, dtype=dtype)
            before = x.clone()
            dist.reduce_scatter_tensor(out, x, op)
            same(out, want)
            same(x, before)
            out = torch.zeros(3, 4, dtype=dtype).t()
            dist.reduce_scatter_tensor(out, x.t().contiguous().t(), op)
            same(out, want)
            out = torch.zeros(4, 3, dtype=dtype)
            dist.reduce_scatter(out, list(x.chunk(n)), op)
            same(out, want)
            own = x[4 * scene.rank : 4 * scene.rank + 4]
            dist.reduce_scatter_tensor(own, x, op)  # into its own input
            same(own, want)
    parts = [torch.full((r + 1,), float(scene.rank)) for r in range(n)]
    out = torch.zeros(scene.rank + 1)
    dist.reduce_scatter(out, parts)
    same(out, torch.full((scene.rank + 1,), float(sum(range(n)))))


def check_all_to_all(scene: Scene) -> None:
    n, me = scene.size, scene.rank
    for dtype in ALL_DTYPES:
        x = torch.arange(n * 2).view(n, 2).add(10 * me).remainder(7).to(dtype)
        out = torch.zeros_like(x)
        dist.all_to_all_single(out, x)
        rows = [torch.arange(n * 2).view(n, 2).add(10 * r).remainder(7)[me] for r in range(n)]
        same(out, torch.stack(rows).to(dtype))
        # rank s sends s + r rows to rank r
        rows = [torch.full((me + r, 2), 10 * me + r).remainder(7).to(dtype) for r in range(n)]
        got = [torch.zeros(me + s, 2, dtype=dtype) for s in range(n)]
        want = [torch.full((me + s, 2), 10 * s + me).remainder(7).to(dtype) for s in range(n)]
        dist.all_to_all(got, rows)
        same(got, want)
        splits = [me + r for r in range(n)]
        flat = torch.zeros(sum(splits), 2, dtype=dtype)
        dist.all_to_all_single(flat, torch.cat(rows), splits, splits)
        same(flat, torch.cat(want))
        strided = torch.zeros(2, flat.shape[0], dtype=dtype).t()
        dist.all_to_all_single(strided, torch.cat(rows).t().contiguous().t(), splits, splits)
        same(strided, torch.cat(want))
    raises(ValueError, dist.all_to_all_single, torch.zeros(n), torch.zeros(n), [1] * n, [2] * n)


def check_objects(scene: Scene) -> None:
    n, me = scene.size, scene.rank
    mine = {"rank": me, "data": [me] * (100 * me + 1)}
    everyone = [{"rank": r, "data": [r] * (100 * r + 1)} for r in range(n)]
    got: list[Any] = [None] * n
    dist.all_gather_object(got, mine)
    assert got == everyone
    got = [None] * n
    dist.gather_object(mine, got if me == n - 1 else None, dst=n - 1)
    assert me != n - 1 or got == everyone
    box: list[Any] = [mine]
    dist.broadcast_object_list(box, src=n - 1)
    assert box == [everyone[n - 1]]
    box = [None]
    dist.scatter_object_list(box, everyone if me == 0 else None, src=0)
    assert box == [mine]
    if n > 1 and me < 2:
        box = [mine]
        dist.send_object_list(box, 1) if me == 0 else dist.recv_object_list(box, 0)
        assert box == [everyone[0]]


# -- point to point ------------------------------------------------------------------------------------------
def check_point_to_point(scene: Scene) -> None:
    n, me = scene.size, scene.rank
    if n == 1:
        return
    right, left = (me + 1) % n, (me - 1) % n
    for dtype in ALL_DTYPES:
        x, y = ints(scene, dtype=dtype), torch.zeros(3, 5, dtype=dtype).t()
        request = dist.isend(x.t().contiguous().t(), right)
        dist.recv(y, left)
        request.wait()
        same(y, ints_of(left, dtype=dtype))
    # tags arrive in any order
    sends = [dist.isend(torch.full((2,), float(tag)), right, tag=tag) for tag in (3, 4)]
    got = torch.zeros(2), torch.zeros(2)
    dist.recv(got[1], left, tag=4)
    dist.recv(got[0], left, tag=3)
    same(got, [torch.full((2,), 3.0), torch.full((2,), 4.0)])
    for request in sends:
        request.wait()
    if me == 0:
        seen = set()
        for _ in range(n - 1):
            x = torch.zeros(1)
            source = dist.recv(x)  # from anybody
            assert x.item() == source
            seen.add(source)
        assert seen == set(range(1, n))
    else:
        dist.send(torch.tensor([float(me)]), 0)
    dist.barrier()  # what follows is for nobody but its receiver
    y = torch.zeros(4)
    batch = [dist.P2POp(dist.isend, torch.full((4,), float(me)), right), dist.P2POp(dist.irecv, y, left)]
    for request in dist.batch_isend_irecv(batch):
        request.wait()
    same(y, torch.full((4,), float(left)))


# -- asynchronous and coalesced ------------------------------------------------------------------------------
def check_asynchronous_works(scene: Scene) -> None:
    n = scene.size
    total = float(sum(range(n)))
    xs = [torch.full((7,), float(scene.rank)) for _ in range(20)]
    works = [dist.all_reduce(x, async_op=True) for x in xs]
    for work in reversed(works):
        assert work.wait() and work.is_completed() and work.is_success() and work.exception() is None
    same(xs, [torch.full((7,), total)] * 20)
    x = torch.full((7,), scene.rank, dtype=torch.int16)
    work = dist.all_reduce(x, async_op=True)
    (value,) = work.get_future().then(lambda f: [f.value()[0] * 2]).wait()
    same(value, torch.full((7,), 2 * int(total), dtype=torch.int16))
    same(work.result()[0], torch.full((7,), int(total), dtype=torch.int16))
    out = torch.zeros(7 * n)
    (got,) = dist.all_gather_into_tensor(out, torch.ones(7), async_op=True).get_future().wait()
    same(got, torch.ones(7 * n))
    assert dist.barrier(async_op=True).wait()


def check_coalesced(scene: Scene) -> None:
    n = scene.size
    sizes = [1, 5, 3000]
    total = float(sum(range(n)))
    xs = [torch.full((s,), float(scene.rank)) for s in sizes]
    dist.all_reduce_coalesced(xs)
    same(xs, [torch.full((s,), total) for s in sizes])
    for asynchronous in (False, True):
        xs = [torch.full((s,), float(scene.rank)) for s in sizes]
        with dist._coalescing_manager(async_ops=asynchronous) as manager:
            for x in xs:
                dist.all_reduce(x)
        if asynchronous:
            manager.wait()
        same(xs, [torch.full((s,), total) for s in sizes])
    outs = [torch.zeros(s * n) for s in sizes]
    with dist._coalescing_manager(async_ops=True) as manager:
        for out, s in zip(outs, sizes):
            dist.all_gather_into_tensor(out, torch.full((s,), float(scene.rank)))
    manager.wait()
    same(outs, [torch.arange(n).float().repeat_interleave(s) for s in sizes])
    outs = [torch.zeros(s) for s in sizes]
    with dist._coalescing_manager():
        for out, s in zip(outs, sizes):
            dist.reduce_scatter_tensor(out, torch.arange(n).float().repeat_interleave(s))
    same(outs, [torch.full((s,), float(n * scene.rank)) for s in sizes])
    xs = [torch.full((s,), float(scene.rank)) for s in sizes]
    with dist._coalescing_manager(device=torch.device("cpu"), async_ops=True) as manager:  # the old style
        for x in xs:
            dist.broadcast(x, src=n - 1)
    manager.wait()
    same(xs, [torch.full((s,), float(n - 1)) for s in sizes])


def check_functional_collectives(scene: Scene) -> None:
    import torch.distributed._functional_collectives as funcol

    n, me, group = scene.size, scene.rank, dist.group.WORLD
    x = torch.arange(2.0 * n) + me
    total = torch.arange(2.0 * n) * n + sum(range(n))
    same(funcol.all_reduce(x, "sum", group) + 0, total)
    same(funcol.all_reduce(x * n, "avg", group) + 0, total)
    same(funcol.all_gather_tensor(x, 0, group) + 0, torch.cat([torch.arange(2.0 * n) + r for r in range(n)]))
    same(funcol.reduce_scatter_tensor(x, "sum", 0, group) + 0, total[2 * me : 2 * me + 2])
    same(funcol.broadcast(x, n - 1, group) + 0, torch.arange(2.0 * n) + n - 1)
    got = funcol.all_to_all_single(x, [2] * n, [2] * n, group) + 0
    same(got, torch.cat([torch.arange(2.0) + 2 * me + r for r in range(n)]))
    same([t + 0 for t in funcol.all_reduce_coalesced([x, x + 1], "sum", group)], [total, total + n])
    gathered = funcol.all_gather_into_tensor_coalesced([x[:1], x[:2]], group)
    same(gathered[0] + 0, torch.arange(float(n)))
    scattered = funcol.reduce_scatter_tensor_coalesced([x], "sum", [0], group)
    same(scattered[0] + 0, total[2 * me : 2 * me + 2])


# -- groups --------------------------------------------------------------------------------------------------
def check_groups_within_groups(scene: Scene) -> None:
    n, me = scene.size, scene.rank
    assert dist.get_backend() == "gradwire" and dist.group.WORLD.name() == "gradwire"
    everyone = dist.new_group(backend="gradwire", group_desc="a second one")
    x = torch.full((3,), float(me))
    dist.all_reduce(x, group=everyone)
    same(x, torch.full((3,), float(sum(range(n)))))
    assert everyone.group_desc == "a second one" and everyone.group_name
    halves = [dist.new_group(list(range(i, n, 2)), backend="gradwire") for i in range(min(2, n))]
    mine = halves[me % 2 if n > 1 else 0]
    ranks = list(range(me % 2, n, 2))
    x = torch.full((3,), float(me))
    dist.all_reduce(x, group=mine)
    same(x, torch.full((3,), float(sum(ranks))))
    dist.broadcast(x, src=ranks[-1], group=mine)
    dist.barrier(group=mine)
    dist.destroy_process_group(mine)
    raises(ValueError, dist.all_reduce, x, group=mine)
    dist.all_reduce(x, group=everyone)
    dist.destroy_process_group(everyone)


def check_a_codec_only_where_the_options_say(scene: Scene) -> None:
    n = scene.size
    options = gradwire.torch.ProcessGroupOptions(codec="int8", algorithm="direct", transport="auto")
    coded = dist.new_group(backend="gradwire", pg_options=options)
    g = torch.Generator().manual_seed(5 + scene.rank)
    x = torch.randn(5000, generator=g)
    exact, got = x.clone(), x.clone()
    dist.all_reduce(exact)
    dist.all_reduce(got, group=coded)
    hashes: list[Any] = [None] * n
    dist.all_gather_object(hashes, got.tolist())
    assert all(h == hashes[0] for h in hashes)
    if n > 1:
        assert 0 < float((got - exact).norm() / exact.norm()) < 0.02
    want = x.clone()
    scene.comm.all_reduce(want, codec="int8", algorithm="direct")
    same(got, want)
    for dtype, numel, op in (
        (torch.float32, 1023, Op.SUM),
        (torch.float64, 5000, Op.SUM),
        (torch.int32, 5000, Op.SUM),
        (torch.float32, 5000, Op.MAX),
    ):
        a = ints(scene, (numel,), dtype)
        b = a.clone()
        dist.all_reduce(a, op, group=coded)
        dist.all_reduce(b, op)
        same(a, b)
    share = torch.zeros(2000)
    dist.reduce_scatter_tensor(share, torch.randn(2000 * n, generator=g), group=coded)
    work = dist.all_reduce(x, Op.AVG, group=coded, async_op=True)
    work.wait()
    assert float((x - exact / n).norm() / exact.norm()) < 0.02
    raises(ValueError, gradwire.torch.ProcessGroupOptions, codec="int9")
    dist.destroy_process_group(coded)


def check_a_mesh_dimension_may_have_the_backend_to_itself(scene: Scene) -> None:
    if scene.size != 4:
        return
    from torch.distributed.device_mesh import init_device_mesh

    options = gradwire.torch.ProcessGroupOptions(codec="bf16")
    mesh = init_device_mesh(
        "cpu",
        (2, 2),
        mesh_dim_names=("rep", "shard"),
        backend_override={"rep": ("gradwire", options), "shard": "gloo"},
    )
    assert dist.get_backend(mesh["rep"].get_group()) == "gradwire"
    assert dist.get_backend(mesh["shard"].get_group()) == "gloo"
    x = torch.full((2000,), float(scene.rank))
    dist.all_reduce(x, group=mesh["rep"].get_group())
    same(x, torch.full((2000,), float(scene.rank % 2 * 2 + 2)))


# -- errors --------------------------------------------------------------------------------------------------
def check_errors_are_torchs_and_ours(scene: Scene) -> None:
    raises(RuntimeError, dist.all_gather_into_tensor, torch.zeros(3 * scene.size + 1), torch.zeros(3))
    of_another = torch.zeros(3, dtype=torch.int32)
    raises(RuntimeError, dist.all_gather_into_tensor, torch.zeros(3 * scene.size), of_another)
    raises(ValueError, dist.reduce_scatter_tensor, torch.zeros(3), torch.zeros(3 * scene.size + 1))
    x = torch.ones(1)  # nothing was sent: the group still works
    dist.all_reduce(x)
    assert x.item() == scene.size
    if scene.size == 1:
        return
    late = dist.new_group(backend="gradwire", timeout=timedelta(seconds=1))
    if scene.rank == 0:
        error = raises(RuntimeError, dist.all_reduce, torch.ones(3), group=late)
        assert isinstance(error, gradwire.Timeout) and isinstance(error, dist.DistBackendError), repr(error)
        assert error.rank == 1
    dist.barrier()
    dist.destroy_process_group(late)
    late = dist.new_group(backend="gradwire", timeout=timedelta(seconds=1))
    if scene.rank == 0:
        future = dist.all_reduce(torch.ones(3), group=late, async_op=True).get_future()
        assert "all_reduce" in str(raises(RuntimeError, future.wait))
    dist.barrier()
    dist.destroy_process_group(late)
