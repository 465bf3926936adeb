"""The two trainings of the study: a byte-GPT under AdamW, a digits network under SGD with momentum.

Neither downloads anything. Batches depend on (seed, step, rank) alone, so two codecs see the same data.
"""

from __future__ import annotations

import math
import sys
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "examples"))
from byte_gpt import ByteGPT, Text, held_out_loss


class Task(Protocol):
    name: str
    steps: int  # of a full training
    judged: str  # "loss" or "accuracy": what a codec is compared by

    def model(self) -> nn.Module: ...
    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer: ...
    def rate(self, step: int, steps: int) -> float: ...
    def loss(self, model: nn.Module, seed: int, step: int, rank: int) -> torch.Tensor: ...
    def held_out(self, model: nn.Module, final: bool) -> dict[str, float]: ...


class ByteGpt:
    """2 layers of width 64, 136,960 parameters, context 64; 8 windows a rank and step."""

    name = "byte-gpt"
    judged = "loss"
    steps = 400

    def __init__(self) -> None:
        self.text = Text.of_stdlib()

    def model(self) -> nn.Module:
        return ByteGPT(width=64, layers=2, context=64)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), weight_decay=0.01)

    def rate(self, step: int, steps: int) -> float:
        """Up in 20 steps, then down to nothing: a flat part lets two runs drift apart by 1 % of the loss."""
        return 3e-3 * min((step + 1) / 20, 1 - step / steps)

    def loss(self, model: nn.Module, seed: int, step: int, rank: int) -> torch.Tensor:
        x, y = self.text.batch(seed, step, rank, 8, 64)
        loss: torch.Tensor = model(x, y)
        return loss

    def held_out(self, model: nn.Module, final: bool) -> dict[str, float]:
        assert isinstance(model, ByteGPT)
        return {"loss": held_out_loss(model, self.text, 1024 if final else 256)}


class DigitsNet(nn.Module):
    """Two strided convolutions and two linear layers: 79,242 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.hidden, self.head = nn.Linear(32 * 6 * 6, 64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.conv2(F.relu(self.conv1(x))))
        y: torch.Tensor = self.head(F.relu(self.hidden(h.flatten(1))))
        return y


@lru_cache(maxsize=1)
def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit("the digits task needs scikit-learn: pip install scikit-learn, or pip install '.[studies]'")
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)


def warped(images: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """[n, 1, 8, 8] -> [n, 1, 24, 24]: each turned by up to 0.35 rad, scaled and shifted at random."""
    n = len(images)
    angle, scale, dx, dy = (torch.rand(n, generator=draw) * 2 - 1 for _ in range(4))
    angle, scale = angle * 0.35, torch.exp2(scale * 0.25) * 1.1
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = torch.stack([cos, -sin, dx * 0.2, sin, cos, dy * 0.2], dim=1).view(n, 2, 3)
    grid = F.affine_grid(rows, [n, 1, 24, 24], align_corners=False)
    return (F.grid_sample(images, grid, align_corners=False) - 0.3) / 0.4


class Digits:
    """scikit-learn's 1,797 digits, every fourth held out, warped to 24 x 24; 16 images a rank and step."""

    name = "digits"
    judged = "accuracy"
    steps = 400

    def __init__(self) -> None:
        images, labels = _digits()
        held_out = torch.arange(len(labels)) % 4 == 0
        self.images, self.labels = images[~held_out], labels[~held_out]
        times = 8  # each held-out image is warped in eight ways
        fixed = torch.Generator().manual_seed(12345)
        self.test_images = warped(images[held_out].repeat(times, 1, 1, 1), fixed)
        self.test_labels = labels[held_out].repeat(times)

    def model(self) -> nn.Module:
        return DigitsNet()

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)

    def rate(self, step: int, steps: int) -> float:
        """Up in 20 steps, then down along half a cosine."""
        return 0.05 * min((step + 1) / 20, 0.5 * (1 + math.cos(math.pi * step / steps)))

    def loss(self, model: nn.Module, seed: int, step: int, rank: int) -> torch.Tensor:
        draw = torch.Generator().manual_seed((seed * 1_000_003 + step) * 1009 + rank)
        chosen = torch.randint(len(self.labels), (16,), generator=draw)
        return F.cross_entropy(model(warped(self.images[chosen], draw)), self.labels[chosen])

    @torch.no_grad()
    def held_out(self, model: nn.Module, final: bool) -> dict[str, float]:
        count = len(self.test_labels) // (1 if final else 4)
        y, labels = model(self.test_images[:count]), self.test_labels[:count]
        right = (y.argmax(1) == labels).double().mean().item()
        return {"loss": F.cross_entropy(y, labels).item(), "accuracy": right}


TASKS: dict[str, type[ByteGpt] | type[Digits]] = {ByteGpt.name: ByteGpt, Digits.name: Digits}


@lru_cache(maxsize=2)
def task_of(name: str) -> Task:
    """Once a process: the data are loaded and warped when the task is made."""
    return TASKS[name]()
