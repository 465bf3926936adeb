"""Hugging Face Accelerate: prepare() wraps the model in DDP, and one line follows.

torchrun --nproc-per-node 2 examples/frameworks/accelerate_gpt.py      # or: accelerate launch --cpu ...
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

import gradwire.torch

sys.path.append(str(Path(__file__).parent.parent))
from byte_gpt import ByteGPT, Text  # lies one folder up


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, text = ByteGPT(), Text.of_stdlib()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer = accelerator.prepare(model, optimizer)
    handle = gradwire.torch.attach(model, codec="int8")  # <- the one line; leave DDP's own comm_hook at NO

    context = accelerator.unwrap_model(model).context
    for step in range(args.steps):
        x, y = text.batch(0, step, accelerator.process_index, 8, context)
        with accelerator.accumulate(model):  # every second step averages; the others stay here
            loss = model(x, y)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    stats = handle.stats()
    accelerator.print(
        f"loss {loss.item():.3f}, {stats.steps} averages, {stats.ratio:.1f} times less than dense"
    )
    handle.close()
    accelerator.end_training()


if __name__ == "__main__":
    main()
