"""The parity matrix on eight ranks: HSDP, and tensor x pipeline x data parallelism, 2 of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from parity import (
    ROWS,
    STEP,
    WIDTH,
    Ball,
    Linears,
    Model,
    assert_averages,
    assert_bitwise,
    assert_within,
    average_is_off_by,
    backward,
    codec_of,
    draw,
    sharded,
)
from scene import Scene
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.nn.parallel import DistributedDataParallel

import gradwire
from gradwire.torch import ColumnParallelLinear, RowParallelLinear, fsdp

# With as many microbatches as stages DDP of torch 2.13 does not survive its first step in a pipeline.
AXES, MICROBATCHES = ("pp", "dp", "tp"), 4


def row_hsdp(scene: Scene, codec: str, dtype: str) -> None:
    """4 replicas of 2 shards: a coded reduce_scatter, then a coded all_reduce of its result."""
    mesh = init_device_mesh("cpu", (4, 2), mesh_dim_names=("replicate", "shard"))
    model, plain = sharded(Model(dtype), mesh), sharded(Model(dtype), mesh)
    chosen = codec_of(codec)
    with fsdp.apply(model, reduce_scatter=chosen, all_reduce=chosen, min_numel=0):
        for m in (model, plain):
            backward(m, scene.rank, dtype)
        assert_averages(model, plain, codec, dtype, levels=2)
        for name, p in model.named_parameters():
            local: Any = p.grad
            everyone = local.to_local().double().clone()
            dist.all_reduce(everyone, group=mesh.get_group("replicate"))
            assert_bitwise(everyone, 4 * local.to_local().double(), f"{name}: replicas")
        dist.barrier()  # nobody closes what another still needs


class Reduce(torch.autograd.Function):
    """The sums of tensor parallelism by torch's own all_reduce: of the output, or of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any, forth: bool) -> torch.Tensor:
        ctx.group, ctx.forth = group, forth
        x = x.clone()
        if forth:
            dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad = grads[0].clone()
        if not ctx.forth:
            dist.all_reduce(grad, group=ctx.group)
        return grad, None, None


class TorchsOwn(nn.Module):
    def __init__(self, whole: Linears, group: Any) -> None:
        super().__init__()
        self.group, n, r = group, group.size(), group.rank()
        self.up, self.down = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.up.weight = nn.Parameter(whole.up.weight.detach().chunk(n, 0)[r].clone())
        self.down.weight = nn.Parameter(whole.down.weight.detach().chunk(n, 1)[r].clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = Reduce.apply(x, self.group, False)
        return Reduce.apply(self.down(self.up(x)), self.group, True)


class Ours(nn.Module):
    def __init__(self, whole: Linears, layers: dict[str, Any]) -> None:
        super().__init__()
        self.up = ColumnParallelLinear.from_linear(whole.up, **layers)
        self.down = RowParallelLinear.from_linear(whole.down, **layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x)[0])[0]


