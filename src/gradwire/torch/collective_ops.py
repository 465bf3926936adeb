"""Collectives as torch operators: functional, traceable by torch.compile, sums of CPU tensors.

    torch.ops.gradwire.all_reduce(x, group, codec, op="sum")  [...] -> [...]
    torch.ops.gradwire.all_gather(x, group, codec)       [d, ...] -> [n d, ...]
    torch.ops.gradwire.reduce_scatter(x, group, codec)   [n d, ...] -> [d, ...]

group: the name of a process group of n ranks. codec: as `gradwire.codec` reads it, or "" for none. They have
no derivative of their own: `mappings.py` pairs each with the collective that its gradient needs.
"""

from __future__ import annotations

from typing import Any

import torch

from gradwire.errors import ArgumentError

from .groups import communicator_named
from .private import group_named
from .usage import counted

# FRAGMENT: the namespace's definitions are spread over files.
_torch: Any = torch.library  # untyped
_library = _torch.Library("gradwire", "FRAGMENT")
_library.define('all_reduce(Tensor x, str group, str codec, str op="sum") -> Tensor')
_library.define("all_gather(Tensor x, str group, str codec) -> Tensor")
_library.define("reduce_scatter(Tensor x, str group, str codec) -> Tensor")


def _all_reduce(x: torch.Tensor, group: str, codec: str, op: str = "sum") -> torch.Tensor:
    comm = communicator_named(group)
    out = x.clone(memory_format=torch.contiguous_format)
    with counted(comm, "all_reduce", codec, 2 * (comm.size - 1) * x.nbytes // comm.size) as algorithm:
        return comm.all_reduce(out, op=op, codec=codec or None, algorithm=algorithm)


def _all_gather(x: torch.Tensor, group: str, codec: str) -> torch.Tensor:
    comm = communicator_named(group)
    out = x.new_empty((comm.size * x.shape[0], *x.shape[1:]))
    with counted(comm, "all_gather", codec, (comm.size - 1) * x.nbytes) as algorithm:
        comm.all_gather(x.contiguous(), out, codec=codec or None, algorithm=algorithm)
    return out


def _reduce_scatter(x: torch.Tensor, group: str, codec: str) -> torch.Tensor:
    comm = communicator_named(group)
    out = x.new_empty((_share(x, comm.size), *x.shape[1:]))
    with counted(comm, "reduce_scatter", codec, (comm.size - 1) * x.nbytes // comm.size) as algorithm:
        comm.reduce_scatter(x.contiguous(), out, codec=codec or None, algorithm=algorithm)
    return out


def _share(x: torch.Tensor, size: int) -> int:
    rows = int(x.shape[0])
    if rows % size:
        raise ArgumentError(
            f"reduce_scatter cuts the first dimension into {size} equal parts, but it has {rows} rows: pad it"
        )
    return rows // size


def _size(group: str) -> int:
    return group_named(group).size()


_library.impl("all_reduce", _all_reduce, "CPU")
_library.impl("all_gather", _all_gather, "CPU")
_library.impl("reduce_scatter", _reduce_scatter, "CPU")


def _fake_all_reduce(x: torch.Tensor, group: str, codec: str, op: str = "sum") -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _fake_all_gather(x: torch.Tensor, group: str, codec: str) -> torch.Tensor:
    return x.new_empty((_size(group) * x.shape[0], *x.shape[1:]))


def _fake_reduce_scatter(x: torch.Tensor, group: str, codec: str) -> torch.Tensor:
    return x.new_empty((x.shape[0] // _size(group), *x.shape[1:]))


_torch.register_fake("gradwire::all_reduce", _fake_all_reduce, lib=_library)
_torch.register_fake("gradwire::all_gather", _fake_all_gather, lib=_library)
_torch.register_fake("gradwire::reduce_scatter", _fake_reduce_scatter, lib=_library)
