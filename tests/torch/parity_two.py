"""The parity matrix on two ranks: there is one order of adding, so without a codec all is torch's bits."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from checks_pipeline import assert_equal, in_a_pipeline
from parity import (
    ROUNDING,
    ROWS,
    STEP,
    WIDTH,
    Ball,
    Linears,
    Model,
    assert_averages,
    assert_bitwise,
    backward,
    codec_of,
    draw,
    sharded,
    whole,
)
from scene import Scene
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import gradwire.torch
from gradwire.torch import (
    ColumnParallelLinear,
    CompressedColwiseParallel,
    CompressedRowwiseParallel,
    RowParallelLinear,
    fsdp,
)

EVERYTHING: dict[str, Any] = {"min_numel": 1, "dense_1d": False}  # is coded, biases and norms too


def plain_ddp(scene: Scene, dtype: str) -> Any:
    plain = DistributedDataParallel(Model(dtype))
    backward(plain, scene.rank, dtype)
    return plain.module


def row_ddp(scene: Scene, codec: str, dtype: str) -> None:
    ddp = DistributedDataParallel(Model(dtype))
    with gradwire.torch.attach(ddp, codec_of(codec), comm=scene.comm, **EVERYTHING):
        backward(ddp, scene.rank, dtype)
    assert_averages(ddp.module, plain_ddp(scene, dtype), codec, dtype)
    step(ddp.module)
    scene.same_everywhere(ddp.module)


def row_bucketer(scene: Scene, codec: str, dtype: str) -> None:
    model = Model(dtype)
    with gradwire.torch.GradientBucketer(
        model.named_parameters(), scene.comm, codec_of(codec), **EVERYTHING
    ) as bucketer:
        backward(model, scene.rank, dtype)
        bucketer.wait()
    assert_averages(model, plain_ddp(scene, dtype), codec, dtype)
    step(model)
    scene.same_everywhere(model)


def step(model: torch.nn.Module) -> None:
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def row_fsdp2(scene: Scene, codec: str, dtype: str) -> None:
    mesh = init_device_mesh("cpu", (scene.size,))
    model, plain = sharded(Model(dtype), mesh), sharded(Model(dtype), mesh)
    with fsdp.apply(model, reduce_scatter=codec_of(codec), min_numel=0):
        for m in (model, plain):
            backward(m, scene.rank, dtype)
        assert_averages(model, plain, codec, dtype)
        step(model)
        for name, p in model.named_parameters():
            assert_bitwise(scene.sum(whole(p)), scene.size * whole(p).double(), f"{name}: replicas")
        dist.barrier()  # nobody closes what another still needs


# -- tensor parallelism ------------------------------------------------------------------------------


def torch_styles(sequence: bool) -> dict[str, Any]:
    if sequence:
        return {
            "up": ColwiseParallel(input_layouts=Shard(0)),
            "down": RowwiseParallel(output_layouts=Shard(0)),
        }
    return {"up": ColwiseParallel(), "down": RowwiseParallel(output_layouts=Replicate())}


def our_styles(codec: str | None, sequence: bool) -> dict[str, Any]:
    how: dict[str, Any] = {"codec": codec, "sequence_parallel": sequence}
    return {"up": CompressedColwiseParallel(**how), "down": CompressedRowwiseParallel(**how)}


class Layers(torch.nn.Module):
    """The same by Megatron-LM's names."""

    def __init__(self, whole: Linears, codec: str | None, sequence: bool) -> None:
        super().__init__()
        how: dict[str, Any] = {"codec": codec, "sequence_parallel": sequence}
        self.up = ColumnParallelLinear.from_linear(whole.up, **how)
        self.down = RowParallelLinear.from_linear(whole.down, **how)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x)[0])[0]


