"""A store for jobs that have neither a shared directory nor torch: rank 0 serves, on one thread.

Protocol: the client opens with a magic; every request is op (1 byte), key length (2), value length (4), key,
value; every reply is found (1), value length (4), value. Little-endian. Every length is checked against a
limit before a byte is kept; whoever sends anything else is disconnected. The server never waits for a client
and never blocks.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from contextlib import suppress

from gradwire.errors import ArgumentError, RendezvousError
from gradwire.store import MAX_VALUE_BYTES, Store

_MAGIC = b"GWSTORE1"
_REQUEST = struct.Struct("<BHI")
_REPLY = struct.Struct("<BI")
_SET, _PEEK, _REMOVE = 1, 2, 3
_MAX_KEY_BYTES = 1024
_MAX_TOTAL_BYTES = 256 << 20  # of all values
_MAX_CLIENTS = 8192
_SILENT_S = 10.0  # a connection that has not said the magic by then is closed
_REPLY_S = 30.0  # a client waits this long for one reply


class _Client:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = bytearray()
        self.unsent = bytearray()
        self.greeted = False
        self.since = time.monotonic()


class TcpStoreServer:
    """Serves until `close`. `host` "" means every interface; port 0 picks a free one (see `port`)."""

    def __init__(self, host: str, port: int) -> None:
        self._values: dict[bytes, bytes] = {}
        self._bytes = 0
        self._listener = _listen(host, port)
        self.port: int = self._listener.getsockname()[1]
        self._listener.setblocking(False)
        self._wake, self._waker = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._wake, selectors.EVENT_READ, None)
        self._clients: set[_Client] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="gradwire-store", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        with suppress(OSError):
            self._waker.send(b"x")
        self._thread.join(5.0)

    def _serve(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(timeout=1.0):
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.data, _Client):
                    self._serve_client(key.data)
            now = time.monotonic()
            for client in [c for c in self._clients if not c.greeted and now - c.since > _SILENT_S]:
                self._drop(client)
        for client in list(self._clients):
            self._drop(client)
        self._selector.close()
        for end in (self._listener, self._wake, self._waker):
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):  # the caller has gone again, or descriptors are short: both pass
            connection, _ = self._listener.accept()
            if len(self._clients) >= _MAX_CLIENTS:
                connection.close()
                return
            connection.setblocking(False)
            client = _Client(connection)
            self._clients.add(client)
            self._selector.register(connection, selectors.EVENT_READ, client)

    def _drop(self, client: _Client) -> None:
        self._clients.discard(client)
        with suppress(KeyError, ValueError):
            self._selector.unregister(client.connection)
        client.connection.close()

    def _serve_client(self, client: _Client) -> None:
        try:
            if client.unsent:  # one request at a time: nothing more is read until its reply is out
                self._send(client)
                return
            data = client.connection.recv(65536)
            if not data:
                raise ConnectionError
            client.received += data
            if not client.greeted:
                start = client.received[: len(_MAGIC)]
                if not _MAGIC.startswith(start):
                    raise ConnectionError
                if len(start) < len(_MAGIC):
                    return
                del client.received[: len(_MAGIC)]
                client.greeted = True
            while not client.unsent and self._answer(client):
                pass
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)

    def _answer(self, client: _Client) -> bool:
        """Answers one whole request, if there is one."""
        data = client.received
        if len(data) < _REQUEST.size:
            return False
        op, key_bytes, value_bytes = _REQUEST.unpack_from(data)
        allowed = MAX_VALUE_BYTES if op == _SET else 0
        if op not in (_SET, _PEEK, _REMOVE) or key_bytes > _MAX_KEY_BYTES or value_bytes > allowed:
            raise ConnectionError
        end = _REQUEST.size + key_bytes + value_bytes
        if len(data) < end:
            return False
        key = bytes(data[_REQUEST.size : _REQUEST.size + key_bytes])
        value = bytes(data[_REQUEST.size + key_bytes : end])
        del data[:end]
        found = self._values.get(key)
        if op != _PEEK:
            kept = len(key) + len(value) if op == _SET else 0
            dropped = 0 if found is None else len(key) + len(found)
            if self._bytes + kept - dropped > _MAX_TOTAL_BYTES:
                raise ConnectionError
            self._bytes += kept - dropped
            if op == _SET:
                self._values[key] = value
            else:
                self._values.pop(key, None)
            found = b""
        client.unsent += _REPLY.pack(found is not None, len(found or b"")) + (found or b"")
        self._send(client)
        return True

    def _send(self, client: _Client) -> None:
        with suppress(BlockingIOError):
            del client.unsent[: client.connection.send(client.unsent)]
        events = selectors.EVENT_WRITE if client.unsent else selectors.EVENT_READ
        self._selector.modify(client.connection, events, client)


def _listen(host: str, port: int) -> socket.socket:
    try:
        if not host and socket.has_dualstack_ipv6():
            try:
                return socket.create_server(
                    ("", port), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True
                )
            except OSError:
                pass  # IPv6 is compiled in but switched off
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise RendezvousError(
            f"rank 0 cannot serve the store on port {port} ({error.strerror}); if another program has it, "
            "choose one with GRADWIRE_STORE=tcp://host:port on every rank"
        ) from error


class TcpStore(Store):
    """The client, and on rank 0 the server too. It ends with rank 0's process: after losing rank 0, pass
    `reconfigure` a new store.
    """

    def __init__(self, host: str, port: int, serve: bool, timeout: float) -> None:
        if not 0 < port < 65536:
            raise ArgumentError(f"store tcp://{host}:{port}: the port must be 1 to 65535")
        self.host, self.port = host, port
        loopback = host in ("localhost", "::1") or host.startswith("127.")
        # A host's own name often resolves to a loopback address, so the server listens everywhere.
        bind = ("127.0.0.1" if host == "localhost" else host) if loopback else ""
        self._server = TcpStoreServer(bind, port) if serve else None
        self._lock = threading.Lock()
        try:
            self._connection = self._connect(timeout)
        except BaseException:
            self.close()
            raise

    def _connect(self, timeout: float) -> socket.socket:
        deadline = time.monotonic() + timeout
        pause = 0.005
        while True:
            left = max(0.05, deadline - time.monotonic())
            try:
                connection = socket.create_connection((self.host, self.port), timeout=min(left, 5.0))
                connection.settimeout(_REPLY_S)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.sendall(_MAGIC)
                return connection
            except OSError as error:  # rank 0 is not up yet, or nobody will ever be
                if time.monotonic() + pause >= deadline:
                    raise RendezvousError(
                        f"no store answers at {self.host}:{self.port} within {timeout:g} s ({error}); is "
                        "rank 0 running, and can this host reach that port?"
                    ) from error
                time.sleep(pause)
                pause = min(2 * pause, 0.2)

    def _ask(self, op: int, key: str, value: bytes = b"") -> bytes | None:
        name = key.encode()
        if len(name) > _MAX_KEY_BYTES or len(value) > MAX_VALUE_BYTES:
            raise ArgumentError(
                f"store key of {len(name)} bytes with a value of {len(value)}: the limits are "
                f"{_MAX_KEY_BYTES} and {MAX_VALUE_BYTES}"
            )
        try:
            with self._lock:
                self._connection.sendall(_REQUEST.pack(op, len(name), len(value)) + name + value)
                found, size = _REPLY.unpack(self._read(_REPLY.size))
                return self._read(min(size, MAX_VALUE_BYTES)) if found else None
        except OSError as error:
            raise RendezvousError(
                f"the store at {self.host}:{self.port} has gone ({error}); it lives in rank 0's process"
            ) from error

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self._connection.recv(size - len(data))
            if not part:
                raise ConnectionError("connection closed")
            data += part
        return bytes(data)

    def set(self, key: str, value: bytes) -> None:
        self._ask(_SET, key, value)

    def peek(self, key: str) -> bytes | None:
        return self._ask(_PEEK, key)

    def remove(self, key: str) -> None:
        with suppress(RendezvousError):
            self._ask(_REMOVE, key)

    def close(self) -> None:
        connection = getattr(self, "_connection", None)
        if connection is not None:
            connection.close()
        if self._server is not None:
            self._server.close()

    def __repr__(self) -> str:
        return f"TcpStore('tcp://{self.host}:{self.port}')"