def batch(replica: int, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    rows = MICROBATCHES * ROWS
    return draw(replica, dtype, rows, WIDTH), draw(50 + replica, dtype, rows, WIDTH)


def loss(out: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    return (out * direction).float().sum() * 16


def gradients(mesh: Any, module: nn.Module, dtype: str, attach: Callable[[Any], Any], link: Any) -> Any:
    """Of this rank's share of its stage, in a second step. attach: averages a DDP model; link: a stage."""
    index = mesh.get_local_rank("pp")
    ddp = DistributedDataParallel(module, process_group=mesh.get_group("dp"))
    attach(ddp)
    stage = PipelineStage(ddp, index, 2, torch.device("cpu"), group=mesh.get_group("pp"))
    link(stage)
    x, direction = batch(mesh.get_local_rank("dp"), dtype)
    schedule = Schedule1F1B(stage, MICROBATCHES, loss_fn=loss, scale_grads=False)
    for _ in range(2):  # in a first step torch 2.13 averages after the first microbatch, too
        ddp.zero_grad()
        schedule.step(*([x] if index == 0 else []), target=direction)
    return module.up.weight.grad, module.down.weight.grad


def row_tp_pp_dp(scene: Scene, codec: str, dtype: str) -> None:
    mesh = init_device_mesh("cpu", (2, 2, 2), mesh_dim_names=AXES)
    at = {axis: mesh.get_local_rank(axis) for axis in AXES}
    whole = [Linears(7, dtype), Linears(8, dtype)]
    chosen = codec_of(codec)
    policy = gradwire.policy(mesh, pp=chosen, dp=chosen, tp=chosen)
    options = {"min_numel": 1, "error_feedback": False}
    ours = gradients(
        mesh,
        Ours(whole[at["pp"]], policy["tp"].layers),
        dtype,
        lambda ddp: policy["dp"].attach(ddp, **options),
        policy["pp"].pipeline,
    )
    plain = gradients(
        mesh,
        TorchsOwn(whole[at["pp"]], mesh.get_group("tp")),
        dtype,
        lambda ddp: None,
        lambda stage: None,
    )
    alone = in_one_process(whole, codec, dtype)[at["pp"]]
    for name, got, want, ball, dim in zip(("up", "down"), ours, plain, alone, (0, 1)):
        mine = Ball(*(t.chunk(2, dim)[at["tp"]] for t in (ball.value, ball.radius)))
        if codec == "none":
            assert_bitwise(got, want, f"{name}, beside torch's own")
            if dtype == "float32":
                assert_within(got, mine.value, 1e-6 * mine.most, f"{name}, beside one process")
        else:
            mine.assert_holds(got, dtype, name)
            assert not torch.equal(got, want), f"{name} lost nothing: was the codec used?"
        # replicas hold the same bits
        twin = got.double().clone()
        dist.all_reduce(twin, group=mesh.get_group("dp"))
        assert_bitwise(twin, 2 * got.double(), f"{name}: replicas")
    if codec != "none":
        assert all(row.ratio > 1.5 for row in policy.table().rows if row.calls), policy.table()
    dist.barrier()
    policy.close()


def in_one_process(whole: list[Linears], codec: str, dtype: str) -> list[tuple[Ball, ...]]:
    """Both stages' weight gradients, and how far off the coded ones may be: the errors of links, of sums
    inside layers and of the average over replicas, each carried on to wherever it goes."""
    step = STEP[codec]
    maps = [(Ball.exact(m.up.weight.detach().mT), Ball.exact(m.down.weight.detach().mT)) for m in whole]
    averaged = []
    for replica in range(2):
        sums: list[list[Ball]] = [[], []]
        for x, direction in zip(*(t.chunk(MICROBATCHES) for t in batch(replica, dtype))):
            entered, inside, ball = [], [], Ball.exact(x)
            for i, (up, down) in enumerate(maps):
                ball = ball.encoded(step) if i else ball
                entered.append(ball)
                inside.append(ball.times(up))
                ball = summed(inside[-1], down, step)
            grad = Ball.exact(direction * 16)
            for i in (1, 0):
                up, down = maps[i]
                hidden = grad.times(down.mT)
                found = (hidden.mT.times(entered[i]), grad.mT.times(inside[i]))
                sums[i] = [plus(a, b) for a, b in zip(sums[i], found)] if sums[i] else list(found)
                if i:
                    grad = summed(hidden, up.mT, step).encoded(step)
        averaged.append(sums)
    return [averages(a, b, step) for a, b in zip(*averaged)]


def summed(x: Ball, weight: Ball, step: float) -> Ball:
    """x W by two ranks, each with half of the inner dimension, summed coded."""
    xs = [Ball(v, r) for v, r in zip(x.value.chunk(2, 1), x.radius.chunk(2, 1))]
    ws = [Ball(v, r) for v, r in zip(weight.value.chunk(2, 0), weight.radius.chunk(2, 0))]
    return Ball.coded_sum([a.times(w) for a, w in zip(xs, ws)], step)


def plus(a: Ball, b: Ball) -> Ball:
    return Ball(a.value + b.value, a.radius + b.radius)


def averages(ours: list[Ball], theirs: list[Ball], step: float) -> tuple[Ball, ...]:
    """Over two replicas; a block of the codec may hold elements of both weights."""
    off = average_is_off_by(max(ball.most for ball in (*ours, *theirs)), step)
    return tuple(Ball(s.value / 2, s.radius / 2 + off) for s in map(plus, ours, theirs))
