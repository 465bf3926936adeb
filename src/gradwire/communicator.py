"""A group of ranks: how it starts, splits, fails, meets again and ends. The verbs: collectives.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, overload

import numpy as np

from gradwire import _native, gpu_peers
from gradwire.config import Duration, make_config, seconds
from gradwire.errors import ArgumentError
from gradwire.launch import default_store, discover, open_store
from gradwire.prices import Priced
from gradwire.rendezvous import HubMeeting, Meeting, Place, StoreMeeting
from gradwire.trace import TraceEvent, write_chrome


def init(
    rank: int | None = None,
    size: int | None = None,
    store: Any = None,
    *,
    timeout: Duration | None = None,
    epoch: int = 0,
    topology: Any = None,
    **settings: Any,
) -> Communicator:
    """Meet the other ranks and return the communicator of all of them. Every rank calls it, equally often.

    rank, size: None: from the launcher's environment (torchrun, Open MPI, MPICH, Intel MPI, Slurm).
    store: "file:///fresh/path", "tcp://host:port" (rank 0 serves), a torch Store, or a gradwire Store. None:
    GRADWIRE_STORE, else torch.distributed's store, else torchrun's, else rank 0 serves on MASTER_PORT + 1.
    timeout: seconds or timedelta that an operation, and this call, may wait for other ranks (default 300).
    epoch: generation; a rank that joins survivors passes theirs (see `Communicator.reconfigure`).
    topology: a `gradwire.Topology`, or the file that `gradwire probe` wrote; rank 0 alone reads it. "auto":
    the one measured earlier on these hosts, from rank 0's cache; measured now if there is none. None: the
    variable GRADWIRE_TOPOLOGY, else nothing is known of the links. The same sort on every rank.
    settings: transport, sockets, congestion, channel_bytes, segment_bytes, spin_us, ifname, heartbeat_s,
    deterministic, gpu_peers; each overrides the GRADWIRE_ variable of its name. Raises ArgumentError for a
    wrong setting, RendezvousError that names the ranks that did not come.

    >>> import gradwire, numpy as np
    >>> with gradwire.init(rank=0, size=1) as comm:
    ...     comm.all_reduce(np.ones(2, np.float32))
    array([1., 1.], dtype=float32)
    """
    config = make_config(timeout, **settings)
    launch = None
    if rank is None and size is None:
        launch = discover()
        rank, size = launch.rank, launch.size
    elif rank is None or size is None:
        raise ArgumentError("gradwire.init(): give both rank= and size=, or neither")
    place = _checked(Place(rank, size, epoch))
    meeting: Meeting
    if store is not None:
        meeting = _meeting_at(store, rank, config.timeout_s)
    elif launch is not None and size > 1:
        meeting = StoreMeeting(*default_store(launch, config.timeout_s))
    else:
        meeting = StoreMeeting(None, owned=False)
    scope = "gradwire" + (f"/{launch.run}" if launch is not None and launch.run else "")
    shared = _Shared(meeting)
    try:
        comm = Communicator(shared, scope, place, config)
    finally:
        shared.release()
    wanted = topology if topology is not None else config.topology or None
    try:
        if wanted is not None:
            comm.use(wanted)
    except BaseException:
        comm.close()
        raise
    return comm


def _meeting_at(store: Any, rank: int, timeout: float) -> Meeting:
    if isinstance(store, _native.InprocHub):
        return HubMeeting(store)
    if isinstance(store, Meeting):
        return store
    return StoreMeeting(*open_store(store, rank, timeout))


def _checked(place: Place) -> Place:
    if place.size < 1 or not 0 <= place.rank < place.size:
        raise ArgumentError(f"rank must be from 0 to size - 1, got rank {place.rank} of size {place.size}")
    if not 0 <= place.epoch < 2**32:
        raise ArgumentError(f"epoch must be from 0 to 2**32 - 1, got {place.epoch}")
    return place


class _Shared:
    """A meeting place, closed when the last communicator that may need it has been closed."""

    def __init__(self, meeting: Meeting) -> None:
        self.meeting = meeting
        self._users = 1

    def retain(self) -> _Shared:
        self._users += 1
        return self

    def release(self) -> None:
        self._users -= 1
        if self._users == 0:
            self.meeting.close()


class Communicator(Priced):
    """A group of ranks that call the same operations in the same order. Made by `gradwire.init` or `split`.

    rank, size: this rank's number and how many there are. epoch: generation, grows with every `reconfigure`.
    A context manager: leaving it closes; leaving it by an exception tells the other ranks first.

    >>> import gradwire
    >>> comm = gradwire.init(rank=0, size=1)
    >>> comm
    <gradwire.Communicator rank 0 of 1, epoch 0>
    >>> comm.close()
    """

    rank: int
    size: int
    epoch: int

    def __init__(self, shared: _Shared, scope: str, place: Place, config: _native.Config) -> None:
        self._scope, self._config, self._splits = scope, config, 0
        self._shared: _Shared | None = None
        self._connect(shared, place, config.timeout_s)
        self._shared = shared.retain()

    def _connect(self, shared: _Shared, place: Place, timeout: float) -> None:
        self.rank, self.size, self.epoch = place
        transport = shared.meeting.connect(place, self._scope, self._config, timeout)
        self._bind(_native.Communicator(transport, place.epoch, self._config))
        self._gpu_peers = gpu_peers.agree(self._native) if self._config.gpu_peers else "off"

    # -- groups and generations ------------------------------------------------------------------------------
    @overload
    def split(self, color: int, key: int = ...) -> Communicator: ...
    @overload
    def split(self, color: int | None, key: int = ...) -> Communicator | None: ...
    def split(self, color: int | None, key: int = 0) -> Communicator | None:
        """Divide the ranks into groups. Every rank calls it; those with one color form a new communicator.

        color: any integer, or None to be in no group (returns None). key: order within it, ties by rank.
        Groups are independent: each has its own connections and may be used while the others are.

        >>> import gradwire
        >>> gradwire.testing.run_ranks(4, lambda comm: comm.split(color=comm.rank % 2).size)
        [2, 2, 2, 2]
        """
        mine = np.array([color is not None, color or 0, key], np.int64)
        everyone = self.all_gather(mine)
        self._splits += 1
        if color is None:
            return None
        members = sorted((int(k), r) for r, (on, c, k) in enumerate(everyone) if on and c == color)
        rank = [r for _, r in members].index(self.rank)
        scope = f"{self._scope}/e{self.epoch}/split{self._splits}/{color}"
        assert self._shared is not None
        return Communicator(self._shared, scope, Place(rank, len(members), 0), self._config)

    def reconfigure(
        self, rank: int, size: int, store: Any = None, timeout: Duration | None = None
    ) -> Communicator:
        """Start a new generation with whoever is left (or has joined); this same object works again. Returns
        it.

        rank, size: this rank's place in the new group; all its members must agree. store: where they meet;
        None: where they met before, which must still be there (a tcp:// store ends with rank 0). A rank that
        joins calls `gradwire.init(..., epoch=survivors' epoch + 1)` with the same store. Every attempt,
        successful or not, counts one epoch. Operations in flight end with an error. Raises RendezvousError
        that names the ranks that did not come; it may then be called again.

        >>> import gradwire
        >>> comm = gradwire.init(rank=0, size=1)
        >>> comm.abort("a rank was lost")
        >>> comm.reconfigure(rank=0, size=1)
        <gradwire.Communicator rank 0 of 1, epoch 1>
        """
        place = _checked(Place(rank, size, self.epoch + 1))
        limit = self._config.timeout_s if timeout is None else seconds(timeout)
        self._native.close()
        if store is not None:
            fresh = _Shared(_meeting_at(store, rank, limit))
            if self._shared is not None:
                self._shared.release()
            self._shared = fresh
        if self._shared is None:
            raise ArgumentError("reconfigure after close() needs a store=")
        self._connect(self._shared, place, limit)
        return self

    # -- looking ---------------------------------------------------------------------------------------------
    @property
    def gpu_peers(self) -> str:
        """Whether an all_reduce of GPU arrays goes through GPU memory that the ranks map (CUDA IPC between
        processes, NVLink or PCIe between GPUs): "on", "off", or "off: " and why, where the setting
        gpu_peers=True asked for it. The same on every rank.

        It takes up to 16 ranks of one host with GPUs of one kind. Of their all_reduces it carries those of
        float32, bfloat16 and float16 without a codec, or with one that has kernels (all but rice4, lossless
        and those registered in Python), by any algorithm but the hierarchical ones; the others go through
        pinned memory as ever.
        A result has the same bits on either way by the same algorithm; "auto" goes by another table here, so
        its choice, and with a codec the bits, can differ. The call, or `Work.wait`, returns once the GPU is
        done, because only then it is known that no rank was lost meanwhile. A rank keeps to one GPU. If one
        rank brings an array on a GPU to an all_reduce, all have to: MismatchError otherwise.

        >>> import gradwire
        >>> gradwire.testing.run_ranks(2, lambda comm: comm.gpu_peers)
        ['off', 'off']
        """
        return self._gpu_peers

    def stats(self) -> dict[str, int]:
        """Counters since the start of this epoch: operations; bytes_sent and bytes_received over all channels
        (headers included); socket_bytes_sent and socket_bytes_received as the kernel took and gave them;
        staging_bytes: memory that operations pass through, at most. In shared memory that is, for each peer,
        3 * channel_bytes (setting GRADWIRE_CHANNEL_BYTES), half of it among more than two ranks of one host;
        where more than two ranks take part also 2 * channel_bytes once, a quarter of it on one host; over TCP
        about four times as much as in shared memory; and, with a codec, the coded size of the largest
        operation so far. It does not grow with the number of calls. shared_bytes: of this process's arrays
        from `empty`; what they lend to others is not in bytes_sent.

        >>> import gradwire
        >>> gradwire.init(rank=0, size=1).stats()["bytes_sent"]
        0
        """
        return self._native.counters()

    def trace_start(self, events: int = 100_000) -> None:
        """Record what the executor does, up to that many events; later ones are dropped."""
        self._native.trace_start(events)

    def trace_stop(self) -> list[TraceEvent]:
        """Stop recording and return the events."""
        return [TraceEvent(*event) for event in self._native.trace_stop()]

    @contextmanager
    def trace(self, path: str | os.PathLike[str], events: int = 100_000) -> Iterator[None]:
        """Record a block and write a timeline for https://ui.perfetto.dev; "{rank}" in path becomes the rank.

        >>> import gradwire, numpy as np, tempfile
        >>> comm = gradwire.init(rank=0, size=1)
        >>> with tempfile.TemporaryDirectory() as folder, comm.trace(folder + "/trace-{rank}.json"):
        ...     x = comm.all_reduce(np.ones(8, np.float32))
        """
        self.trace_start(events)
        try:
            yield
        finally:
            write_chrome(path, self.trace_stop(), self.rank)

    # -- ending ----------------------------------------------------------------------------------------------
    def abort(self, reason: str) -> None:
        """End every operation of every rank with Aborted, which carries the reason. Any thread may do it."""
        self._native.abort(reason)

    def close(self) -> None:
        """Leave the group and free everything. Idempotent. Operations in flight end with Closed; a rank that
        still needs this one gets PeerLost.
        """
        self._native.close()
        self._in_flight.clear()
        if self._shared is not None:
            self._shared.release()
            self._shared = None

    def __enter__(self) -> Communicator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort(f"rank {self.rank} left by {kind.__name__}: {error}")
        self.close()

    def __repr__(self) -> str:
        return f"<gradwire.Communicator rank {self.rank} of {self.size}, epoch {self.epoch}>"
