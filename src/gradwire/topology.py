"""What `gradwire probe` measured: links between ranks, rates of this machine's kernels, and what follows.

A file holds it as JSON. `gradwire.init(topology="file.json")` prices "auto" with it, sends the ring around
slow links, and keeps slow ranks at the ends of trees.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gradwire import _native
from gradwire.errors import ArgumentError
from gradwire.trials import Trial

VERSION = 2
# A link or a rank is slow when it takes this many times as long as the median of its kind.
SLOW = 2.0
_TYPICAL_BYTES = 256 << 10
# CPU time of the kernel's TCP for a byte at either end; a faster link spends all of its time there.
# (Two cores of a 2.5 GHz Xeon, 2026-11: loopback moves 1.5 to 3 GB/s with a core at each end.)
_TCP_TOUCH = 1 / 3e9
_EXACT_UP_TO = 8  # ranks: 7!/2 rings


@dataclass
class Topology:
    """hosts: name of each rank's host. host, machine: numbers; equal hosts share memory, equal machines
    share cores.

    latency_s, message_s, byte_s: [from][to] seconds one way, between small messages, a byte. reduce_s: of one
    core, a byte. codecs: seconds a raw byte to encode and to decode. trials: whole all_reduces, measured.

    >>> from gradwire.topology import Topology
    >>> one = [[0.0, 1e-5], [1e-5, 0.0]]
    >>> pair = Topology(["a", "b"], [0, 1], [0, 1], 8, one, one, one)
    >>> pair.slow_links(), pair.order(), pair.slow()
    ([], [0, 1], [False, False])
    """

    hosts: list[str]
    host: list[int]
    machine: list[int]
    cores: int
    latency_s: list[list[float]]
    message_s: list[list[float]]
    byte_s: list[list[float]]
    reduce_s: float = 1 / 12e9
    codecs: dict[str, tuple[float, float]] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    version: int = VERSION

    @property
    def size(self) -> int:
        return len(self.hosts)

    def seconds(self, a: int, b: int) -> float:
        """For 256 KiB, the slower way."""
        return max(self.latency_s[x][y] + _TYPICAL_BYTES * self.byte_s[x][y] for x, y in ((a, b), (b, a)))

    # -- what stands out -------------------------------------------------------------------------------------
    def slow(self) -> list[bool]:
        """Ranks whose every link to other hosts is slow: their own path is."""
        best = [
            min((self.seconds(r, p) for p in range(self.size) if self.host[p] != self.host[r]), default=0.0)
            for r in range(self.size)
        ]
        known = [b for b in best if b > 0]
        usual = statistics.median(known) if known else 0.0
        return [b > SLOW * usual > 0 for b in best]

    def slow_links(self) -> list[tuple[int, int, float]]:
        """Pairs of ranks, neither of them slow, whose link is: (a, b, times the median of its kind)."""
        slow, found = self.slow(), []
        pairs = [p for p in itertools.combinations(range(self.size), 2) if not slow[p[0]] and not slow[p[1]]]
        for inside in (True, False):
            kind = [(a, b) for a, b in pairs if (self.host[a] == self.host[b]) == inside]
            usual = statistics.median(self.seconds(a, b) for a, b in kind) if kind else 0.0
            found += [
                (a, b, self.seconds(a, b) / usual) for a, b in kind if self.seconds(a, b) > SLOW * usual > 0
            ]
        return sorted(found)

    def order(self) -> list[int]:
        """The ranks around the ring whose slowest link is least slow, and whose links take least in all."""
        natural = list(range(self.size))
        if self.size < 4:
            return natural  # there is only one ring
        best = _exact_ring(self) if self.size <= _EXACT_UP_TO else _two_opt(self, natural)
        # noise is no reason to leave the order that everybody expects
        return best if _ring_cost(self, best)[0] < 0.8 * _ring_cost(self, natural)[0] else natural

    def report(self) -> str:
        """What is slow, in words."""
        lines = []
        for r, is_slow in enumerate(self.slow()):
            if is_slow:
                lines.append(
                    f"slow path: rank {r} on {self.hosts[r]}: end of trees, owner of nothing in direct"
                )
        for a, b, times in self.slow_links():
            where = f"{self.hosts[a]} - {self.hosts[b]}"
            speed = 1e-6 / max(self.byte_s[a][b], self.byte_s[b][a])
            lines.append(f"slow link: ranks {a} and {b} ({where}): {times:.1f}x the median, {speed:.1f} MB/s")
        order = self.order()
        if order != sorted(order):
            lines.append(f"ring order: {' - '.join(map(str, order))}")
        return "\n".join(lines or ["no link stands out"])

    # -- for the native communicator ---------------------------------------------------------------------
    def schedule_topology(self) -> _native.Topology:
        """What schedules depend on: hosts, ring order, slow ranks."""
        order, slow = self.order(), self.slow()
        return _native.Topology(
            host=self.host, order=[] if order == sorted(order) else order, slow=slow if any(slow) else []
        )

    def links(self) -> list[tuple[float, float, float, float]]:
        """[from * size + to] alpha, beta, message, touch (select.hpp)."""
        return [self._link(a, b) for a in range(self.size) for b in range(self.size)]

    def _link(self, a: int, b: int) -> tuple[float, float, float, float]:
        if a == b:
            return (0.0, 0.0, 0.0, 0.0)
        # A small message costs both ends' cores; of its latency the rest is on the way.
        message = min(self.message_s[a][b], self.latency_s[a][b] / 2)
        alpha, byte = self.latency_s[a][b] - 2 * message, self.byte_s[a][b]
        if self.host[a] == self.host[b]:
            return (alpha, 0.0, message, byte)  # a core copies each byte; there is no wire
        touch = min(byte, _TCP_TOUCH)
        # On one machine without a limit there is no wire either: the kernel copies.
        free = self.machine[a] == self.machine[b] and byte < 2 * _TCP_TOUCH
        return (alpha, 0.0 if free else byte, message, touch)

    def apply(self, native: _native.Communicator) -> None:
        """See `Communicator.use`."""
        native.set_topology(self.schedule_topology())
        factors = [(t.codec, t.algorithm, float(t.nbytes), t.seconds / t.modelled) for t in self.trials]
        native.set_costs(self.links(), self.machine, self.cores, self.reduce_s, self.codecs, factors)

    # -- as bytes --------------------------------------------------------------------------------
    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | bytes, where: str = "topology") -> Topology:
        """ArgumentError that says what is wrong, if anything is."""
        try:
            given = json.loads(text)
            if given.get("version") != VERSION:
                raise ValueError(
                    f"version {given.get('version')}, this gradwire reads {VERSION}: probe again"
                )
            given["codecs"] = {name: (float(e), float(d)) for name, (e, d) in given["codecs"].items()}
            given["trials"] = [Trial(*trial) for trial in given["trials"]]
            topology = Topology(**given)
            n = topology.size
            square = (topology.latency_s, topology.message_s, topology.byte_s)
            if any(len(m) != n or any(len(row) != n for row in m) for m in square):
                raise ValueError(f"tables must be {n} x {n}")
            if not len(topology.host) == len(topology.machine) == n:
                raise ValueError(f"host and machine must list {n} ranks")
            if not all(float(v) >= 0 for m in square for row in m for v in row):
                raise ValueError("times must not be negative")
            if not all(min(t.nbytes, float(t.seconds), float(t.modelled)) > 0 for t in topology.trials):
                raise ValueError("a trial's bytes and seconds must be positive")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArgumentError(f"{where} is not a topology file: {error}") from None
        return topology

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Topology:
        """What `save` wrote. ArgumentError if it cannot be read."""
        try:
            text = Path(path).read_bytes()
        except (OSError, TypeError) as error:
            raise ArgumentError(
                f"topology: {error}; `gradwire probe -o FILE` measures the links and writes such a file"
            ) from None
        return Topology.from_json(text, str(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Whole or not at all: readers never see half a file."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False, encoding="utf-8") as file:
            file.write(self.to_json())
        os.replace(file.name, target)


def cache_path(hosts: Sequence[str], places: Sequence[tuple[int, int]], kinds: Sequence[str]) -> Path:
    """Where the topology of this set of hosts is kept: under XDG_CACHE_HOME, named by the cluster's
    signature."""
    signature: Any = [VERSION, list(hosts), [list(p) for p in places], sorted(set(kinds)), _native.isa()]
    name = hashlib.sha256(json.dumps(signature).encode()).hexdigest()[:16]
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "gradwire" / f"topology-{name}.json"


# -- rings -----------------------------------------------------------------------------------------------
def _ring_cost(t: Topology, order: Sequence[int]) -> tuple[float, float]:
    each = [t.seconds(a, b) for a, b in zip(order, [*order[1:], order[0]])]
    return max(each), sum(each)


def _exact_ring(t: Topology) -> list[int]:
    rings = ([0, *rest] for rest in itertools.permutations(range(1, t.size)) if rest[0] < rest[-1])
    return min(rings, key=lambda ring: _ring_cost(t, ring))


def _two_opt(t: Topology, order: list[int]) -> list[int]:
    best, cost = order, _ring_cost(t, order)
    better = True
    while better:
        better = False
        for i, j in itertools.combinations(range(1, t.size), 2):
            turned = [*best[:i], *reversed(best[i : j + 1]), *best[j + 1 :]]
            other = _ring_cost(t, turned)
            if other < cost:
                best, cost, better = turned, other, True
    return best
