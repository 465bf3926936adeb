"""Who am I, and where do the others meet? Reads the environment that launchers set.

torchrun and gradwire run: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, TORCHELASTIC_*. Open MPI:
OMPI_COMM_WORLD_*. MPICH and Intel MPI: PMI_*. Slurm: SLURM_PROCID, SLURM_NTASKS and the node list.
GRADWIRE_STORE names the store whatever the launcher.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from gradwire.errors import ArgumentError, RendezvousError
from gradwire.store import FileStore, Store, TorchStore
from gradwire.tcp_store import TcpStore


@dataclass(frozen=True)
class Launch:
    """rank of size; run: a name that this start of the job has for itself, so that what an earlier start left
    in a store that outlives it is not read.
    """

    rank: int
    size: int
    launcher: str
    run: str


# launcher, rank, size, and whatever names the run: in this order of preference
_LAUNCHERS = (
    ("torchrun", "RANK", "WORLD_SIZE", ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")),
    (
        "Open MPI",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"),
    ),
    ("MPI", "PMI_RANK", "PMI_SIZE", ("PMI_JOBID", "PMI_PORT")),
    ("Slurm", "SLURM_PROCID", "SLURM_NTASKS", ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")),
)


def discover(env: Mapping[str, str] = os.environ) -> Launch:
    """Rank and size as the launcher says; ArgumentError if there is none."""
    for launcher, rank, size, names in _LAUNCHERS:
        if env.get(rank) and env.get(size):
            run = "-".join(env[name] for name in names if env.get(name))
            return Launch(_number(env, rank), _number(env, size), launcher, run)
    raise ArgumentError(
        "gradwire.init(): no launcher found (gradwire run, torchrun, Open MPI, MPICH, Intel MPI, Slurm). "
        "Start with, say, `gradwire run -n 2 script.py`, or pass rank=, size= and store="
    )


def _number(env: Mapping[str, str], name: str) -> int:
    try:
        return int(env[name])
    except ValueError:
        raise ArgumentError(f"{name}: expected a number, got {env[name]!r}") from None


def open_store(store: Any, rank: int, timeout: float) -> tuple[Store, bool]:
    """A Store from whatever the caller gave, and whether it is ours to close."""
    if isinstance(store, Store):
        return store, False
    if isinstance(store, (str, os.PathLike)):
        return _open_url(os.fspath(store), rank, timeout), True
    if all(hasattr(store, method) for method in ("set", "get", "check")):
        return TorchStore(store), False
    raise ArgumentError(
        f'store must be "file:///path", "tcp://host:port", a torch Store or a gradwire Store, got '
        f"{type(store).__name__}"
    )


def _open_url(url: str, rank: int, timeout: float) -> Store:
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path.startswith("/") and parts.netloc in ("", "localhost"):
        return FileStore(unquote(parts.path))
    if parts.scheme == "tcp":
        try:
            host, port = parts.hostname, parts.port
        except ValueError:  # not a number, or too large
            host, port = None, None
        if host and port:
            return TcpStore(host, port, serve=rank == 0, timeout=timeout)
    raise ArgumentError(f'store {url!r}: expected "file:///absolute/path" or "tcp://host:port"')


def default_store(launch: Launch, timeout: float, env: Mapping[str, str] = os.environ) -> tuple[Store, bool]:
    """The store of a job whose caller named none, and whether it is ours to close."""
    if env.get("GRADWIRE_STORE"):
        return open_store(env["GRADWIRE_STORE"], launch.rank, timeout)
    # torch's own group is already up: its store serves every rank of it.
    group_store = _torch_group_store()
    if group_store is not None:
        return TorchStore(group_store), False
    host, port = env.get("MASTER_ADDR"), env.get("MASTER_PORT")
    if host and port:
        if env.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            return TorchStore(_agent_store(host, _number(env, "MASTER_PORT"), timeout)), False
        # + 1: MASTER_PORT itself stays free for a later torch.distributed.init_process_group.
        return TcpStore(host, _number(env, "MASTER_PORT") + 1, launch.rank == 0, timeout), True
    if launch.launcher == "Slurm":
        nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or env.get("SLURM_NODELIST")
        if nodes:
            return TcpStore(first_host(nodes), _port_of(launch.run), launch.rank == 0, timeout), True
    local = env.get("OMPI_COMM_WORLD_LOCAL_SIZE") or env.get("MPI_LOCALNRANKS")
    if local == str(launch.size):
        return FileStore(_private_directory(launch.run or f"parent-{os.getppid()}")), True
    raise ArgumentError(
        f"gradwire.init(): {launch.launcher} tells rank {launch.rank} of {launch.size} but not where they "
        "meet; set GRADWIRE_STORE=tcp://host:port (host of rank 0) or file:///shared/path on every rank"
    )


def _torch_group_store() -> Any | None:
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed.distributed_c10d._get_default_store()


def _agent_store(host: str, port: int, timeout: float) -> Any:
    """torchrun's own store, which the agent serves: it survives the loss of any rank."""
    from datetime import timedelta

    try:
        import torch.distributed as torch_distributed  # torchrun has brought torch along

        dist: Any = torch_distributed  # its type information hides TCPStore
        return dist.TCPStore(host, port, None, False, timedelta(seconds=timeout), wait_for_workers=False)
    except (ImportError, RuntimeError) as error:
        raise RendezvousError(f"cannot reach torchrun's store at {host}:{port}: {error}") from error


def first_host(nodes: str) -> str:
    """The first of a Slurm node list: "gpu[007-010,12],login" -> "gpu007"."""
    match = re.match(r"([^\[,]+)(?:\[([0-9]+)[^\]]*\]([^,\[]*))?", nodes)
    if match is None:
        raise ArgumentError(f"cannot read the Slurm node list {nodes!r}; set GRADWIRE_STORE=tcp://host:port")
    return "".join(part or "" for part in match.groups())


def _port_of(run: str) -> int:
    """The same port on every rank, rarely another job's; below Linux' range for outgoing connections."""
    return 20000 + int.from_bytes(hashlib.sha256(run.encode()).digest()[:4], "little") % 10000


def _private_directory(run: str) -> Path:
    """One directory per user and run. Refused if someone else has put something there first."""
    name = re.sub(r"[^\w.-]", "_", f"gradwire-{os.getuid()}-{run}")[:200]
    path = Path(tempfile.gettempdir()) / name
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise RendezvousError(f"{path} belongs to someone else; set GRADWIRE_STORE=file:///another/path")
    return path
