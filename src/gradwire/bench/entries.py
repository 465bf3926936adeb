"""What is compared: gradwire with a codec and an algorithm, and peers. An entry reduces an array in place."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gradwire.bench import check
from gradwire.bench.arguments import UsageError
from gradwire.bench.check import Question, Verdict

if TYPE_CHECKING:
    from gradwire import Codec, Communicator


class Entry(Protocol):
    library: str
    algorithm: str  # as asked for; "auto" is resolved per size by chosen()
    codec: str
    bound: bool  # measured with the calling thread on cores of its own

    def check(self, q: Question) -> Verdict: ...

    def bind(self, array: Any, op: str) -> Any:
        """A function without arguments that reduces `array` once; all conversions are done here, untimed."""

    def chosen(self, q: Question) -> str: ...

    def predicted(self, q: Question) -> float | None:
        """Seconds by the cost model; None if there is none."""

    def wire_bytes(self, q: Question) -> int | None:
        """Bytes this rank sends in one call; None if the library does not count them."""

    def close(self) -> None: ...


class Gradwire:
    library = "gradwire"
    # Left alone, the kernel may put two ranks on one core, and after anything that sleeps, such as a peer, it
    # often does: then each call lasts until the other rank yields.
    bound = True

    def __init__(self, comm: Communicator, codec: Codec | None, spec: str, algorithm: str) -> None:
        self._comm, self._codec = comm, codec
        self.codec, self.algorithm = spec, algorithm
        self._lossy = codec is not None and codec.lossy

    def check(self, q: Question) -> Verdict:
        if self._lossy and self._codec is not None:
            return check.lossy(self._comm, q, self._codec, self.algorithm)
        return check.lossless(self._comm, q, lambda array: self.bind(array, q.op)())

    def bind(self, array: Any, op: str) -> Any:
        comm, codec, algorithm = self._comm, self._codec, self.algorithm
        all_reduce = comm.all_reduce
        return lambda: all_reduce(array, op, codec, algorithm)

    def chosen(self, q: Question) -> str:
        if self.algorithm != "auto":
            return self.algorithm
        return self._comm.choose(check.empty(q.count, q.dtype), self._codec)

    def predicted(self, q: Question) -> float | None:
        return self._comm.candidates(check.empty(q.count, q.dtype), self._codec).get(self.chosen(q))

    def wire_bytes(self, q: Question) -> int | None:
        array = check.empty(q.count, q.dtype)
        call = self.bind(array, q.op)
        call()
        before = self._comm.stats()["bytes_sent"]
        call()
        return int(self._comm.stats()["bytes_sent"] - before)

    def close(self) -> None:
        pass  # the communicator belongs to the benchmark


class Gloo:
    """torch.distributed's CPU backend, on the very same memory and behind the same barrier."""

    library, algorithm, codec = "gloo", "auto", "none"
    bound = False  # its threads sleep and need a place to wake up: bound, it is several times slower

    def __init__(self, comm: Communicator) -> None:
        import torch

        # as Any: torch's type information hides TCPStore
        dist: Any = importlib.import_module("torch.distributed")
        self._comm, self._dist = comm, dist
        torch.set_num_threads(1)  # Gloo brings its own; OpenMP's would only compete with the other ranks
        host = os.environ.get("MASTER_ADDR") or _address_of_rank_0(comm)
        port = np.zeros(1, np.int64)
        store = None
        if comm.rank == 0:
            store = dist.TCPStore(host, 0, comm.size, is_master=True, wait_for_workers=False)
            port[0] = store.port
        comm.broadcast(port, root=0)
        if store is None:
            store = dist.TCPStore(host, int(port[0]), comm.size, is_master=False)
        dist.init_process_group("gloo", store=store, rank=comm.rank, world_size=comm.size)
        ops = dist.ReduceOp
        self._ops = {"sum": ops.SUM, "min": ops.MIN, "max": ops.MAX, "prod": ops.PRODUCT}

    def check(self, q: Question) -> Verdict:
        return check.lossless(self._comm, q, lambda array: self.bind(array, q.op)())

    def bind(self, array: Any, op: str) -> Any:
        import torch

        tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
        all_reduce, reduce_op = self._dist.all_reduce, self._ops[op]
        return lambda: all_reduce(tensor, op=reduce_op)

    def chosen(self, q: Question) -> str:
        return "-"

    def predicted(self, q: Question) -> float | None:
        return None

    def wire_bytes(self, q: Question) -> int | None:
        return None

    def close(self) -> None:
        self._dist.destroy_process_group()


def _address_of_rank_0(comm: Communicator) -> str:
    hosts = [host for _, host in comm.peers()]
    return "127.0.0.1" if len(set(hosts)) == 1 else hosts[0]


PEERS = {"gloo": Gloo}


def check_peer(name: str, op: str) -> None:
    """Raises UsageError if `name` cannot be measured here."""
    if name not in PEERS:
        raise UsageError(f"--vs {name}: not one of {', '.join(PEERS)}")
    if not importlib.util.find_spec("torch"):
        raise UsageError(
            "--vs gloo needs torch: pip install torch --index-url https://download.pytorch.org/whl/cpu"
        )
    if op == "avg":
        raise UsageError("--vs gloo: Gloo has no average; use --op sum")
