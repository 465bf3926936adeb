"""Ranks that meet every H steps, not every step (DiLoCo): for links that no codec makes fast enough.

torchrun --nproc-per-node 2 examples/local_sgd.py --every 20 --codec int4 --steps 100
"""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
from byte_gpt import ByteGPT, Text, held_out_loss

import gradwire.torch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, default=20, help="local steps between two meetings")
    parser.add_argument("--codec", default="int4", help="int8, int4, topk, bf16, ... or none")
    parser.add_argument("--average", action="store_true", help="local SGD: average, no outer optimizer")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(1)
    gradwire.torch.init_process_group("gloo")
    torch.manual_seed(args.seed)
    model = ByteGPT()
    codec = None if args.codec == "none" else args.codec
    inner = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    if args.average:
        meeting: gradwire.torch.DiLoCo = gradwire.torch.LocalSGD(model, inner, every=args.every, codec=codec)
    else:
        outer = torch.optim.SGD(model.parameters(), lr=0.7, momentum=0.9, nesterov=True)
        meeting = gradwire.torch.DiLoCo(model, inner, outer, every=args.every, codec=codec)

    text, rank = Text.of_stdlib(), dist.get_rank()
    for step in range(args.steps):
        x, y = text.batch(args.seed, step, rank, 8, model.context)
        inner.zero_grad()
        loss = model(x, y)
        loss.backward()
        if meeting.step() and rank == 0:  # True: the ranks have met, and are equal
            print(f"step {step + 1:4d}  loss {loss.item():.3f}", flush=True)
    if meeting.local_steps:
        meeting.sync()

    sent = meeting.stats().bytes_per_step * meeting.stats().steps / args.steps
    dense = 4 * sum(p.numel() for p in model.parameters())
    if rank == 0:
        print(f"held-out loss {held_out_loss(model, text):.3f}")
        print(f"{sent / 1e3:.1f} kB sent a step, {dense / sent:.0f} times less than dense at every step")
    meeting.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
