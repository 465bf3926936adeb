"""What torch builds on a process group, on the "gradwire" backend: results equal to the same on Gloo."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
from process_groups import gloo
from scene import MLP, Scene, assert_same, grads
from torch import nn
from torch.nn.parallel import DistributedDataParallel

BACKEND = "gradwire"


def meshes(scene: Scene) -> tuple[Any, Any]:
    from torch.distributed.device_mesh import DeviceMesh

    return DeviceMesh.from_group(dist.group.WORLD, "cpu"), DeviceMesh.from_group(gloo(), "cpu")


def both_ways(scene: Scene, wrap: Any, steps: int = 3) -> None:
    """Trains one model over each group; two ranks add in one order, so that the bits are equal."""
    ends = []
    for mesh in meshes(scene):
        torch.manual_seed(1)
        model = wrap(MLP(), mesh)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(steps):
            optimizer.zero_grad()
            model(scene.batch(step)).square().mean().backward()
            optimizer.step()
        full = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
        ends.append([p.detach().clone() for p in full])
    for a, b in zip(*ends):
        assert torch.equal(a, b), float((a - b).abs().max())


# -- data parallel -------------------------------------------------------------------------------------------
def check_ddp_without_a_hook(scene: Scene) -> None:
    base = MLP()
    for options in ({}, {"bucket_cap_mb": 0.005}, {"find_unused_parameters": True}, {"static_graph": True},
                    {"gradient_as_bucket_view": True}):  # fmt: skip
        a = DistributedDataParallel(copy.deepcopy(base), **options)
        b = DistributedDataParallel(copy.deepcopy(base), process_group=gloo(), **options)
        for step in range(3):
            for m in (a, b):
                m.zero_grad()
                m(scene.batch(step)).square().mean().backward()
            assert_same(grads(a.module), grads(b.module))


def check_ddp_with_buffers_and_torchs_hooks(scene: Scene) -> None:
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    net = nn.Sequential(nn.Linear(32, 8), nn.BatchNorm1d(8), nn.Linear(8, 32))
    nets = [DistributedDataParallel(copy.deepcopy(net), process_group=g) for g in (None, gloo())]
    for m, group in zip(nets, (None, gloo())):
        m.register_comm_hook(group, default_hooks.fp16_compress_hook)
    for step in range(3):
        for m in nets:
            m.zero_grad()
            m(scene.batch(step, (8, 32))).square().mean().backward()
        assert_same(grads(nets[0].module), grads(nets[1].module))
    m = DistributedDataParallel(MLP())
    state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
    m.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    for step in range(4):
        m(scene.batch(step)).square().mean().backward()
    scene.same_everywhere(m)


def check_our_hook_beside_it(scene: Scene) -> None:
    import gradwire.torch

    m = DistributedDataParallel(MLP())
    with gradwire.torch.attach(m, "int8", min_numel=64):
        m(scene.batch(0)).square().mean().backward()
    scene.same_everywhere(m)


def check_join_and_zero_redundancy(scene: Scene) -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    m = DistributedDataParallel(MLP())
    optimizer = ZeroRedundancyOptimizer(m.parameters(), torch.optim.Adam, lr=1e-3)
    with m.join():
        for step in range(1 + scene.rank):
            optimizer.zero_grad()
            m(scene.batch(step)).square().mean().backward()
    optimizer.step()
    scene.same_everywhere(m)


def check_fully_shard(scene: Scene) -> None:
    from torch.distributed.fsdp import fully_shard

    def wrap(model: Any, mesh: Any) -> Any:
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    both_ways(scene, wrap)


def check_fsdp1(scene: Scene) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

    for strategy in (ShardingStrategy.FULL_SHARD, ShardingStrategy.NO_SHARD):
        ends = []
        for group in (dist.group.WORLD, gloo()):
            torch.manual_seed(1)
            model = FullyShardedDataParallel(
                MLP(), process_group=group, sharding_strategy=strategy, device_id=torch.device("cpu")
            )
            model(scene.batch(0)).square().mean().backward()
            model.clip_grad_norm_(0.01)
            ends.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        for a, b in zip(*ends):
            assert torch.equal(a, b)


# -- tensors in parallel -------------------------------------------------------------------------------------
def check_tensor_parallel_styles(scene: Scene) -> None:
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    def wrap(model: Any, mesh: Any) -> Any:
        return parallelize_module(model, mesh, {"layers.0": ColwiseParallel(), "layers.1": RowwiseParallel()})

    both_ways(scene, wrap)
    norm = nn.Sequential(nn.LayerNorm(32))
    for mesh in meshes(scene):
        model = parallelize_module(copy.deepcopy(norm), mesh, {"0": SequenceParallel()})
        y = model(torch.ones(2, 4, 32))
        assert torch.equal(y.full_tensor(), norm(torch.ones(2, 4 * scene.size, 32)))  # the input is a shard


def check_dtensor_redistributes(scene: Scene) -> None:
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    mesh, _ = meshes(scene)
    whole = torch.arange(64.0).view(8, 8)
    rows = distribute_tensor(whole, mesh, [Shard(0)])
    assert torch.equal(rows.full_tensor(), whole)
    columns = rows.redistribute(placements=[Shard(1)]).to_local()
    assert torch.equal(columns, whole.chunk(scene.size, 1)[scene.rank])
    assert torch.equal(rows.redistribute(placements=[Replicate()]).to_local(), whole)
    part = DTensor.from_local(whole, mesh, [Partial()])
    assert torch.equal(part.full_tensor(), whole * scene.size)
    assert torch.equal(part.redistribute(placements=[Shard(0)]).full_tensor(), whole * scene.size)


def check_torch_compile(scene: Scene) -> None:
    import torch.distributed._functional_collectives as funcol

    group = dist.group.WORLD

    @torch.compile(fullgraph=True, backend="aot_eager")
    def f(x: torch.Tensor) -> torch.Tensor:
        y = funcol.all_reduce(x * 2, "sum", group)
        z = funcol.all_gather_tensor(y, 0, group)
        return funcol.reduce_scatter_tensor(z, "sum", 0, group)

    x = torch.ones(4) * (scene.rank + 1)
    assert torch.equal(f(x), torch.full((4,), 2.0 * scene.size * sum(range(1, scene.size + 1))))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def g(x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        dist.all_reduce(y)
        return y

    assert torch.equal(g(torch.zeros(4)), torch.full((4,), float(scene.size)))


# -- checkpoints ---------------------------------------------------------------------------------------------
def check_distributed_checkpoints(scene: Scene) -> None:
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
    from torch.distributed.fsdp import fully_shard

    mesh, _ = meshes(scene)
    torch.manual_seed(3)
    saved = fully_shard(MLP(), mesh=mesh)
    want = get_model_state_dict(saved)
    dcp.save(want, checkpoint_id=scene.folder / "dcp")
    dcp.async_save(want, checkpoint_id=scene.folder / "dcp-async").result()
    for folder in ("dcp", "dcp-async"):
        torch.manual_seed(4)
        fresh = fully_shard(MLP(), mesh=mesh)
        state = get_model_state_dict(fresh)
        dcp.load(state, checkpoint_id=scene.folder / folder)
        set_model_state_dict(fresh, state)
        for a, b in zip(saved.parameters(), fresh.parameters()):
            assert torch.equal(a.full_tensor(), b.full_tensor())


# -- the rest ------------------------------------------------------------------------------------------------
def check_many_small_all_reduces_never_lock_up(scene: Scene) -> None:
    """Futures, tensors that die at once, and Gloo's own threads beside: what hangs where an operation
    reaches torch's C++ with the GIL held."""
    total = float(sum(range(1, scene.size + 1)))
    import torch.distributed._functional_collectives as funcol

    for i in range(100):
        x = torch.full((3,), float(scene.rank + 1))
        future = dist.all_reduce(x, async_op=True).get_future()
        y = funcol.all_reduce(torch.full((2,), float(scene.rank + 1)), "sum", dist.group.WORLD)
        z = torch.full((2,), 1 << scene.rank)
        dist.all_reduce(z, dist.ReduceOp.BOR, async_op=i % 2 == 0)  # not even waited for
        assert float((y + 0)[0]) == total and float(future.wait()[0][0]) == total
