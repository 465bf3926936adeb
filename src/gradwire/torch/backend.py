"""Enters "gradwire" among torch.distributed's backends: `import gradwire.torch`, then

torch.distributed.init_process_group("gradwire")
"""

from __future__ import annotations

import atexit
import secrets
import weakref
from datetime import timedelta
from typing import Any

import numpy as np
import torch.distributed as dist

from gradwire.codecs import Codec, as_codec
from gradwire.communicator import init
from gradwire.errors import ArgumentError

from . import private
from .process_group import ProcessGroup

_open: weakref.WeakSet[ProcessGroup] = weakref.WeakSet()


class ProcessGroupOptions(private.BackendOptions):  # type: ignore[misc]
    """What a group of backend "gradwire" does beside torch's arguments: `pg_options` of init_process_group
    and new_group, or in a DeviceMesh's `backend_override`. The same on every rank.

    codec: how sums and averages of float32, bfloat16 and float16 tensors of at least min_numel elements
    travel in all_reduce, reduce and reduce_scatter; None: as they are. A group knows no parameters, so there
    is no error feedback: take a codec with a small error ("bf16", "int8") here, and `gradwire.torch.attach`
    for the others. algorithm: with the codec, as in `Communicator.all_reduce`. settings: of `gradwire.init`.

    >>> options = gradwire.torch.ProcessGroupOptions(codec="int8")  # doctest: +SKIP
    >>> torch.distributed.init_process_group("gradwire", pg_options=options)  # doctest: +SKIP
    """

    def __init__(
        self,
        codec: Codec | str | None = None,
        algorithm: str = "auto",
        min_numel: int = 1024,
        **settings: Any,
    ) -> None:
        super().__init__("gradwire", timedelta(minutes=30))
        self.codec, self.algorithm, self.min_numel = as_codec(codec), algorithm, min_numel
        self.settings = settings


def _create(given: Any, options: Any) -> ProcessGroup:
    options = ProcessGroupOptions() if options is None else options
    if not isinstance(options, ProcessGroupOptions):
        raise ArgumentError(
            f"pg_options must be a gradwire.torch.ProcessGroupOptions, got {type(options).__name__}"
        )
    rank, size, store = given.group_rank, given.group_size, given.store
    comm = init(rank=rank, size=size, store=store, timeout=given.timeout, **options.settings)
    try:
        # torchrun's store survives a restart, and Gloo would find the dead workers' addresses in it: keys
        # that only this generation knows.
        nonce = np.frombuffer(secrets.token_bytes(16), np.uint8).copy()
        comm.broadcast(nonce)
        under = private.prefixed(store, f"gloo/{nonce.tobytes().hex()}/")
        group = ProcessGroup(comm, dist.ProcessGroupGloo(under, rank, size, timeout=given.timeout), options)
        # Until everybody is connected nobody may go: Gloo fails where a peer leaves while it connects.
        comm.barrier()
    except BaseException:
        comm.close()
        raise
    _open.add(group)
    return group


@atexit.register
def _close_all() -> None:
    # Before the interpreter goes: native threads must not outlive it, nor a registry in C++ hold Python
    # objects.
    for group in list(_open):
        group.shutdown()


if dist.is_available():
    dist.Backend.register_backend("gradwire", _create, extended_api=True, devices=["cpu"])
