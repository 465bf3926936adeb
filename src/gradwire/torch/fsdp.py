"""FSDP2 and HSDP with coded collectives: `handle = gradwire.torch.fsdp.apply(model, reduce_scatter="int8")`.

Per module of `fully_shard`: gradients are reduce-scattered and parameters all-gathered over the shard group,
and on a 2-D mesh (HSDP) gradients are all-reduced over the replicate group. Each has a codec. Gradient sums
have error feedback, by module; parameters need none, since their full-precision shards stay where they are.
"""

from __future__ import annotations

import atexit
import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Union

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule

from gradwire.codecs import Codec
from gradwire.errors import ArgumentError
from gradwire.feedback import ErrorFeedback
from gradwire.policy import Policy
from gradwire.stages import Stages

from . import fsdp_state
from .checkpoint import clean_name
from .fsdp_comms import AllGather, CodecAt, Lines, ReduceScatter, Replicas, Sums
from .fsdp_layout import Layout, Piece
from .groups import new_communicator
from .private import ParamGroup, param_groups

CodecRule = Union[str, Codec, Stages, Policy, Mapping[str, Any], None]
_open_handles: weakref.WeakSet[Handle] = weakref.WeakSet()


@dataclass(frozen=True)
class Stats:
    """Since `apply`. Bytes are those this rank sent, frame headers included."""

    calls: dict[str, int]  # by collective
    bytes_sent: int
    socket_bytes_sent: int  # the part that the kernel accepted on sockets
    dense_bytes: int  # the same calls without codecs, in the dtype that FSDP sends
    ratio: float  # dense_bytes / bytes_sent
    exposed_s: float  # seconds in which this rank waited for communication
    residual_norm: float


