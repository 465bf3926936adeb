"""Tensor x pipeline x data parallelism: a GPT on 8 processes, a codec of its own for each axis.

torchrun --nproc-per-node 8 examples/hybrid_gpt.py --dp int4 --pp bf16,int8 --tp int8
torchrun --nproc-per-node 8 examples/hybrid_gpt.py --check     # exact: equal to training in one process
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from byte_gpt import Block, ByteGPT, Text
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import gradwire.torch
from gradwire.torch import ColumnParallelLinear, RowParallelLinear

MICROBATCHES, ROWS = 4, 2  # per data-parallel rank: 4 microbatches of 2 windows


class ParallelBlock(nn.Module):
    """A Block of which this rank holds some heads and some columns of the MLP."""

    def __init__(self, whole: Block, layers: dict[str, Any]) -> None:
        super().__init__()
        self.norm1, self.norm2 = whole.norm1, whole.norm2
        ranks, width = layers["group"].size(), whole.proj.in_features
        self.heads, self.head_width = whole.heads // ranks, width // whole.heads
        # the rows of qkv are (3, heads, width of a head); those of a rank are to lie together
        order = torch.arange(3 * width).view(3, ranks, -1).transpose(0, 1).flatten()
        with torch.no_grad():
            whole.qkv.weight.copy_(whole.qkv.weight[order])
            whole.qkv.bias.copy_(whole.qkv.bias[order])
        self.qkv = ColumnParallelLinear.from_linear(whole.qkv, **layers)
        self.proj = RowParallelLinear.from_linear(whole.proj, **layers)
        self.up = ColumnParallelLinear.from_linear(whole.up, **layers)
        self.down = RowParallelLinear.from_linear(whole.down, **layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, _ = x.shape
        qkv, _ = self.qkv(self.norm1(x))
        q, k, v = qkv.view(b, t, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, -1))[0]
        return x + self.down(F.gelu(self.up(self.norm2(x))[0]))[0]


class Stage(nn.Module):
    """The index-th of `count` equal parts of a model: bytes or activations in, activations or logits out."""

    def __init__(self, model: ByteGPT, index: int, count: int, layers: dict[str, Any]) -> None:
        super().__init__()
        self.first, self.last = index == 0, index == count - 1
        some = len(model.blocks) // count
        self.blocks = nn.ModuleList(
            ParallelBlock(block, layers) for block in model.blocks[index * some : (index + 1) * some]
        )
        if self.first:
            self.embed, self.position = model.embed, model.position
        if self.last:
            self.norm, self.head = model.norm, model.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.first:
            x = self.embed(x) + self.position.weight[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)) if self.last else x


def loss_of(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def in_one_process(model: ByteGPT, text: Text, args: argparse.Namespace, replicas: int) -> Iterator[float]:
    """The same training with nothing cut: what it is compared with."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(args.steps):
        parts = [text.batch(args.seed, step, r, MICROBATCHES * ROWS, model.context) for r in range(replicas)]
        x, y = (torch.cat(half) for half in zip(*parts))
        optimizer.zero_grad()
        loss = model(x, y)
        loss.backward()
        optimizer.step()
        yield loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mesh", default="2,2,2", help="pipeline, data and tensor-parallel ranks")
    parser.add_argument("--dp", default="int4", help="codec of gradients between replicas, or none")
    parser.add_argument("--pp", default="bf16,int8", help="codecs between stages: forward,backward, or none")
    parser.add_argument("--tp", default="int8", help="codec inside layers, or none")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true", help="no codecs, float64, compare with one process")
    args = parser.parse_args()

    torch.set_num_threads(1)
    gradwire.torch.init_process_group("gloo")
    if args.check:
        torch.set_default_dtype(torch.float64)  # sums in another order then differ in the last digits only
        args.dp = args.pp = args.tp = "none"
    torch.manual_seed(args.seed)  # the same model everywhere, before it is cut
    model, text = ByteGPT(), Text.of_stdlib()
    sizes = [int(n) for n in args.mesh.split(",")]
    mesh = init_device_mesh("cpu", tuple(sizes), mesh_dim_names=("pp", "dp", "tp"))

    def codec(words: str) -> Any:
        names = [None if word == "none" else word for word in words.split(",")]
        return tuple(names) if len(names) > 1 else names[0]

    policy = gradwire.policy(mesh, pp=codec(args.pp), dp=codec(args.dp), tp=codec(args.tp))  # <- the lines
    index, replica = mesh.get_local_rank("pp"), mesh.get_local_rank("dp")
    ddp = DistributedDataParallel(
        Stage(model, index, sizes[0], policy["tp"].layers), process_group=mesh.get_group("dp")
    )
    policy["dp"].attach(ddp)
    stage = PipelineStage(ddp, index, sizes[0], torch.device("cpu"), group=mesh.get_group("pp"))
    policy["pp"].pipeline(stage)

    schedule = Schedule1F1B(stage, MICROBATCHES, loss_fn=loss_of)
    optimizer = torch.optim.AdamW(ddp.parameters(), lr=1e-3)
    trained = []
    for step in range(args.steps):
        x, y = text.batch(args.seed, step, replica, MICROBATCHES * ROWS, model.context)
        optimizer.zero_grad()
        losses: list[torch.Tensor] = []
        schedule.step(*([x] if index == 0 else []), target=y, losses=losses)
        optimizer.step()
        if losses:  # the last stage
            mean = torch.stack(losses).mean().detach()
            dist.all_reduce(mean, group=mesh.get_group("dp"))
            trained.append(mean.item() / sizes[1])
            if dist.get_rank() == dist.get_world_size() - 1:
                print(f"step {step + 1:4d}  loss {trained[-1]:.3f}", flush=True)

    if dist.get_rank() == dist.get_world_size() - 1:
        print(policy.table())
        if args.check:
            torch.manual_seed(args.seed)
            alone = list(in_one_process(ByteGPT(), text, args, sizes[1]))
            worst = max(abs(a - b) / b for a, b in zip(trained, alone))
            print(f"largest difference from one process: {worst:.1e}")
            assert worst < 1e-9, "not the same training"
    dist.barrier()
    policy.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
