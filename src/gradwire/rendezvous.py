"""How ranks turn a store into connections.

1. Every other rank says hello with a random number of its own (a nonce).
2. Rank 0 draws the job's secret and publishes it together with the nonces it has seen. A rank takes the
secret only if
   its own nonce is there: what an earlier run left in the store is never mistaken for this one.
3. Every rank listens and publishes where, under keys that derive from the secret.
4. All connect to all, proving that they know the secret; then each rank removes its keys. Connecting is
mutual, so by
   then everybody has read them.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import NamedTuple, Protocol, runtime_checkable

from gradwire import _native
from gradwire.errors import ArgumentError, RendezvousError
from gradwire.store import Store

_SECRET_BYTES, _NONCE_BYTES = 32, 16
_SLICE_S = 0.2  # rank 0 looks for changed nonces this often while it waits


class Place(NamedTuple):
    """Who a rank is: its number, of how many, in which generation."""

    rank: int
    size: int
    epoch: int


@runtime_checkable
class Meeting(Protocol):
    """Where a group of ranks meets, and meets again: a store, or a testing hub."""

    def connect(self, place: Place, scope: str, config: _native.Config, timeout: float) -> _native.Transport:
        """Connections to all other ranks of the group `scope`, of the same generation."""

    def close(self) -> None: ...


class StoreMeeting:
    """Ranks meet through a store. None is enough for a group of one."""

    def __init__(self, store: Store | None, owned: bool) -> None:
        self._store = store
        self._owned = owned  # made by us: ours to close

    def connect(self, place: Place, scope: str, config: _native.Config, timeout: float) -> _native.Transport:
        if place.size == 1:
            return _native.InprocHub(1).connect(0)
        if self._store is None:
            raise ArgumentError(
                f'{place.size} ranks need a store to find one another: pass store="file:///path", '
                '"tcp://host:port" or a torch Store'
            )
        round_ = _Round(self._store, f"{scope}/e{place.epoch}", place, timeout)
        transport = round_.run(place.epoch, config)
        # Not after a failure: the others may still be looking who is missing, and old keys do no harm.
        round_.clean_up()
        return transport

    def close(self) -> None:
        if self._owned and self._store is not None:
            self._store.close()


class HubMeeting:
    """Ranks of one process meet once at a native hub; testing.Hub can do more."""

    def __init__(self, hub: _native.InprocHub) -> None:
        self._hub = hub

    def connect(self, place: Place, scope: str, config: _native.Config, timeout: float) -> _native.Transport:
        if place.size != self._hub.size:
            raise ArgumentError(f"this hub joins {self._hub.size} ranks, not {place.size}")
        return self._hub.connect(place.rank)

    def close(self) -> None:
        """The hub belongs to whoever made it."""


def _address(store: Store, config: _native.Config) -> str:
    """The numeric address to listen on and to give to peers; several: listen everywhere."""
    if config.ifname:
        return _native.address_of_interface(config.ifname)
    if store.host:
        return _native.local_address_toward(store.host, store.port)
    # Nothing says where the others are: a peer takes the first address at which this rank answers.
    return ",".join([*_native.reachable_addresses(), "127.0.0.1"])


class _Round:
    """One rank's part in one rendezvous."""

    def __init__(self, store: Store, scope: str, place: Place, timeout: float) -> None:
        self._store, self._scope = store, scope
        self._rank, self._size = place.rank, place.size
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._written: list[str] = []
        self._seen: list[bytes] = []  # rank 0: the nonces published with the secret

    def run(self, epoch: int, config: _native.Config) -> _native.Transport:
        secret = self._lead() if self._rank == 0 else self._follow()
        endpoint = _native.Endpoint(
            self._rank, self._size, epoch, secret, _address(self._store, config), config
        )
        blobs = self._exchange(endpoint.blob(), secret)
        return endpoint.connect(blobs, max(0.001, self._deadline - time.monotonic()))

    def clean_up(self) -> None:
        for key in self._written:
            self._store.remove(key)

    def _key(self, name: str, rank: int | None = None) -> str:
        return f"{self._scope}/{name}" if rank is None else f"{self._scope}/{name}/{rank}"

    def _set(self, key: str, value: bytes) -> None:
        self._store.set(key, value)
        if key not in self._written:
            self._written.append(key)

    # -- the secret ------------------------------------------------------------------------------------------
    def _lead(self) -> bytes:
        self._secret = secrets.token_bytes(_SECRET_BYTES)
        self._seen = [self._wait("hello", r, range(1, self._size)) for r in range(1, self._size)]
        self._publish()
        return self._secret

    def _publish(self) -> None:
        self._set(self._key("secret"), self._secret + b"".join(self._seen))

    def _look_again(self) -> None:
        """A hello that an earlier run left behind has meanwhile been replaced by this run's."""
        hellos = [self._store.peek(self._key("hello", r)) for r in range(1, self._size)]
        # A rank that has connected already removes its hello: then the one seen was right.
        now = [seen if hello is None else hello for hello, seen in zip(hellos, self._seen)]
        if now != self._seen:
            self._seen = now
            self._publish()

    def _follow(self) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        self._set(self._key("hello", self._rank), nonce)
        at = _SECRET_BYTES + (self._rank - 1) * _NONCE_BYTES
        length = _SECRET_BYTES + (self._size - 1) * _NONCE_BYTES
        pause = 0.0005
        while True:
            value = self._store.peek(self._key("secret")) or b""
            if len(value) == length and value[at : at + _NONCE_BYTES] == nonce:
                return value[:_SECRET_BYTES]
            if time.monotonic() >= self._deadline:
                # Rank 0 publishes only once it has heard everyone: whoever is silent is the one to look at.
                self._fail([0] if value else self._absent("hello", range(1, self._size)) or [0])
            time.sleep(pause)
            pause = min(2 * pause, 0.02)

    # -- addresses -------------------------------------------------------------------------------------------
    def _exchange(self, blob: bytes, secret: bytes) -> list[bytes]:
        name = f"at/{hashlib.sha256(secret).hexdigest()[:16]}"
        self._set(self._key(name, self._rank), blob)
        blobs = [
            blob if r == self._rank else self._wait(name, r, range(self._size)) for r in range(self._size)
        ]
        return blobs

    def _wait(self, name: str, rank: int, group: range) -> bytes:
        while True:
            left = self._deadline - time.monotonic()
            try:
                return self._store.get(self._key(name, rank), max(0.0, min(left, _SLICE_S)))
            except TimeoutError:
                if left <= 0:
                    self._fail(self._absent(name, group) or [rank])
            if self._seen:
                self._look_again()

    def _absent(self, name: str, group: range) -> list[int]:
        return [r for r in group if r != self._rank and self._store.peek(self._key(name, r)) is None]

    def _fail(self, missing: list[int]) -> None:
        some = ", ".join(map(str, missing[:16])) + (", ..." if len(missing) > 16 else "")
        error = RendezvousError(
            f"rank {self._rank} of {self._size} waited {self._timeout:g} s at {self._store!r} "
            f"({self._scope}) for rank{'s' if len(missing) > 1 else ''} {some}. Are all {self._size} ranks "
            "running, with the same size and the same store, and did each call init, split or "
            "reconfigure as often as the others?"
        )
        error.rank = missing[0]
        raise error
