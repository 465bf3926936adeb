"""A pipeline neighbour that dies. Rank 1 does not survive this file."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch
from scene import Scene
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

import gradwire
from gradwire.torch import pipeline


class Dies(nn.Module):
    """In the middle of its third forward pass, with activations and gradients on their way."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(64, 64), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 4:  # the first call asks for shapes
            os.kill(os.getpid(), signal.SIGKILL)
        return self.layer(x)


def check_a_dead_neighbour_is_named(scene: Scene) -> None:
    part: Any = nn.Linear(64, 64) if scene.rank == 0 else Dies()
    stage = PipelineStage(part, scene.rank, 2, torch.device("cpu"))
    pipeline.apply(stage, "int8", "int8", comm=scene.comm)
    schedule = Schedule1F1B(stage, 6, loss_fn=lambda out, target: (out - target).square().mean())
    x = torch.ones(12, 64)
    try:
        schedule.step(*([x] if scene.rank == 0 else []), target=x)
    except gradwire.PeerLost as error:
        assert error.rank == 1 and error.op in ("send", "recv"), vars(error)
        return
    raise AssertionError("rank 1 was killed and step() returned")
