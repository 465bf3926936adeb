"""The parity matrix on eight ranks: FSDP2 or HSDP along one axis, tensor parallelism along another."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from parity import (
    ROUNDING,
    ROWS,
    STEP,
    WIDTH,
    Ball,
    Linears,
    assert_bitwise,
    assert_within,
    average_is_off_by,
    backward,
    codec_of,
    draw,
)
from parity_eight import plus, summed
from parity_two import our_styles, torch_styles
from scene import Scene
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import parallelize_module

from gradwire.torch import fsdp

DATA = 4  # groups of 2 tensor-parallel ranks


def cut(whole: list[Linears], styles: dict[str, Any], tensor: Any, data: Any) -> Any:
    for module in whole:
        fully_shard(parallelize_module(module, tensor, styles), mesh=data)
    return fully_shard(nn.Sequential(*whole), mesh=data)


def weights(dtype: str) -> list[Linears]:
    return [Linears(7, dtype), Linears(8, dtype)]


def row_fsdp2_tp(scene: Scene, codec: str, dtype: str) -> None:
    mesh = init_device_mesh("cpu", (DATA, 2), mesh_dim_names=("dp", "tp"))
    sharded_and_tensor_parallel(scene, codec, dtype, mesh["tp"], mesh["dp"])


def row_hsdp_tp(scene: Scene, codec: str, dtype: str) -> None:
    """Everywhere two: without a codec there is one order of adding."""
    mesh = init_device_mesh("cpu", (2, 2, 2), mesh_dim_names=("replicate", "shard", "tp"))
    sharded_and_tensor_parallel(scene, codec, dtype, mesh["tp"], mesh["replicate", "shard"])


def sharded_and_tensor_parallel(scene: Scene, codec: str, dtype: str, tensor: Any, data: Any) -> None:
    plain = cut(weights(dtype), torch_styles(sequence=False), tensor, data)
    ours = cut(weights(dtype), our_styles(codec_of(codec), sequence=False), tensor, data)
    chosen = codec_of(codec)
    with fsdp.apply(ours, chosen, None, chosen, min_numel=0):
        for model in (plain, ours):
            backward(model, scene.rank // 2, dtype)
        lost = 0.0
        balls = in_one_process(weights(dtype), STEP[codec], dtype, data.ndim)
        for (name, p), q, ball in zip(ours.named_parameters(), plain.parameters(), balls):
            grads: Any = (p.grad, q.grad)
            got, want = (g.full_tensor() for g in grads)
            if codec == "none" and data.ndim == 2:
                assert_bitwise(got, want, f"{name}, beside torch's own")
            if codec == "none" and dtype == "float32":
                assert_within(got, ball.value, 1e-6 * ball.most, f"{name}, beside one process")
            ball.assert_holds(got, dtype, f"{name}, beside one process")
            assert_bitwise(scene.sum(got), scene.size * got.double(), f"{name}: replicas")
            lost = max(lost, float((got - want).abs().max()))
        assert codec == "none" or lost > 4 * ROUNDING[dtype], "nothing was lost: was the codec used?"
        dist.barrier()  # nobody closes what another still needs


def in_one_process(whole: list[Linears], step: float, dtype: str, levels: int) -> list[Ball]:
    """The averages of the weights' gradients, and how far off coded ones may be: the errors of sums inside
    layers, carried on to wherever they go, and those of `levels` averages."""
    maps = [(Ball.exact(m.up.weight.detach().mT), Ball.exact(m.down.weight.detach().mT)) for m in whole]
    sums: list[Ball] = []
    carried = 0.0
    for rank in range(DATA):
        ball, entered, inside = Ball.exact(draw(rank, dtype, ROWS, WIDTH)), [], []
        for up, down in maps:
            entered.append(ball)
            inside.append(ball.times(up))
            ball = summed(inside[-1], down, step)
        grad = Ball.exact(draw(100 + rank, dtype, ROWS, WIDTH) * 16)
        found: list[Ball] = []
        for i in (1, 0):
            up, down = maps[i]
            hidden = grad.times(down.mT)
            found = [hidden.mT.times(entered[i]), grad.mT.times(inside[i]), *found]
            grad = summed(hidden, up.mT, step)
        sums = [plus(a, b) for a, b in zip(sums, found)] if sums else found
        carried = max(carried, *(f.most for f in found))
    off = 0.0
    for _ in range(levels):
        more = average_is_off_by(carried, step)
        off, carried = off + more, carried + more
    return [Ball(s.value / DATA, s.radius / DATA + off) for s in sums]
