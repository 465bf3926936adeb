"""DeepSpeed: no hook, so gradwire is the backend under it; what ZeRO sums travels coded.

DS_ACCELERATOR=cpu torchrun --nproc-per-node 2 examples/frameworks/deepspeed_gpt.py

DeepSpeed hands a process group flat buffers, not parameters: no error feedback is possible there, so take a
codec with a small error.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist

import gradwire.torch

sys.path.append(str(Path(__file__).parent.parent))
from byte_gpt import ByteGPT, Text  # lies one folder up


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--zero", type=int, default=1, help="ZeRO stage")
    args = parser.parse_args()

    torch.set_num_threads(1)
    options = gradwire.torch.ProcessGroupOptions(codec="int8")
    gradwire.torch.init_process_group("gradwire", pg_options=options)  # <- the lines; DeepSpeed finds it
    deepspeed.init_distributed(dist_backend="gradwire")

    torch.manual_seed(0)
    text = Text.of_stdlib()
    model = ByteGPT()
    config = {
        "train_micro_batch_size_per_gpu": 8,
        "zero_optimization": {"stage": args.zero},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    for step in range(args.steps):
        loss = engine(*text.batch(0, step, dist.get_rank(), 8, engine.module.context))
        engine.backward(loss)
        engine.step()
    if dist.get_rank() == 0:
        print(f"loss {loss.item():.3f} after {args.steps} steps over {dist.get_backend()}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
