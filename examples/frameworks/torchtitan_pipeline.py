"""torchtitan: its pipeline split makes torch's own stages, and one line codes what they exchange.

torchrun --nproc-per-node 2 examples/frameworks/torchtitan_pipeline.py

In a training of torchtitan's own the line goes behind `_pipeline_module_split` in pipeline_llm; its models
need triton, so here it cuts a small one whose parts have their names.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.pipelining import Schedule1F1B
from torch.nn import functional as F
from torchtitan.distributed.pipeline_parallel import _pipeline_module_split

import gradwire.torch

sys.path.append(str(Path(__file__).parent.parent))
from byte_gpt import ByteGPT, Text  # lies one folder up


class Decoder(nn.Module):
    """ByteGPT in torchtitan's form: what a stage does not have is None."""

    def __init__(self, model: ByteGPT) -> None:
        super().__init__()
        self.tok_embeddings = model.embed
        self.layers = nn.ModuleDict({str(i): block for i, block in enumerate(model.blocks)})
        self.norm, self.lm_head = model.norm, model.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tok_embeddings(x) if self.tok_embeddings is not None else x
        for layer in self.layers.values():
            x = layer(x)
        return self.lm_head(self.norm(x)) if self.lm_head is not None else x


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()

    torch.set_num_threads(1)
    gradwire.torch.init_process_group("gloo")
    torch.manual_seed(0)
    model, text = Decoder(ByteGPT()), Text.of_stdlib()
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("pp",))
    names = [["tok_embeddings", "layers.0", "layers.1"], ["layers.2", "layers.3", "norm", "lm_head"]]
    stages, parts = _pipeline_module_split(model, mesh, "1F1B", torch.device("cpu"), names)
    link = gradwire.torch.pipeline.apply(stages, activations="bf16", gradients="int8")  # <- the line

    def loss_of(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits.flatten(0, 1), target.flatten())

    schedule = Schedule1F1B(stages[0], 4, loss_fn=loss_of)
    optimizer = torch.optim.AdamW(parts[0].parameters(), lr=1e-3)
    for step in range(args.steps):
        x, y = text.batch(0, step, 0, 8, 128)
        optimizer.zero_grad()
        losses: list[torch.Tensor] = []
        schedule.step(*([x] if dist.get_rank() == 0 else []), target=y, losses=losses)
        optimizer.step()
    if losses:
        mean = torch.stack(losses).mean().item()
        print(f"loss {mean:.3f}, gradients {link.ratio:.1f} times less than dense")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
