"""What the rate-distortion study encodes: four distributions, and gradients of a byte-GPT in training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Draw = np.random.Generator

# Lognormal has a sign, as a gradient has: exp(N(0, 1)) times -1 or 1. t3 and lognormal have heavy tails.
SYNTHETIC: dict[str, Callable[[Draw, int], npt.NDArray[Any]]] = {
    "N(0,1)": lambda draw, n: draw.standard_normal(n),
    "Laplace": lambda draw, n: draw.laplace(size=n),
    "Student-t3": lambda draw, n: draw.standard_t(3, n),
    "lognormal": lambda draw, n: np.exp(draw.standard_normal(n)) * draw.choice([-1.0, 1.0], n),
}
GRADIENTS = "byte-GPT gradients"


def synthetic(name: str, seed: int, count: int) -> Floats:
    return SYNTHETIC[name](np.random.default_rng(seed), count).astype(np.float32)


def gradients(seed: int, steps: tuple[int, ...] = (1, 10, 30, 100)) -> Floats:
    """Gradients of all parameters, one after the other, of one rank at these steps of its training.

    The model is examples/byte_gpt.py at width 128 with 2 layers: 470,528 values a step."""
    import torch

    sys.path.insert(0, str(Path(__file__).parent.parent.parent / "examples"))
    from byte_gpt import ByteGPT, Text

    text = Text.of_stdlib()
    torch.manual_seed(seed)
    model = ByteGPT(width=128, layers=2, context=64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    taken = []
    for step in range(1, max(steps) + 1):
        optimizer.zero_grad()
        model(*text.batch(seed, step, 0, 8, 64)).backward()
        if step in steps:
            taken += [p.grad.detach().flatten().numpy().copy() for p in model.parameters()]
        optimizer.step()
    return np.concatenate(taken)
