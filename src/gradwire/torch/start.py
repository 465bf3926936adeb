"""torch.distributed under every launcher that gradwire knows."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from gradwire.launch import default_store, discover

_TIMEOUT_S = 300.0


def init_process_group(backend: str = "gloo", **options: Any) -> None:
    """`torch.distributed.init_process_group` under torchrun, `gradwire run`, Open MPI, MPICH, Intel MPI and
    Slurm: rank, size and meeting place come from the launcher, as in `gradwire.init`.

    options: of torch's own function. Raises ArgumentError if there is no launcher, RendezvousError if the
    ranks cannot meet.

    >>> gradwire.torch.init_process_group()  # mpirun -n 4 python train.py  # doctest: +SKIP
    """
    launch = discover()
    if os.environ.get("MASTER_ADDR") and os.environ.get("MASTER_PORT"):
        dist.init_process_group(backend, rank=launch.rank, world_size=launch.size, **options)
        return
    # The launcher has no port for torch: rank 0 opens one and says which through gradwire's own store.
    torch: Any = dist  # its type information hides TCPStore
    timeout = options.get("timeout", timedelta(seconds=_TIMEOUT_S))
    store, owned = default_store(launch, timeout.total_seconds())
    key = f"gradwire/{launch.run}/torch"
    try:
        if launch.rank == 0:
            tcp = torch.TCPStore("localhost", 0, launch.size, True, timeout, wait_for_workers=False)
            store.set(key, f"{socket.gethostname()}:{tcp.port}".encode())
        else:
            host, port = store.get(key, timeout.total_seconds()).decode().rsplit(":", 1)
            host = "localhost" if host == socket.gethostname() else host
            tcp = torch.TCPStore(host, int(port), launch.size, False, timeout, wait_for_workers=False)
        dist.init_process_group(backend, store=tcp, rank=launch.rank, world_size=launch.size, **options)
        dist.barrier()  # everyone has read the key
        if launch.rank == 0:
            store.remove(key)
    finally:
        if owned:
            store.close()