def tensor_parallel(scene: Scene, codec: str, dtype: str, sequence: bool) -> None:
    def run(model: Any) -> tuple[torch.Tensor, ...]:
        leaf = mine(x) if sequence else x.clone()
        leaf.requires_grad_()
        y = model(leaf)
        y.backward(mine(direction) if sequence else direction)  # linear: it does not depend on y
        up = model.up.weight.grad
        return y.detach(), leaf.grad, up.to_local() if hasattr(up, "to_local") else up

    def mine(t: torch.Tensor, dim: int = 0) -> torch.Tensor:
        return t.detach().chunk(scene.size, dim)[scene.rank].clone()

    mesh = init_device_mesh("cpu", (scene.size,))
    x, direction = draw(3, dtype, ROWS, WIDTH), draw(4, dtype, ROWS, WIDTH)
    plain = run(parallelize_module(Linears(5, dtype), mesh, torch_styles(sequence)))
    styles = run(parallelize_module(Linears(5, dtype), mesh, our_styles(codec_of(codec), sequence)))
    layers = run(Layers(Linears(5, dtype), codec_of(codec), sequence))
    for kind, got in (("style", styles), ("layer", layers)):
        if codec == "none":
            for name, a, b in zip(("output", "input's gradient", "weight's gradient"), got, plain):
                assert_bitwise(a, b, f"{kind}: {name}")
            continue
        bounds = tensor_parallel_bounds(scene, Linears(5, dtype), x, direction, STEP[codec], sequence, dtype)
        for name, a, b, ball in zip(("output", "input's gradient"), got, plain, bounds):
            ball = Ball(mine(ball.value), mine(ball.radius)) if sequence else ball  # noqa: PLW2901
            ball.assert_holds(a, dtype, f"{kind}: {name}")
            assert not torch.equal(a, b), f"{kind}: {name} lost nothing: was the codec used?"
        if not sequence:  # what every rank holds is the same
            assert_bitwise(got[2], plain[2], f"{kind}: weight's gradient")
            for t in got[:2]:
                assert_bitwise(scene.sum(t), scene.size * t.double(), f"{kind}: replicas")


def tensor_parallel_bounds(  # noqa: PLR0917
    scene: Scene, model: Linears, x: Any, direction: Any, step: float, sequence: bool, dtype: str
) -> tuple[Ball, Ball]:
    """Of the output and the input's gradient; each is gathered (encoded once) if the sequence is cut, goes
    through this rank's two maps, and is summed coded."""
    ups = [Ball.exact(w) for w in model.up.weight.detach().chunk(scene.size, 0)]
    downs = [Ball.exact(w) for w in model.down.weight.detach().chunk(scene.size, 1)]
    found = []
    for start, pairs in (
        (x, [(u.mT, d.mT) for u, d in zip(ups, downs)]),
        (direction, [(d, u) for u, d in zip(ups, downs)]),
    ):
        ball = Ball.exact(start)
        if sequence:
            ball = ball.encoded(step)
        terms = [rounded(rounded(ball.times(a), dtype).times(b), dtype) for a, b in pairs]
        found.append(Ball.coded_sum(terms, step))
    return found[0], found[1]


def rounded(ball: Ball, dtype: str) -> Ball:
    return Ball(ball.value, ball.radius + ROUNDING[dtype] * ball.most)


def row_tp(scene: Scene, codec: str, dtype: str) -> None:
    tensor_parallel(scene, codec, dtype, sequence=False)


def row_tp_sp(scene: Scene, codec: str, dtype: str) -> None:
    tensor_parallel(scene, codec, dtype, sequence=True)


# -- pipeline parallelism ----------------------------------------------------------------------------


def row_pp(scene: Scene, codec: str, dtype: str) -> None:
    """With a codec bitwise, too: as one process that encodes and decodes activations and gradients."""
    codecs, kind = (codec_of(codec), codec_of(codec)), getattr(torch, dtype)
    mine, whole, link = in_a_pipeline(scene, "1F1B", codecs, scene.comm, dtype=kind)
    assert_equal(mine, whole, f"{codec}, {dtype}")
    if codec == "none":
        assert_equal(mine, in_a_pipeline(scene, "1F1B", codecs, dtype=kind, link_it=False)[0], "torch's own")
    else:
        assert link.ratio > 1.5
