"""Residuals in and out of a checkpoint, as tensors.

Keys carry the rank, because every rank's residual is different and torch's distributed checkpoints keep one
copy of equal keys. What residuals add to the averaged gradient is what must survive, so a checkpoint of n
ranks loads on m: see `ErrorFeedback.load_state_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from gradwire.errors import ArgumentError
from gradwire.policy import Reducer

from .residuals import Residuals


def clean_name(name: str) -> str:
    """The model's own name of a parameter, without what DDP and torch.compile put in front."""
    return name.replace("_orig_mod.", "").removeprefix("module.")


class Checkpoint:
    """named: whether the residuals go by the model's names, which alone mean something to another process."""

    def __init__(self, residuals: Residuals | None, named: bool, reducers: Sequence[Reducer] = ()) -> None:
        self._residuals, self._named, self._reducers = residuals, named, reducers

    def save(self, rank: int, size: int, step: int) -> dict[str, torch.Tensor]:
        kept: Mapping[str, object] = {"world_size": size}
        if self._residuals is not None:
            if not self._named:
                raise ArgumentError(
                    "state_dict() keeps residuals by parameter name and this HookState knows none: "
                    "construct it with named_parameters=ddp.named_parameters()"
                )
            kept = self._residuals.feedback.state_dict(rank, size)
        for i, reducer in enumerate(self._reducers):
            kept = {**kept, **{f"reducer{i}/{key}": v for key, v in reducer.warm_state(rank).items()}}
        return {"step": torch.tensor(step), **{k: torch.as_tensor(v) for k, v in kept.items()}}

    def load(self, state: Mapping[str, torch.Tensor], rank: int, size: int) -> int:
        """Returns the step. Writes nothing unless every parameter is there with its size."""
        if self._residuals is not None:
            arrays = {k: v.detach().float().cpu().numpy() for k, v in state.items()}
            self._residuals.feedback.load_state_dict(arrays, rank, size, op="avg")
        for i, reducer in enumerate(self._reducers):
            prefix = f"reducer{i}/"
            mine = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
            reducer.load_warm_state(mine, rank)
        return int(state["step"])
