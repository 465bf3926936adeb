"""Every private name of torch that this package leans on, in one place. Tried with torch 2.13.

A torch that lacks one of them raises an ArgumentError that says so, at the call that needs it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from gradwire.errors import ArgumentError

_c10d: Any = dist.distributed_c10d


def _need(name: str) -> Any:
    found = getattr(_c10d, name, None)
    if found is None:
        raise ArgumentError(
            f"torch {torch.__version__} has no torch.distributed.distributed_c10d.{name}; this gradwire was "
            "tried with torch 2.13: install that, or report the version"
        )
    return found


def group_named(name: str) -> dist.ProcessGroup:
    found: dist.ProcessGroup = _need("_resolve_process_group")(name)
    return found


def default_group() -> dist.ProcessGroup:
    found: dist.ProcessGroup = _need("_get_default_group")()
    return found


def store_of(group: dist.ProcessGroup, prefix: str) -> Any:
    """The group's own store, under a prefix."""
    return _need("PrefixStore")(prefix, _need("_get_process_group_store")(group))
