"""Tensors grouped into flat buckets of one dtype and device each, as messages want them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from gradwire.communicator import Communicator
from gradwire.errors import ArgumentError

from . import device

MB = 1 << 20
FIRST_MB = 1.0


def auto_mb(ranks: int) -> float:
    """MiB of gradient in a bucket. Small ones leave early and end late little; a rank's share of one should
    still be a message worth sending."""
    return float(min(25, max(4, ranks)))


def named(parameters: Iterable[torch.Tensor | tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """`model.parameters()` (named by number) or `model.named_parameters()`; once each, those that train."""
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for i, item in enumerate(parameters):
        name, p = item if isinstance(item, tuple) else (str(i), item)
        if not isinstance(p, torch.Tensor):
            raise ArgumentError(
                "parameters must be model.parameters() or model.named_parameters(), got an element of type "
                f"{type(p).__name__}"
            )
        if not p.requires_grad or id(p) in seen:
            continue
        device.check(p.device, f"parameter {name}")
        seen.add(id(p))
        found[name] = p
    if not found:
        raise ArgumentError("no parameter requires a gradient: there is nothing to average")
    return found


def is_dense(p: torch.Tensor) -> bool:
    """Whether its elements fill their memory, in whatever order of dimensions."""
    # empty_like keeps the strides of exactly such tensors
    return torch.empty_like(p, device="meta").stride() == p.stride()


class FlatBucket:
    """Memory for one value of every element of `params`, each in the order of the parameter's own memory."""

    def __init__(self, params: Sequence[torch.Tensor]) -> None:
        self.params = list(params)
        self.flat = torch.zeros(
            sum(p.numel() for p in params), dtype=params[0].dtype, device=params[0].device
        )
        self.views: list[torch.Tensor] = []
        at = 0
        for p in params:
            if is_dense(p):
                self.views.append(self.flat.as_strided(p.shape, p.stride(), at))
            else:
                self.views.append(self.flat[at : at + p.numel()].view(p.shape))
            at += p.numel()

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter(zip(self.params, self.views))


def grouped(params: Sequence[torch.Tensor], cap_mb: float, first_mb: float) -> list[FlatBucket]:
    """Buckets of about `cap_mb` MiB, in the order in which their last tensor comes; the first, of `first_mb`,
    is soon full, so that communication starts early."""
    if not (cap_mb > 0 and first_mb > 0):
        raise ArgumentError(f"sizes of buckets must be above 0 MiB, got {cap_mb} and {first_mb}")
    open_: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    full: list[list[torch.Tensor]] = []
    for p in params:
        members = open_.pop((p.dtype, p.device), [])
        members.append(p)
        if sum(m.numel() * m.element_size() for m in members) >= (cap_mb if full else first_mb) * MB:
            full.append(members)
        else:
            open_[p.dtype, p.device] = members  # at the end: the dict's order is that of last tensors
    return [FlatBucket(members) for members in (*full, *open_.values())]


@torch.no_grad()
def broadcast(tensors: Iterable[torch.Tensor], comm: Communicator, root: int = 0) -> None:
    """Every rank gets root's values, bit for bit."""
    alike: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    for t in tensors:
        if t.numel():
            alike.setdefault((t.dtype, t.device), []).append(t)
    for members in alike.values():
        bucket = FlatBucket(members)
        for t, view in bucket:
            view.copy_(t)
        # as bytes: a broadcast need not know the type, and not every type is one of a communicator's
        comm.broadcast(bucket.flat.view(torch.uint8), root)
        for t, view in bucket:
            t.copy_(view)
