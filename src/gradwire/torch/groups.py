"""Communicators over the ranks of torch process groups, met through the groups' own stores."""

from __future__ import annotations

import atexit
import weakref
from typing import Any

import torch.distributed as dist

from gradwire import init
from gradwire.communicator import Communicator
from gradwire.errors import ArgumentError

from . import private
from .carrier import Carrier

# Communicators made so far, per group: part of their name in the store, which outlives them.
_made: dict[str, int] = {}
# The one that everything without state of its own shares. A later group may have the name of one that was
# destroyed, so the group itself is compared.
_shared: dict[str, tuple[weakref.ref[dist.ProcessGroup], Communicator]] = {}


def new_communicator(
    group: dist.ProcessGroup, carrier: dist.ProcessGroup | None = None, **settings: Any
) -> Communicator:
    """A fresh communicator over the group's ranks; all of them call it, equally often. settings: of
    `gradwire.init`. carrier: a group of the same ranks through which it sends instead (see `Carrier`)."""
    if carrier is not None:
        if settings:
            raise ArgumentError(f"{sorted(settings)} are for connections of our own, but carrier= was given")
        if dist.get_process_group_ranks(carrier) != dist.get_process_group_ranks(group):
            raise ArgumentError("carrier= must be a group of the same ranks in the same order")
        return Carrier(carrier)
    name = group.group_name
    _made[name] = _made.get(name, 0) + 1
    # The n-th of a group meets under its own name: keys of the one before must not be found.
    store = private.store_of(group, f"gradwire/torch/{name}/{_made[name]}")
    return init(rank=dist.get_rank(group), size=dist.get_world_size(group), store=store, **settings)


def communicator(
    group: dist.ProcessGroup | None = None, carrier: dist.ProcessGroup | None = None
) -> Communicator:
    """The communicator that a group's tensor-parallel layers share; made at the first call, on every rank.

    group: None is the default group. Its ranks must make the same calls in the same order, as with any
    communicator. carrier: a group of the same ranks whose engine carries it, `group` itself or another (see
    `Carrier`): it counts at the first call. Closed when the process ends.

    >>> comm = gradwire.torch.communicator(mesh["tp"].get_group())  # doctest: +SKIP
    """
    if not dist.is_initialized():
        raise ArgumentError("torch.distributed is not initialised: call init_process_group() first")
    group = group if group is not None else private.default_group()
    name = group.group_name
    known = _shared.get(name)
    if known is not None:
        if known[0]() is group:
            return known[1]
        known[1].close()
    comm = new_communicator(group, carrier)
    _shared[name] = (weakref.ref(group), comm)
    return comm


def share(group: dist.ProcessGroup, comm: Communicator) -> None:
    """From now on `communicator(group)` is this one."""
    known = _shared.pop(group.group_name, None)
    if known is not None and known[1] is not comm:
        known[1].close()
    _shared[group.group_name] = (weakref.ref(group), comm)


def communicator_named(name: str) -> Communicator:
    """Of the group with this name: what a compiled graph knows of a group."""
    known = _shared.get(name)
    if known is not None and known[0]() is not None:
        return known[1]
    return communicator(private.group_named(name))


@atexit.register
def _close_all() -> None:
    # Before the interpreter goes: a native thread must not outlive it.
    while _shared:
        _shared.popitem()[1][1].close()
