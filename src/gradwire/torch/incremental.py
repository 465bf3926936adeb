"""Checkpoints that hold what changed since the checkpoint before, one file a step and rank.

A state is taken apart into its tensors, which go into a chain of files (chain.py), and everything else, in
which a tensor's place is held by its number (Python's own: a tensor takes half a KB of file). Of a DTensor
this rank's shard is kept, and where it belongs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from gradwire.errors import ArgumentError

from . import chain
from .chain import BrokenCheckpoint, Chain, Tensors, Written

_PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device, torch.Size)
_REMEDY = "torch.distributed.checkpoint with an IncrementalStorageWriter takes it"


class IncrementalWriter:
    """Writes a state again and again, one file a step, mostly differences.

    A state: dicts, lists and tuples, one in another, of tensors on any device, DTensors and plain data
    (numbers, strings, bytes, None, dtypes): what `state_dict()` of models, optimizers and schedulers gives.
    folder: one per rank; made if missing. full_every: so many files form a chain, of which all are needed. A
    copy of the last state's tensors is kept in memory. A writer begins with a whole file. Files appear
    whole or not at all. For loading on another number of ranks see `IncrementalStorageWriter`.

    >>> writer = gradwire.torch.IncrementalWriter(f"checkpoints/rank{rank}")  # doctest: +SKIP
    >>> state = {"model": model.state_dict(), "epoch": 3}                     # doctest: +SKIP
    >>> writer.save(step, state).bytes                                        # doctest: +SKIP
    >>> state = gradwire.torch.load_incremental(f"checkpoints/rank{rank}")    # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike[str], full_every: int = 10) -> None:
        self._chain = Chain(full_every)
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._step = -1

    def save(self, step: int, state: Any) -> Written:
        """ArgumentError unless `step` grows and the state is of the kind described above."""
        if step <= self._step:
            raise ArgumentError(f"step {step} was given after step {self._step}: steps must grow")
        tensors: Tensors = {}
        shards: dict[str, Any] = {}
        tree = _take_apart(state, "", tensors, shards)
        written = self._chain.write(_path(self._folder, step), tensors, {"tree": tree, "shards": shards})
        self._step = step
        return written


def load_incremental(folder: str | os.PathLike[str], step: int | None = None, like: Any = None) -> Any:
    """The state of a step (None: the last one), bit for bit, on the CPU.

    like: a state of the same structure, for what was saved from DTensors: they come back as DTensors on its
    meshes, without it as this rank's shards. ArgumentError if they were cut another way.
    BrokenCheckpoint names a file that is missing or damaged.

    >>> state = {"model": model.state_dict()}                                 # doctest: +SKIP
    >>> state = gradwire.torch.load_incremental(folder, like=state)           # doctest: +SKIP
    """
    root = Path(folder)
    if step is None:
        steps = sorted(int(p.stem) for p in root.glob("*.gwc"))
        if not steps:
            raise BrokenCheckpoint(root, "no checkpoint is there")
        step = steps[-1]
    tensors, rest = chain.read(_path(root, step))
    if like is not None:
        there: Tensors = {}
        _take_apart(like, "", there, {}, whole=True)
        for name, shard in rest["shards"].items():
            tensors[name] = _placed(name, tensors[name], shard, there.get(name))
    return _put_together(rest["tree"], list(tensors.values()))


def _path(folder: Path, step: int) -> Path:
    return folder / f"{step:010d}.gwc"


def _take_apart(x: Any, at: str, tensors: Tensors, shards: dict[str, Any], whole: bool = False) -> Any:
    """What x is, and what is in it: of a tensor its number. at: where in the state. whole: keep DTensors."""
    if isinstance(x, dict):
        return "dict", {k: _take_apart(v, f"{at}[{k!r}]", tensors, shards, whole) for k, v in x.items()}
    if type(x) in (list, tuple):
        inside = [_take_apart(v, f"{at}[{i}]", tensors, shards, whole) for i, v in enumerate(x)]
        return type(x).__name__, inside
    if isinstance(x, DTensor):
        shards[at] = _cut(x)
        tensors[at] = x if whole else x.to_local()
    elif type(x) in (torch.Tensor, torch.nn.Parameter) and x.layout == torch.strided and not x.is_quantized:
        tensors[at] = x
    elif type(x) in _PLAIN:
        return "plain", x
    else:
        raise ArgumentError(
            f"the state at {at or 'its top'} is {type(x).__name__}: expected dicts, lists and tuples of "
            f"dense tensors and plain data; {_REMEDY}"
        )
    return "tensor", len(tensors) - 1


def _put_together(tree: tuple[str, Any], tensors: list[torch.Tensor]) -> Any:
    what, inside = tree
    if what == "dict":
        return {k: _put_together(v, tensors) for k, v in inside.items()}
    if what in ("list", "tuple"):
        made = [_put_together(v, tensors) for v in inside]
        return tuple(made) if what == "tuple" else made
    return tensors[inside] if what == "tensor" else inside


def _cut(x: DTensor) -> tuple[Any, ...]:
    """Which part of what this rank has: size of the whole, placements, mesh, place in it."""
    mesh = x.device_mesh
    return tuple(x.shape), str(x.placements), tuple(mesh.shape), tuple(mesh.get_coordinate() or ())


def _placed(name: str, local: torch.Tensor, cut: tuple[Any, ...], like: torch.Tensor | None) -> torch.Tensor:
    if not isinstance(like, DTensor) or _cut(like) != cut:
        got = _cut(like) if isinstance(like, DTensor) else type(like).__name__
        raise ArgumentError(
            f"{name} was saved as a shard (size, placements, mesh, place in it) {cut}, like= has {got}: load "
            f"on the mesh it was saved on; {_REMEDY} to any other"
        )
    local = local.to(like.to_local().device)
    return DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
