"""Error feedback for DDP: residuals by parameter, lent to a bucket's operation as one flat tensor.

DDP regroups parameters (after its first step, or when a graph changes), so a residual that belonged to
"bucket 3" would end up in other parameters' gradients. Here it belongs to a parameter, in the flat order of
the bucket, which is the parameter's memory order. `gradwire.ErrorFeedback` keeps them; this file only knows
which tensor has which name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from gradwire.feedback import ErrorFeedback, Loan

from .device import Host


class BucketLoan:
    """The residual of one bucket while its operation runs; `flat` shares memory with what is written back."""

    def __init__(self, loan: Loan, place: Host) -> None:
        self._loan = loan
        self.flat = place.tensor(loan.array)

    def give_back(self) -> None:
        self._loan.give_back()


class Residuals:
    """storage: as in ErrorFeedback. names: of the parameters that are coded; others get a name of their
    own."""

    def __init__(self, storage: str = "fp32", names: Mapping[str, torch.Tensor] | None = None) -> None:
        self.feedback = ErrorFeedback(storage)
        # id -> (parameter, name). The parameter is held: a freed one's id could be given to another.
        self._known: dict[int, tuple[torch.Tensor, str]] = {}
        for name, p in (names or {}).items():
            self._enter(p, name)

    def _enter(self, param: torch.Tensor, name: str) -> str:
        self.feedback.declare(name, param.numel())
        self._known[id(param)] = (param, name)
        return name

    def name_of(self, param: torch.Tensor) -> str:
        known = self._known.get(id(param))
        return known[1] if known is not None else self._enter(param, f"parameter {len(self._known)}")

    def lend(self, parts: Sequence[torch.Tensor | int], place: Host) -> BucketLoan:
        """One flat residual over parameters and gaps (elements that are not coded), in order, where the
        gradients are."""
        names = (p if isinstance(p, int) else self.name_of(p) for p in parts)
        return BucketLoan(self.feedback.lend(*names, like=place.like), place)

    def read(self, param: torch.Tensor) -> torch.Tensor:
        """A copy in host memory; zeros for a parameter that has lost nothing yet."""
        return torch.from_numpy(self.feedback.read(self.name_of(param)))

    def write(self, param: torch.Tensor, value: torch.Tensor) -> None:
        self.feedback.write(self.name_of(param), value.detach().cpu().numpy())

    def norm(self) -> float:
        """L2 norm over everything held."""
        return self.feedback.norm()
