"""Key/value stores through which ranks find one another: a directory, or a torch Store. (TCP: tcp_store.py)

A store only has to carry a few small values at start-up and at reconfigure, so one primitive is enough: look,
without waiting. Waiting is polling with a deadline, the same for every store: no store can hang its caller.
"""

from __future__ import annotations

import hashlib
import os
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gradwire.errors import RendezvousError

MAX_VALUE_BYTES = 1 << 20
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.0005, 0.02


class Store(ABC):
    """Where ranks leave small values for one another. Subclass it to bring a store of your own.

    host, port: an address that this store is reached at, if it has one; gradwire then listens on the
    interface that leads there. Stores are trusted: the job's shared secret passes through them.
    """

    host: str | None = None
    port: int = 1

    @abstractmethod
    def set(self, key: str, value: bytes) -> None:
        """Write a value; a later `set` of the same key replaces it."""

    @abstractmethod
    def peek(self, key: str) -> bytes | None:
        """The value, or None if there is none yet. Returns at once."""

    def get(self, key: str, timeout: float) -> bytes:
        """Wait for a value for at most `timeout` seconds; TimeoutError after that."""
        deadline = time.monotonic() + timeout
        pause = _FIRST_PAUSE_S
        while True:
            value = self.peek(key)
            if value is not None:
                return value
            if time.monotonic() >= deadline:
                raise TimeoutError(f"no value for {key!r} within {timeout:g} s")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def remove(self, key: str) -> None:  # noqa: B027 - not every store can
        """Forget a key, if the store can. Nothing depends on it: it only keeps stores small."""

    def close(self) -> None:  # noqa: B027
        """Give back what the store holds: sockets, an empty directory."""


class FileStore(Store):
    """A directory, one file per key. Ranks may be on several hosts if the directory is shared.

    path: a directory (made if missing), or an existing file, beside which a directory `<path>.store` is made.
    Use a fresh path per job: two jobs that run at the same time on one path would meet each other. What an
    earlier job left there does no harm. RendezvousError if it cannot be made, written or read.
    """

    _MAGIC = b"GWF1"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        root = Path(path)
        self._root = root.with_name(root.name + ".store") if root.is_file() else root
        self._made = False
        self._prepare()

    def _prepare(self) -> None:
        try:
            self._root.parent.mkdir(parents=True, exist_ok=True)
            # The secret of the job lies here for a moment: nobody else's business.
            self._root.mkdir(mode=0o700)
            self._made = True
        except FileExistsError:
            pass
        except OSError as error:
            raise RendezvousError(
                f"file store {self._root}: cannot make the directory ({error.strerror}); choose a path that "
                "this user may write to"
            ) from error

    def _file(self, key: str) -> Path:
        return self._root / quote(key, safe="")

    def set(self, key: str, value: bytes) -> None:
        # The checksum makes a half-written file look absent even where rename is not atomic (network file
        # systems).
        blob = self._MAGIC + hashlib.sha256(value).digest() + value
        target = self._file(key)
        draft = target.with_name(f".{os.getpid()}.{time.monotonic_ns()}.{target.name}"[:250])
        try:
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(blob)
            os.replace(draft, target)
        except FileNotFoundError:
            self._prepare()  # the last rank of an earlier round removed the empty directory
            if not self._root.is_dir():
                raise
            self.set(key, value)
        except OSError as error:
            raise RendezvousError(f"file store {self._root}: cannot write ({error.strerror})") from error

    def peek(self, key: str) -> bytes | None:
        try:
            with open(self._file(key), "rb") as file:
                blob = file.read(MAX_VALUE_BYTES + 37)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RendezvousError(f"file store {self._root}: cannot read ({error.strerror})") from error
        value = blob[36:]
        good = blob[:4] == self._MAGIC and blob[4:36] == hashlib.sha256(value).digest()
        return value if good else None

    def remove(self, key: str) -> None:
        with suppress(OSError):
            self._file(key).unlink()

    def close(self) -> None:
        if self._made:
            with suppress(OSError):  # not empty: others still use it
                self._root.rmdir()

    def __repr__(self) -> str:
        return f"FileStore({str(self._root)!r})"


class TorchStore(Store):
    """Any torch.distributed Store. It is borrowed: closing is its owner's affair."""

    def __init__(self, store: Any) -> None:
        self._store = store
        inner = store
        while hasattr(inner, "underlying_store"):  # PrefixStore
            inner = inner.underlying_store
        self.host = getattr(inner, "host", None)
        self.port = int(getattr(inner, "port", 0) or 1)

    def set(self, key: str, value: bytes) -> None:
        self._call("set", key, value)

    def peek(self, key: str) -> bytes | None:
        # get() alone would wait, for up to half an hour, and log a stack on time-out
        if not self._call("check", [key]):
            return None
        return bytes(self._call("get", key))

    def remove(self, key: str) -> None:
        with suppress(RendezvousError):  # FileStore and some prefixes cannot
            self._call("delete_key", key)

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._store, method)(*arguments)
        except RuntimeError as error:  # DistStoreError and friends derive from it
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RendezvousError(
                f"the torch store failed in {method}: {reason}; is its server still alive?"
            ) from error

    def __repr__(self) -> str:
        return f"TorchStore({self._store!r})"
