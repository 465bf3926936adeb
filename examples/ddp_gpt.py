"""Data-parallel training with compressed gradients. One line differs from plain DDP.

torchrun --nproc-per-node 2 examples/ddp_gpt.py --codec int8 --steps 20
gradwire run -n 2 examples/ddp_gpt.py            # or: mpirun -n 2 python examples/ddp_gpt.py
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
import torch.distributed as dist
from byte_gpt import ByteGPT, Text, held_out_loss
from torch.nn.parallel import DistributedDataParallel

import gradwire.torch

LEARNING_RATE = 1e-3


def train(ddp: DistributedDataParallel, text: Text, steps: int, seed: int, batch: int = 8) -> Iterator[float]:
    """Yields this rank's loss after every step. The order of the data depends on seed, step and rank
    alone."""
    model: ByteGPT = ddp.module
    optimizer = torch.optim.AdamW(ddp.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    for step in range(steps):
        # up in 10 steps, then down to a tenth
        rate = LEARNING_RATE * min((step + 1) / 10, 1.0, 1.1 - step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        x, y = text.batch(seed, step, dist.get_rank(), batch, model.context)
        optimizer.zero_grad()
        loss = ddp(x, y)
        loss.backward()
        optimizer.step()
        yield loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codec", default="int8", help="int8, int4, topk, bf16, ... or none")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(1)
    gradwire.torch.init_process_group("gloo")
    torch.manual_seed(args.seed)
    ddp = DistributedDataParallel(ByteGPT())
    handle = gradwire.torch.attach(ddp, codec=None if args.codec == "none" else args.codec)  # <- the one line

    text = Text.of_stdlib()
    for step, loss in enumerate(train(ddp, text, args.steps, args.seed)):
        if dist.get_rank() == 0 and (step + 1) % 5 == 0:
            print(f"step {step + 1:4d}  loss {loss:.3f}", flush=True)

    if dist.get_rank() == 0:
        stats = handle.stats()
        print(f"held-out loss {held_out_loss(ddp.module, text):.3f}")
        print(f"{stats.bytes_per_step / 1e6:.2f} MB sent a step, {stats.ratio:.1f} times less than dense")
    handle.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
