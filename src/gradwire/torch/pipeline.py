"""Pipeline parallelism: what travels between stages of `torch.distributed.pipelining` goes through a codec.

    stage = PipelineStage(block, rank, size, device, group=pp)
    link = gradwire.torch.pipeline.apply(stage, activations="bf16", gradients="int8")
    Schedule1F1B(stage, 8, loss_fn=loss).step(x, target=y)

A schedule asks its stages for the sends and receives of a microbatch (`get_fwd_send_ops` and its three
sisters), carries them out through the stage's process group, waits, and calls `forward_one_chunk` or
`backward_one_chunk`. The link lies exactly there: a send gets its tensor's frame in the tensor's place
(csrc/codec/WIRE_FORMAT.md), a receive gets room for one, and the chunk's computation begins with decoding.
So every schedule works (GPipe, 1F1B, interleaved, zero bubble), over any backend of the group. Stages of one
rank hand tensors over as they are. (With DDP inside a stage torch 2.13 itself needs more microbatches than
stages: its first step averages twice, and regroups in between.)

There is no error feedback: activations differ from batch to batch, and what one lost is of no use to the
next. Each link adds one encode's error (csrc/codec), forward and backward.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

import gradwire
from gradwire import _native
from gradwire.codecs import Codec, as_codec
from gradwire.communicator import Communicator
from gradwire.errors import ArgumentError

from . import private
from .mappings import Side as CodecOrName

__all__ = ["Link", "Side", "apply"]

CODED = (torch.float32, torch.bfloat16, torch.float16)  # others, such as masks, travel as they are


@dataclass
class Side:
    """One direction: its codec, and what this rank has sent that way.

    bytes_sent: as it travelled, frame headers included. dense_bytes: the same tensors without codec.
    waited_s: time before computations of this direction, in which the rank sent and waited: exposed
    communication and the pipeline's bubbles, which look alike from here.
    """

    codec: Codec | None
    sends: int = 0
    bytes_sent: int = 0
    dense_bytes: int = 0
    waited_s: float = 0.0


@dataclass
class Link:
    """What `apply` returns: activations travel forward, their gradients backward."""

    forward: Side
    backward: Side
    comm: Communicator | None = None
    _since: float | None = None  # end of the last thing a stage did, if what follows is waiting

    @property
    def ratio(self) -> float:
        sent = self.forward.bytes_sent + self.backward.bytes_sent
        return (self.forward.dense_bytes + self.backward.dense_bytes) / sent if sent else 1.0

    def enter(self, side: Side) -> None:
        if self._since is not None:
            side.waited_s += time.monotonic() - self._since

    def leave(self, waiting: bool) -> None:
        self._since = time.monotonic() if waiting else None


class _StageLink:
    """The link's side of one stage. It replaces the stage's methods by its own of the same name."""

    def __init__(self, link: Link, stage: Any) -> None:
        self._link, self._stage = link, stage
        self._arriving: dict[tuple[str, int], list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self._step = 0  # for codecs that draw random numbers
        theirs = private.pipeline_methods(stage)
        forward, backward = "forward_one_chunk", "backward_one_chunk"
        ours: dict[str, Callable[..., Any]] = {
            "clear_runtime_states": self._begin_step,
            "get_fwd_send_ops": partial(self._send_ops, side=link.forward),
            "get_fwd_recv_ops": partial(self._recv_ops, side=link.forward, awaited_by=forward),
            "get_bwd_send_ops": partial(self._send_ops, side=link.backward),
            "get_bwd_recv_ops": partial(self._recv_ops, side=link.backward, awaited_by=backward),
            forward: partial(self._compute, side=link.forward, name=forward),
            backward: partial(self._compute, side=link.backward, name=backward),
            "backward_weight_one_chunk": partial(self._compute, side=link.backward, name=""),
        }
        for name, method in ours.items():
            setattr(stage, name, partial(method, theirs[name]))
        stage.gradwire_link = link

    def _begin_step(self, original: Callable[[], None]) -> None:
        self._link.leave(waiting=False)  # whatever the program did between two steps
        original()

    def _send_ops(self, original: Callable[[int], Any], chunk: int, *, side: Side) -> Any:
        self._link.enter(side)
        ops = original(chunk)
        for op in ops:
            dense = op.tensor
            op.tensor = dense.contiguous()
            if side.codec is not None and dense.dtype in CODED:
                op.tensor = gradwire.encode(op.tensor, side.codec, step=self._step)
                self._step += 1
            side.sends += 1
            side.dense_bytes += dense.nbytes
            side.bytes_sent += op.tensor.nbytes
            if self._link.comm is not None:
                op.op = partial(_send, self._link.comm, op.group_peer)
        self._link.leave(waiting=True)
        return ops

    def _recv_ops(self, original: Callable[[int], Any], chunk: int, *, side: Side, awaited_by: str) -> Any:
        self._link.enter(side)
        ops = original(chunk)
        arriving = self._arriving[awaited_by, chunk] = []
        for op in ops:
            target = op.tensor.detach()
            if side.codec is not None and target.dtype in CODED:
                op.tensor = target.new_empty(_native.frame_bytes(target, side.codec), dtype=torch.uint8)
                arriving.append((op.tensor, target))
            if self._link.comm is not None:
                op.op = partial(_recv, self._link.comm, op.group_peer)
        self._link.leave(waiting=True)
        return ops

    def _compute(
        self, original: Callable[..., Any], chunk: int, *args: Any, side: Side, name: str, **how: Any
    ) -> Any:
        self._link.enter(side)
        for frame, target in self._arriving.pop((name, chunk), ()):
            gradwire.decode(frame, target)
        try:
            return original(chunk, *args, **how)
        finally:
            # what follows the last stage's forward pass is the loss
            self._link.leave(waiting=not (side is self._link.forward and self._stage.is_last))


# What a schedule calls for an operation when a communicator carries it, with the group's own keywords.
def _send(comm: Communicator, peer: int, x: torch.Tensor, **_: Any) -> Any:
    return comm.send(x, peer, async_op=True)


def _recv(comm: Communicator, peer: int, x: torch.Tensor, **_: Any) -> Any:
    return comm.recv(x.detach(), peer, async_op=True)


def apply(
    stage: Any,
    activations: CodecOrName = None,
    gradients: CodecOrName = None,
    comm: Communicator | None = None,
) -> Link:
    """Codes what a pipeline stage exchanges with its neighbours. Call it on every rank before the first step.

    stage: a `PipelineStage`, or all of this rank's for an interleaved schedule. activations, gradients: how
    tensors of float32, bfloat16 and float16 travel forward and backward, the same on every rank; None: as
    they are. Their codecs need a fixed size. comm: a communicator over the ranks of the stage's group
    (`gradwire.torch.communicator(group)`) that carries them, with its deadlines and errors; None: the group
    itself, whatever its backend. Raises ArgumentError for a codec or communicator that does not fit.

    >>> stage = PipelineStage(block, rank, size, device, group=pp)               # doctest: +SKIP
    >>> link = gradwire.torch.pipeline.apply(stage, "bf16", "int8")             # doctest: +SKIP
    >>> Schedule1F1B(stage, 8, loss_fn=loss).step(x, target=y); link.ratio      # doctest: +SKIP
    2.8
    """
    stages: Sequence[Any] = stage if isinstance(stage, (list, tuple)) else [stage]
    if not stages:
        raise ArgumentError("pipeline.apply() wants at least one stage of this rank, got none")
    codecs = as_codec(activations), as_codec(gradients)
    for codec in codecs:
        if codec is not None and not codec.fixed_size:
            raise ArgumentError(
                f"a receiving stage must know how many bytes come, and {codec!r} has no fixed size: take "
                "bf16 or int8"
            )
    for one in stages:
        private.pipeline_methods(one)
        if hasattr(one, "gradwire_link"):
            raise ArgumentError(f"stage {one.stage_index} has a link already: apply() once a stage")
        here = dist.get_rank(one.group), dist.get_world_size(one.group)
        if comm is not None and (comm.rank, comm.size) != here:
            raise ArgumentError(
                f"the stage's group has this process as rank {here[0]} of {here[1]}, the communicator as "
                f"{comm.rank} of {comm.size}: make it with gradwire.torch.communicator(group)"
            )
    link = Link(Side(codecs[0]), Side(codecs[1]), comm)
    for one in stages:
        _StageLink(link, one)
    return link
