"""The communication of tensor parallelism, by Megatron-LM's names: collectives whose gradients are the
matching collectives.

    function                                      forward                      backward
    copy_to_tensor_model_parallel_region          identity                     all_reduce
    reduce_from_tensor_model_parallel_region      all_reduce                   identity
    scatter_to_tensor_model_parallel_region       own share of the last dim    all_gather
    gather_from_tensor_model_parallel_region      all_gather, last dim         own share
    scatter_to_sequence_parallel_region           own share of dim 0           all_gather
    gather_from_sequence_parallel_region          all_gather, dim 0            reduce_scatter
    reduce_scatter_to_sequence_parallel_region    reduce_scatter, dim 0        all_gather

Common arguments: x, a CPU float tensor; group, a process group (None: the default one); codec, how it
travels: a name or Codec for both directions, a pair (forward, backward), or None for neither. Activations
carry no error feedback: they differ from batch to batch, and what one lost is of no use to the next. All
ranks of the group hold the same bits after an all_reduce or all_gather, coded or not. probe: see
`error_probe`. (Narayanan et al. 2021; Korthikanti et al. 2022.)
"""

from __future__ import annotations

from typing import Any, NamedTuple, Union

import torch
import torch.distributed as dist

from gradwire.codecs import Codec, as_codec

from . import (
    collective_ops,  # noqa: F401 - registers the operators
    private,
)
from .error_probe import Probe

Side = Union[str, Codec, None]
CodecPair = Union[Side, tuple[Side, Side]]  # of both directions, or (forward, backward)
Group = Union["dist.ProcessGroup", None]


class Spelled(NamedTuple):
    """Codecs of both directions as the operators take them; "" is none."""

    forward: str
    backward: str


def spelled(codec: CodecPair | Spelled) -> Spelled:
    """ArgumentError for an unknown codec, before anything is traced or sent. Layers do it once, when they are
    made: a compiled graph cannot look a codec up."""
    if isinstance(codec, Spelled):
        return codec
    forward, backward = codec if isinstance(codec, tuple) else (codec, codec)
    return Spelled(_spell(forward), _spell(backward))


def _spell(codec: Side) -> str:
    chosen = as_codec(codec)
    return "" if chosen is None else repr(chosen)


def group_of(group: Group) -> dist.ProcessGroup:
    return group if group is not None else private.default_group()


class Route(NamedTuple):
    """Operators of both directions; "share" cuts out this rank's part of dimension 0."""

    forward: str
    backward: str


class _Mapping(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *how: Any) -> torch.Tensor:
        group, route, codec, probe = ctx.how = how
        return _apply(x, group, route.forward, codec.forward, (probe, "forward"))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        group, route, codec, probe = ctx.how
        grad = _apply(grads[0], group, route.backward, codec.backward, (probe, "backward"))
        return grad, None, None, None, None


def _apply(
    x: torch.Tensor, group: str, collective: str, codec: str, watcher: tuple[Probe | None, str]
) -> torch.Tensor:
    if collective == "identity":
        return x.view_as(x)
    if collective == "share":
        of = private.group_named(group)
        width = x.shape[0] // of.size()
        return x.narrow(0, of.rank() * width, width).clone()
    op = getattr(torch.ops.gradwire, collective)
    out: torch.Tensor = op(x, group, codec)
    probe, direction = watcher
    if probe is not None and codec:
        probe.record(direction, collective, codec, out, op(x, group, ""))
    return out


def _map(
    x: torch.Tensor, group: Group, route: Route, codec: CodecPair | Spelled, probe: Probe | None
) -> torch.Tensor:
    of = group_of(group)
    if of.size() == 1:
        return x
    apply: Any = _Mapping.apply
    out: torch.Tensor = apply(x, of.group_name, route, spelled(codec), probe)
    return out


def copy_to_tensor_model_parallel_region(
    x: torch.Tensor, group: Group = None, codec: CodecPair | Spelled = None, probe: Probe | None = None
) -> torch.Tensor:
    """x itself; the gradients of all ranks are summed. In front of a column-parallel layer."""
    return _map(x, group, Route("identity", "all_reduce"), codec, probe)


def reduce_from_tensor_model_parallel_region(
    x: torch.Tensor, group: Group = None, codec: CodecPair | Spelled = None, probe: Probe | None = None
) -> torch.Tensor:
    """The sum over the ranks; the gradient passes. Behind a row-parallel layer.

    >>> y = reduce_from_tensor_model_parallel_region(partial_sum, codec="int8")  # doctest: +SKIP
    """
    return _map(x, group, Route("all_reduce", "identity"), codec, probe)


def scatter_to_tensor_model_parallel_region(
    x: torch.Tensor, group: Group = None, codec: CodecPair | Spelled = None, probe: Probe | None = None
) -> torch.Tensor:
    """This rank's share of the last dimension, [..., n d] -> [..., d]; gradients are gathered."""
    return _map(_last_first(x), group, Route("share", "all_gather"), codec, probe).movedim(0, -1)


def gather_from_tensor_model_parallel_region(
    x: torch.Tensor, group: Group = None, codec: CodecPair | Spelled = None, probe: Probe | None = None
) -> torch.Tensor:
    """All ranks' shares of the last dimension, [..., d] -> [..., n d]; of the gradient each keeps its
    part."""
    return _map(_last_first(x), group, Route("all_gather", "share"), codec, probe).movedim(0, -1)


def scatter_to_sequence_parallel_region(
    x: torch.Tensor, group: Group = None, codec: CodecPair | Spelled = None, probe: Probe | None = None
) -> torch.Tensor:
    """This rank's share of dimension 0 (the sequence), [n s, ...] -> [s, ...]; gradients are gathered."""
    return _map(x, group, Route("share", "all_gather"), codec, probe)


def gather_from_sequence_parallel_region(
    x: torch.Tensor, group: Group = None, codec: CodecPair | Spelled = None, probe: Probe | None = None
) -> torch.Tensor:
    """The whole sequence, [s, ...] -> [n s, ...]; gradients are summed and scattered."""
    return _map(x, group, Route("all_gather", "reduce_scatter"), codec, probe)


def reduce_scatter_to_sequence_parallel_region(
    x: torch.Tensor, group: Group = None, codec: CodecPair | Spelled = None, probe: Probe | None = None
) -> torch.Tensor:
    """The sum over the ranks, of which each keeps its share of dimension 0, [n s, ...] -> [s, ...]; gradients
    are gathered."""
    return _map(x, group, Route("reduce_scatter", "all_gather"), codec, probe)


def _last_first(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(-1, 0)
