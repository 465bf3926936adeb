"""Reductions of the "gradwire" backend: every operator, dtype and layout, with Gloo's bits."""

from __future__ import annotations

import torch
import torch.distributed as dist
from process_groups import FURTHER_DTYPES, GLOO_DTYPES, Op, gloo, ints, ints_of, layouts, same
from scene import Scene, raises

BACKEND = "gradwire"


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
