"""What incremental checkpoints save: bytes of the files over those of the tensors, while a small GPT trains.

    python benchmarks/checkpoints.py

One process, the byte GPT of examples/ under AdamW, seed 0. Every file is read back and compared bit by bit.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

import gradwire.torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from byte_gpt import ByteGPT, Text

STEPS_BETWEEN = (1, 1, 1, 5, 5, 50)  # the first file of a chain is whole


def states(model: ByteGPT, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    kept = optimizer.state_dict()["state"]
    return {
        "parameters, fp32": parameters,
        "parameters, bf16": {name: p.bfloat16() for name, p in parameters.items()},
        **{f"Adam's {k}": {str(i): s[k] for i, s in kept.items()} for k in ("exp_avg", "exp_avg_sq")},
    }


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8))


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, text = ByteGPT(), Text.of_stdlib()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step = 0
    writers: dict[str, gradwire.torch.IncrementalWriter] = {}
    with tempfile.TemporaryDirectory() as folder:
        for steps in STEPS_BETWEEN:
            for _ in range(steps):
                x, y = text.batch(0, step, 0, 8, 128)
                optimizer.zero_grad()
                model(x, y).backward()
                optimizer.step()
                step += 1
            for name, state in states(model, optimizer).items():
                place = f"{folder}/{name}"
                writer = writers.setdefault(name, gradwire.torch.IncrementalWriter(place))
                written = writer.save(step, state)
                read = gradwire.torch.load_incremental(place)
                if not all(same_bits(read[k], v) for k, v in state.items()):
                    raise SystemExit(f"{written.path} does not hold what was saved")
                what = "whole" if written.full else f"change of {steps}"
                print(f"step {step:2}  {name:22}{what:13}{written.bytes / written.raw_bytes:.3f}", flush=True)


if __name__ == "__main__":
    main()
