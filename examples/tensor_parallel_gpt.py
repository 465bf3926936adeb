"""Tensor-parallel training: the MLPs of a GPT cut over the ranks, what they exchange goes through a codec.

torchrun --nproc-per-node 2 examples/tensor_parallel_gpt.py --codec int8 --steps 20
"""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
from byte_gpt import ByteGPT, Text, held_out_loss
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import parallelize_module

import gradwire.torch
from gradwire.torch import CompressedColwiseParallel, CompressedRowwiseParallel


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codec", default="int8", help="int8, int4, bf16, ... or none")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    codec = None if args.codec == "none" else args.codec

    torch.set_num_threads(1)
    gradwire.torch.init_process_group("gloo")
    torch.manual_seed(args.seed)  # the same model and the same batches on every rank
    model, text = ByteGPT(), Text.of_stdlib()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.blocks:  # <- the lines
        parallelize_module(
            block,
            mesh,
            {"up": CompressedColwiseParallel(codec=codec), "down": CompressedRowwiseParallel(codec=codec)},
        )

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, foreach=False)
    for step in range(args.steps):
        x, y = text.batch(args.seed, step, 0, 8, model.context)
        optimizer.zero_grad()
        loss = model(x, y)
        loss.backward()
        optimizer.step()
        if dist.get_rank() == 0 and (step + 1) % 5 == 0:
            print(f"step {step + 1:4d}  loss {loss.item():.3f}", flush=True)

    with gradwire.torch.error_probe(model) as report:
        model(*text.batch(args.seed, args.steps, 0, 8, model.context)).backward()
    held_out = held_out_loss(model, text, windows=32)  # all ranks: each layer needs all of them
    if dist.get_rank() == 0:
        print(f"held-out loss {held_out:.3f}")
        print(report)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
