"""Pipeline stages on two ranks, against the same stages one after the other in one process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from scene import Scene, refused
from torch import nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import (
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
)

import gradwire
import gradwire.torch
from gradwire.torch import pipeline

WIDTH, ROWS, MICROBATCHES = 48, 8, 4
# One encode is off by at most this share of the block's largest magnitude (csrc/codec/quant.hpp).
STEP = {"bf16": 2**-8, "int8": 2**-7 + 2**-8, "int4": 2**-3 + 2**-8}
SCHEDULES = {
    "GPipe": (ScheduleGPipe, 1),
    "1F1B": (Schedule1F1B, 1),
    "interleaved": (ScheduleInterleaved1F1B, 2),
    "zero bubble": (ScheduleInterleavedZeroBubble, 2),
}


class Part(nn.Module):
    """One stage. Activations differ in size, so that no two links may be confused."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(x)) * 2


def parts(count: int, dtype: torch.dtype = torch.float32) -> list[Part]:
    torch.manual_seed(5)
    sizes = [WIDTH + 7 * i for i in range(count)] + [WIDTH]
    return [Part(a, b).to(dtype) for a, b in zip(sizes, sizes[1:])]


def data(step: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(step)
    x, y = (torch.randn(MICROBATCHES * ROWS, WIDTH, generator=draw).to(dtype) for _ in range(2))
    return x, y


def loss(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (out - target).square().mean()


class Coded(torch.autograd.Function):
    """What a link does, in one process."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, codecs: Any) -> torch.Tensor:
        ctx.codec = codecs[1]
        return through(x, codecs[0])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return through(grads[0], ctx.codec), None


def through(x: torch.Tensor, codec: str | None) -> torch.Tensor:
    if codec is None:
        return x.clone()
    return gradwire.decode(gradwire.encode(x.detach().contiguous(), codec), torch.empty_like(x))


def in_one_process(
    stages: list[Part], step: int, codecs: tuple[str | None, str | None], dtype: torch.dtype = torch.float32
) -> None:
    x, target = data(step, dtype)
    for one, want in zip(x.chunk(MICROBATCHES), target.chunk(MICROBATCHES)):
        for i, stage in enumerate(stages):
            one = stage(Coded.apply(one, codecs) if i else one)  # noqa: PLW2901
        loss(one, want).backward()
    for stage in stages:
        for p in stage.parameters():
            p.grad /= MICROBATCHES


def in_a_pipeline(
    scene: Scene,
    schedule: str,
    codecs: tuple[str | None, str | None],
    comm: Any = None,
    *,
    steps: int = 2,
    dtype: torch.dtype = torch.float32,
    link_it: bool = True,
) -> tuple[list[Part], list[Part], Any]:
    """(this rank's stages after `steps`, the same of one process, the link)."""
    make, a_rank = SCHEDULES[schedule]
    count = scene.size * a_rank
    whole, mine = parts(count, dtype), parts(count, dtype)
    places = [scene.rank + i * scene.size for i in range(a_rank)]
    stages = [PipelineStage(mine[i], i, count, torch.device("cpu")) for i in places]
    link = pipeline.apply(stages if a_rank > 1 else stages[0], *codecs, comm=comm) if link_it else None
    run = make(stages if a_rank > 1 else stages[0], MICROBATCHES, loss_fn=loss)
    for step in range(steps):
        for module in (*whole, *mine):
            module.zero_grad()
        x, target = data(step, dtype)
        run.step(*([x] if scene.rank == 0 else []), target=target)
        in_one_process(whole, step, codecs, dtype)
    return [mine[i] for i in places], [whole[i] for i in places], link


def assert_equal(mine: list[Part], whole: list[Part], what: str) -> None:
    for a, b in zip(mine, whole):
        for (name, p), q in zip(a.named_parameters(), b.parameters()):
            assert torch.equal(p.grad, q.grad), f"{what}: {name} is off by {(p.grad - q.grad).abs().max()}"


def check_every_schedule_gives_the_bits_of_one_process(scene: Scene) -> None:
    for schedule in SCHEDULES:
        for codecs in ((None, None), ("bf16", "int8"), ("int4", None)):
            for comm in (None, scene.comm):
                mine, whole, _ = in_a_pipeline(scene, schedule, codecs, comm)
                assert_equal(mine, whole, f"{schedule}, {codecs}, {comm}")


def check_16_bit_activations_pass(scene: Scene) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        mine, whole, link = in_a_pipeline(scene, "1F1B", ("int8", "int8"), dtype=dtype)
        assert_equal(mine, whole, str(dtype))
        assert link.ratio > 1.5


def check_a_link_without_codec_is_torchs_own_pipeline(scene: Scene) -> None:
    with_link, _, _ = in_a_pipeline(scene, "1F1B", (None, None))
    without, _, _ = in_a_pipeline(scene, "1F1B", (None, None), link_it=False)
    assert_equal(with_link, without, "codec=None")


def check_what_arrives_is_within_the_codecs_bound(scene: Scene) -> None:
    for codec, step in STEP.items():
        stage = PipelineStage(nn.Identity(), scene.rank, scene.size, torch.device("cpu"))
        pipeline.apply(stage, codec)
        x = torch.randn(MICROBATCHES * ROWS, 77, generator=torch.Generator().manual_seed(1))
        run = ScheduleGPipe(stage, MICROBATCHES)
        if scene.rank == 0:
            run.step(x)
        else:
            error = (run.step() - x).abs().max()
            assert 0 < error <= step * x.abs().max(), f"{codec}: {error}"


def check_the_link_counts_what_it_sends(scene: Scene) -> None:
    _, _, link = in_a_pipeline(scene, "1F1B", ("int8", "int4"), scene.comm, steps=2)
    before = scene.comm.stats()["bytes_sent"]
    sends = MICROBATCHES * 2
    codec, wide = ("int8", WIDTH + 7) if scene.rank == 0 else ("int4", WIDTH + 7)
    frame = 64 + gradwire.codec(codec).encoded_bytes(ROWS * wide)
    side, other = (link.forward, link.backward) if scene.rank == 0 else (link.backward, link.forward)
    assert (side.sends, other.sends, other.bytes_sent) == (sends, 0, 0)
    assert (side.bytes_sent, side.dense_bytes) == (sends * frame, sends * 4 * ROWS * wide)
    assert link.forward.waited_s > 0 or scene.rank == 0
    assert link.backward.waited_s > 0
    in_a_pipeline(scene, "1F1B", ("int8", "int4"), scene.comm, steps=1)
    assert scene.comm.stats()["bytes_sent"] - before >= MICROBATCHES * frame, "the communicator was not used"


def check_stochastic_rounding_differs_between_microbatches(scene: Scene) -> None:
    stage = PipelineStage(nn.Identity(), scene.rank, scene.size, torch.device("cpu"))
    pipeline.apply(stage, "int4(rounding=stochastic)")
    run = ScheduleGPipe(stage, 2)
    x = torch.randn(ROWS, 64, generator=torch.Generator().manual_seed(1))
    if scene.rank == 0:
        run.step(torch.cat([x, x]))
    else:
        a, b = run.step().chunk(2)
        assert not torch.equal(a, b)


def check_what_does_not_fit_is_refused(scene: Scene) -> None:
    def stage() -> Any:
        return PipelineStage(nn.Identity(), scene.rank, scene.size, torch.device("cpu"))

    linked = stage()
    pipeline.apply(linked, "int8")
    alone = gradwire.init(rank=0, size=1)
    refused("fixed size", pipeline.apply, stage(), "rice4")
    refused("int9", pipeline.apply, stage(), "int9")
    refused("already", pipeline.apply, linked)
    refused("at least one", pipeline.apply, [])
    refused("torch.distributed.pipelining", pipeline.apply, nn.Linear(2, 2))
    refused("communicator", pipeline.apply, stage(), comm=alone)
    alone.close()
    dist.barrier()
