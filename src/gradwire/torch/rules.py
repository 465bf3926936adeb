"""What each parameter of one model does at each step: the user's policy, and the two rules of thumb beside
it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gradwire.codecs import Codec
from gradwire.errors import ArgumentError
from gradwire.global_topk import GlobalTopK
from gradwire.policy import AUTO, Choice, Policy
from gradwire.powersgd import PowerSGD


class Rules:
    """codec: what `attach` takes. names: the model's parameters; without them only a codec for all will do.

    dense_1d, min_numel: parameters of one dimension, or with fewer elements, are never coded; None: True and
    1024 beside one codec for all, False and 0 beside a policy, which says itself what stays dense."""

    def __init__(
        self,
        codec: Any,
        names: Mapping[str, torch.Tensor] | None = None,
        dense_1d: bool | None = None,
        min_numel: int | None = None,
    ) -> None:
        by_name = isinstance(codec, (Policy, Mapping))
        self.policy = Policy({"*": codec}) if not by_name else _as_policy(codec)
        self.dense_1d = not by_name if dense_1d is None else dense_1d
        self.min_numel = (0 if by_name else 1024) if min_numel is None else min_numel
        # held by the parameter itself: a freed one's id could be given to another
        self._names = {id(p): (name, p) for name, p in (names or {}).items()}
        self._by_name = by_name
        if by_name and names:
            for name in names:
                self.policy.at(name)  # raises for a name that nothing matches, before any step
            unused = [p for p in self.policy.unused(list(names)) if p.strip("*")]
            if unused:
                raise ArgumentError(
                    f"patterns of the policy that decide nothing: {', '.join(map(repr, unused))}; "
                    f"the parameters are {', '.join(list(names)[:8])}{', ...' if len(names) > 8 else ''}"
                )
        choices = self.policy.choices()
        self.reducers = [c for c in choices if isinstance(c, (PowerSGD, GlobalTopK))]
        self.wants_prices = AUTO in choices
        self.lossy = any(c is not None and (not isinstance(c, Codec) or c.lossy) for c in choices)

    def name(self, param: torch.Tensor) -> str:
        """The model's name, else one that is equal on every rank as long as DDP's order of parameters is."""
        if id(param) not in self._names:
            if self._by_name:
                raise ArgumentError(
                    "a policy goes by parameter names and this HookState knows none: construct it with "
                    "named_parameters=ddp.named_parameters()"
                )
            self._names[id(param)] = (f"#{len(self._names)}", param)
        return self._names[id(param)][0]

    def may_code(self, param: torch.Tensor) -> bool:
        """Whether some step may code it."""
        return param.numel() >= self.min_numel and (param.dim() >= 2 or not self.dense_1d)

    def choice(self, param: torch.Tensor, step: int) -> Choice:
        if not self.may_code(param):
            return None
        chosen = self.policy.at(self.name(param), step)
        if isinstance(chosen, PowerSGD) and not chosen.compresses(param.shape):
            return None
        return chosen


def _as_policy(codec: Policy | Mapping[str, Any]) -> Policy:
    return codec if isinstance(codec, Policy) else Policy(codec)
