"""Groups of the "gradwire" backend: within one another, with options, on a mesh, and their errors."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from process_groups import Op, ints, same
from scene import Scene, raises

import gradwire
import gradwire.torch

BACKEND = "gradwire"


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
