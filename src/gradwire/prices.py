"""What operations cost on this communicator's links: measuring it, going by it, and saying so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from gradwire import _native, arrays
from gradwire.codecs import as_codec
from gradwire.collectives import CodecLike, Collectives
from gradwire.errors import ArgumentError
from gradwire.probe import probe
from gradwire.topology import Topology, cache_path


class Priced(Collectives):
    """Base of Communicator: every rank holds the same prices, or they would choose differently.

    measured: it goes by a topology that somebody measured, not by defaults.
    """

    rank: int
    size: int
    measured: bool
    _new_prices: bool  # that codec="auto" does not go by yet

    def _bind(self, native: _native.Communicator) -> None:
        super()._bind(native)
        self.measured = self._new_prices = False

    def peers(self) -> list[tuple[str, str]]:
        """Per rank: how it is reached ("self", "inproc", "shm", "tcp") and its host name.

        >>> import gradwire
        >>> gradwire.testing.run_ranks(2, lambda comm: comm.peers()[1][0])
        ['inproc', 'self']
        """
        return self._native.peers()

    def probe(self, progress: Callable[[int, int], None] | None = None, collectives: bool = True) -> Topology:
        """Measure latency and bandwidth between every two ranks, the codecs' speed, and what whole
        all_reduces take. Every rank calls it.

        Pairs are measured in rounds in which no rank, and no machine, is in two of them; a pair takes a few
        hundredths of a second, more on slow links. Then every algorithm is tried with every usual codec from
        1 KiB up, as far as a call takes less than 0.15 s: some seconds in all. collectives: False: links and
        codecs only. progress: called with (steps done, steps in all). Returns the same Topology on every
        rank; `use` makes this communicator go by it.

        >>> import gradwire
        >>> found = gradwire.testing.run_ranks(2, lambda comm: comm.probe(collectives=False))
        >>> found[0] == found[1], found[0].slow_links()
        (True, [])
        """
        return probe(cast(Any, self), progress, collectives)

    def use(self, topology: Any) -> None:
        """From now on choose algorithms by this topology. Every rank calls it, between the same operations.

        topology: as `gradwire.init` takes it: a `gradwire.Topology`, a file, or "auto"; what counts is what
        rank 0 was given, and the others need not have the file. codec="auto" goes by it from the next `step`.
        Raises ArgumentError if it describes another number of ranks, or cannot be read.

        >>> import gradwire
        >>> def rank(comm):
        ...     comm.use(comm.probe(collectives=False))
        ...     return comm.choose(256)
        >>> len(set(gradwire.testing.run_ranks(2, rank)))
        1
        """
        shared = self._shared_by_rank_0(topology)
        if shared.size != self.size:
            raise ArgumentError(
                f"this topology describes {shared.size} ranks, this communicator has {self.size}: probe"
            )
        shared.apply(self._native)
        self.measured = self._new_prices = True

    def topology_cache(self) -> Path:
        """The file in which rank 0 keeps this set of hosts' topology for `init(topology="auto")`.

        >>> import gradwire
        >>> gradwire.init(rank=0, size=1).topology_cache().suffix
        '.json'
        """
        kinds, hosts = zip(*self.peers())
        return cache_path(hosts, self._native.places(), kinds)

    def step(self) -> None:
        """A step of training is over: with a new topology to go by, what codec="auto" chose may change. Every
        rank calls it.

        >>> import gradwire
        >>> gradwire.init(rank=0, size=1).step()
        """
        if self._new_prices:
            self._choices.clear()
            self._codes_from = 0
            self._new_prices = False

    def candidates(self, x_or_nbytes: Any, codec: CodecLike = None, valid: bool = False) -> dict[str, float]:
        """Predicted seconds of every algorithm for an all_reduce of this array, or of that many bytes of
        float32. valid: only those that "auto" may take.

        >>> import gradwire
        >>> gradwire.testing.run_ranks(2, lambda comm: "ring" in comm.candidates(1 << 20))[0]
        True
        """
        shape = _shape(x_or_nbytes)
        all_ = self._native.candidates(*shape, as_codec(codec))
        return {c.algorithm: c.seconds for c in all_ if c.valid or not valid}

    def explain(self, x_or_nbytes: Any, codec: CodecLike = None) -> str:
        """Why "auto" takes which algorithm for an all_reduce: a table of the candidates and their estimated
        times.

        x_or_nbytes: an array, or a number of bytes of float32.

        >>> import gradwire
        >>> tables = gradwire.testing.run_ranks(2, lambda comm: comm.explain(1 << 20))
        >>> "ring" in tables[0]
        True
        """
        return self._native.explain(*_shape(x_or_nbytes), as_codec(codec))

    def choose(self, x_or_nbytes: Any, codec: CodecLike = None) -> str:
        """The algorithm "auto" takes for an all_reduce of this array, or of that many bytes of float32.

        >>> import gradwire
        >>> gradwire.testing.run_ranks(2, lambda comm: comm.choose(256))[0]
        'one_shot'
        """
        return self._native.choose(*_shape(x_or_nbytes), as_codec(codec))

    def _shared_by_rank_0(self, wanted: Any) -> Topology:
        """On every rank: what ranks read or cached by themselves could differ."""
        text = b""
        problem = ""
        if self.rank == 0:
            try:
                if isinstance(wanted, Topology):
                    Topology.from_json(text := wanted.to_json().encode(), repr(wanted))
                elif wanted != "auto":
                    text = Topology.read(wanted).to_json().encode()
                elif (path := self.topology_cache()).exists():
                    text = Topology.read(path).to_json().encode()
            except ArgumentError as error:
                problem, text = str(error), b""
        length = np.array([-1 if problem else len(text)], np.int64)
        self.broadcast(length, root=0)
        if length[0] < 0:
            raise ArgumentError(problem or "rank 0 cannot read the topology: see its error")
        if length[0] == 0:
            measured = self.probe()
            if self.rank == 0:
                measured.save(self.topology_cache())
            return measured
        buffer = np.zeros(int(length[0]), np.uint8)
        buffer[:] = np.frombuffer(text, np.uint8) if self.rank == 0 else 0
        self.broadcast(buffer, root=0)
        return Topology.from_json(buffer.tobytes())


def _shape(x_or_nbytes: Any) -> tuple[int, str]:
    if isinstance(x_or_nbytes, int):
        return x_or_nbytes // 4, "float32"
    return arrays.count_and_dtype(x_or_nbytes)