class Handle:
    """What `apply` returns: figures, checkpoints, and the end. Also a context manager that closes."""

    def __init__(
        self, lines: Lines, units: list[fsdp_state.Unit], feedbacks: list[ErrorFeedback | None]
    ) -> None:
        self._lines, self._units, self._feedbacks = lines, units, feedbacks
        _open_handles.add(self)

    def stats(self) -> Stats:
        lines, sent = self._lines, self._lines.bytes_sent()
        return Stats(
            calls=dict(lines.calls),
            bytes_sent=sent,
            socket_bytes_sent=lines.bytes_sent("socket_bytes_sent"),
            dense_bytes=lines.dense_bytes,
            ratio=lines.dense_bytes / sent if sent else 1.0,
            exposed_s=lines.exposed_s,
            residual_norm=math.hypot(*(f.norm() for f in self._feedbacks if f is not None)),
        )

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Steps, world size and residuals, under `rank{r}/{parameter}`: every rank's are its own."""
        return fsdp_state.save(self._units, dist.get_rank(), dist.get_world_size())

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Of as many ranks, or the merged dict of all ranks of another number or mesh: what the residuals add
        to the average is kept. ArgumentError, with nothing changed, if something is missing."""
        fsdp_state.load(self._units, state, dist.get_rank(), dist.get_world_size())

    def close(self) -> None:
        """Ends the communicators. The model cannot run afterwards. Idempotent."""
        self._lines.close()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@atexit.register
def _close_all() -> None:
    # Before the interpreter goes: a native thread must not outlive it.
    for handle in list(_open_handles):
        handle.close()


def apply(
    model: nn.Module,
    reduce_scatter: CodecRule = "int8",
    all_gather: CodecRule = None,
    all_reduce: CodecRule = "int8",
    *,
    error_feedback: bool = True,
    residual: str = "fp32",
    min_numel: int | None = None,
    connect: Callable[..., Any] = new_communicator,
    **settings: Any,
) -> Handle:
    """Lets gradwire do the communication of a model that `fully_shard` has been applied to. Call it on every
    rank, before the first forward, once parameters that stay frozen are frozen.

    reduce_scatter, all_gather, all_reduce: how gradients, parameters and, on a 2-D mesh, the gradients' sums
    over the replicas travel: a codec's name or a Codec; None, unchanged; a `gradwire.Stages` (not for
    all_gather); or any of these by module name, first match wins: {"blocks.*": "int4", "*": None} (the root's
    name is ""). min_numel: modules with fewer elements are never coded; by default 1024 beside one codec for
    all, 0 beside names. error_feedback: what gradient codecs lose is kept per module and added to the next
    step. residual: how it rests, "fp32", "bf16" or "int8" (4, 2 or 1.03 bytes an element of the whole
    module, on every rank). connect: makes the communicator of a process group, with `settings` (of
    `gradwire.init`). Raises ArgumentError for a model without fully_shard, an unknown codec, or a pattern
    that matches nothing.

    Works beside tensor parallelism on a mesh of both (`parallelize_module`, then `fully_shard` along the
    other axes). On CPU gradients' sums do not overlap backward: torch's FSDP2 has no streams there, and its
    reduce-scatter returns when it is done; all-gathers are prefetched.

    With codec None the results are torch's own up to the order of sums. All ranks hold the same parameters,
    bit for bit, after an all-gather, coded or not. A step in which some trainable parameter of a module has
    no gradient travels exactly (`set_reduce_scatter_unused_params` makes such steps whole).

    >>> fully_shard(model)                                               # doctest: +SKIP
    >>> handle = gradwire.torch.fsdp.apply(model, "int8", "bf16")        # doctest: +SKIP
    >>> handle.stats().ratio                                             # doctest: +SKIP
    3.1
    """
    found = _groups(model)
    rules = [_Rule(rule, list(found), min_numel) for rule in (reduce_scatter, all_gather, all_reduce)]
    if any(len(rules[1].of(name, 1 << 30).ever()) > 1 for name in found):
        raise ArgumentError("all_gather takes a codec, not Stages: a step gathers several times")
    lines = Lines(partial(connect, **settings))
    feedbacks = [ErrorFeedback(residual) if error_feedback else None for _ in range(2)]
    try:
        units = [_take_over(name, of, rules, lines, feedbacks) for name, of in found.items()]
    except BaseException:
        lines.close()
        raise
    return Handle(lines, units, feedbacks)


def _take_over(
    name: str,
    of: Found,
    rules: list[_Rule],
    lines: Lines,
    feedbacks: list[ErrorFeedback | None],
) -> fsdp_state.Unit:
    """Gives one module its own collectives."""
    module, group, layout = of
    unit = fsdp_state.Unit(name, layout)
    total, padding = layout.ranks * layout.count, layout.padding()
    scatter, gather, reduce = (r.of(name, total) for r in rules)
    if group.shard_group is not None and layout.ranks > 1:
        lines.of(group.shard_group)
        unit.row = group.shard_group.rank()
        unit.scatter = Sums(name, total, padding, scatter, feedbacks[0])
        module.set_custom_reduce_scatter(ReduceScatter(lines, unit.scatter))
        module.set_custom_all_gather(AllGather(lines, gather.at(0)))
    if group.replicate_group is not None:
        replicas = getattr(group.replicate_group, "group", group.replicate_group)  # of an earlier `apply`
        lines.of(replicas)
        unit.replica, unit.replicas = replicas.rank(), replicas.size()
        begin = unit.row * layout.count
        own = padding[(padding >= begin) & (padding < begin + layout.count)] - begin
        unit.reduce = Sums(name, layout.count, own, reduce, feedbacks[1])
        group.replace_replicate_group(Replicas(lines, replicas, unit.reduce))
    return unit


class Found(NamedTuple):
    module: Any
    group: ParamGroup
    layout: Layout  # of its trainable parameters


def _groups(model: nn.Module) -> dict[str, Found]:
    """By module name."""
    names = {id(m): clean_name(name) for name, m in model.named_modules()}
    found: dict[str, Found] = {}
    seen = set()
    for name, module in model.named_modules():
        groups = param_groups(module) if isinstance(module, FSDPModule) else []
        if len(groups) > 1:
            raise ArgumentError(
                f"module {name!r} has {len(groups)} parameter groups (shard_placement_fn), "
                "to which torch cannot give collectives of their own: shard their parameters as modules"
            )
        for group in groups:
            if id(group) in seen:  # fully_shard([a, b]): one group of several modules
                continue
            seen.add(id(group))
            info = ParamGroup(group)
            pieces = [
                Piece(".".join(filter(None, (names.get(id(s.module), ""), s.name))), s.size, s.shard, s.dim)
                for s in info.shards
                if s.trainable
            ]
            ranks = info.shard_group.size() if info.shard_group is not None else 1
            found[clean_name(name)] = Found(module, info, Layout(pieces, ranks))
    if not found:
        raise ArgumentError(
            f"{type(model).__name__} has no module with fully_shard'ed parameters: call "
            "torch.distributed.fsdp.fully_shard on its blocks and on it first"
        )
    return found


class _Rule:
    """What the user said about one collective, checked."""

    def __init__(self, rule: CodecRule, names: list[str], min_numel: int | None) -> None:
        by_name = isinstance(rule, (Policy, Mapping))
        if not isinstance(rule, Policy):
            rule = Policy(rule if isinstance(rule, Mapping) else {"*": rule})
        self._policy = rule
        self._min_numel = (0 if by_name else 1024) if min_numel is None else min_numel
        for choice in self._policy.choices():
            if choice is not None and not isinstance(choice, Codec):
                raise ArgumentError(f"FSDP's collectives take a codec; {choice!r} is for DDP")
        for name in names:
            self._policy.at(name)  # raises for a name that nothing matches, before any step
        unused = [p for p in self._policy.unused(names) if p.strip("*")]
        if unused:
            raise ArgumentError(
                f"patterns that decide nothing: {', '.join(map(repr, unused))}; the modules are {names}"
            )

    def of(self, name: str, numel: int) -> CodecAt:
        coded = numel >= self._min_numel
        return CodecAt(self._policy, name, coded)
