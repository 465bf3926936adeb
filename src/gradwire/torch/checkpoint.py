"""Residuals in and out of a checkpoint.

Keys carry the rank, because every rank's residual is different and torch's distributed checkpoints keep one
copy of equal keys. The sum over the ranks is what must survive, so a checkpoint of n ranks loads on m: old
rank r goes to new rank r % m. It adds residual / ranks to the averaged gradient, hence the factor m / n.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from gradwire.errors import ArgumentError

from .plan import Policy
from .residuals import Residuals

_KEY = re.compile(r"rank(\d+)/(.+)")


def clean_name(name: str) -> str:
    """The model's own name of a parameter, without what DDP and torch.compile put in front."""
    return name.replace("_orig_mod.", "").removeprefix("module.")


class Checkpoint:
    def __init__(
        self, names: Mapping[str, torch.Tensor], policy: Policy, residuals: Residuals | None
    ) -> None:
        self._named = bool(names)
        self._params = {name: p for name, p in names.items() if policy.codes(p)}
        self._residuals = residuals

    def save(self, rank: int, size: int, step: int) -> dict[str, torch.Tensor]:
        state = {"step": torch.tensor(step), "world_size": torch.tensor(size)}
        if self._residuals is None:
            return state
        if not self._named:
            raise ArgumentError(
                "state_dict() keeps residuals by parameter name and this HookState knows none: "
                "construct it with named_parameters=ddp.named_parameters()"
            )
        for name, p in self._params.items():
            state[f"rank{rank}/{name}"] = self._residuals.read(p)
        return state

    def load(self, state: Mapping[str, torch.Tensor], rank: int, size: int) -> int:
        """Returns the step. Writes nothing unless every parameter is there with its size."""
        saved = int(state["world_size"])
        if self._residuals is not None:
            sums: dict[str, torch.Tensor] = {}
            for old in range(rank, saved, size):
                for name, p in self._params.items():
                    value = _checked(state, f"rank{old}/{name}", p, saved, size) * (size / saved)
                    sums[name] = sums[name] + value if name in sums else value
            for name, p in self._params.items():
                self._residuals.write(p, sums.get(name, torch.zeros(p.numel())))
        return int(state["step"])


def _checked(
    state: Mapping[str, torch.Tensor], key: str, param: torch.Tensor, saved: int, size: int
) -> torch.Tensor:
    value = state.get(key)
    if value is None:
        known = sorted({m[1] for m in map(_KEY.fullmatch, state) if m})
        raise ArgumentError(
            f"no residual {key!r} in the state dict of {saved} ranks, loaded on {size}: it holds ranks "
            f"{', '.join(known)}; load the merged state of all ranks, made with the same model and policy"
        )
    if value.numel() != param.numel():
        raise ArgumentError(f"residual {key!r} has {value.numel()} elements, expected {param.numel()}")
    return value.reshape(-1).float()
