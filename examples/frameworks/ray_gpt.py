"""Ray Train: prepare_model() wraps the model in DDP, and one line follows.

python examples/frameworks/ray_gpt.py --workers 2
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import ray
from ray.train import ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

HERE = str(Path(__file__).parent.parent)


def train(config: dict[str, Any]) -> None:
    """In every worker; torch.distributed is up."""
    sys.path.append(HERE)
    import ray.train.torch
    import torch
    from byte_gpt import ByteGPT, Text

    import gradwire.torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    text = Text.of_stdlib()
    model = ray.train.torch.prepare_model(ByteGPT())
    handle = gradwire.torch.attach(model, codec="int8")  # <- the one line
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rank = ray.train.get_context().get_world_rank()
    for step in range(config["steps"]):
        optimizer.zero_grad()
        loss = model(*text.batch(0, step, rank, 8, 128))
        loss.backward()
        optimizer.step()
    if rank == 0:
        print(f"loss {loss.item():.3f}, {handle.stats().ratio:.1f} times less than dense", flush=True)
    handle.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    ray.init(num_cpus=args.workers + 1, include_dashboard=False)
    trainer = TorchTrainer(
        train,
        train_loop_config={"steps": args.steps},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=args.workers),
    )
    trainer.fit()
    ray.shutdown()


if __name__ == "__main__":
    main()
