"""The typed errors. Callers never match text: who, where and when are attributes.

Native code raises exactly these classes; `gradwire/__init__.py` hands them over at import.
"""

from __future__ import annotations

__all__ = [
    "Aborted",
    "ArgumentError",
    "Closed",
    "CodecError",
    "FrameError",
    "GpuError",
    "GradwireError",
    "InternalError",
    "MismatchError",
    "PeerLost",
    "RendezvousError",
    "Timeout",
]


class GradwireError(Exception):
    """Base of every error that gradwire raises on purpose.

    rank: the culprit's rank, not the reporter's; host: its host name; op: the operation, such as
    "all_reduce"; seq: its number on this communicator; step: the step of its schedule. None where it does not
    apply.

    >>> import gradwire
    >>> try:
    ...     gradwire.codec("int9")
    ... except gradwire.GradwireError as error:
    ...     print(type(error).__name__, error.rank)
    ArgumentError None
    """

    rank: int | None = None
    host: str | None = None
    op: str | None = None
    seq: int | None = None
    step: int | None = None


class ArgumentError(GradwireError, ValueError):
    """Bad input. Nothing was sent; the communicator stays usable."""


class MismatchError(GradwireError):
    """Ranks called different operations; the message prints both. The communicator needs `reconfigure`."""


class Timeout(GradwireError, TimeoutError):
    """A deadline passed; `rank` did not answer. The communicator needs `reconfigure`."""


class PeerLost(GradwireError, ConnectionError):
    """`rank` died or closed its communicator while it was needed. The communicator needs `reconfigure`."""


class Aborted(GradwireError):
    """`abort()` was called, here or on `rank`."""


class FrameError(GradwireError, ValueError):
    """Malformed or foreign bytes where a frame was expected."""


class CodecError(GradwireError):
    """A codec that a program registered raised an exception or returned the wrong number of bytes or values.

    In a collective `rank` is where it happened, and every rank gets the error; the communicator then needs
    `reconfigure`.
    """


class GpuError(GradwireError, RuntimeError):
    """GPU arrays cannot be used here, and the message says what is missing: gradwire's CUDA part, an NVIDIA
    driver or a GPU. Or CUDA reported an error.
    """


class RendezvousError(GradwireError, ConnectionError):
    """Ranks could not find or connect to one another; the message names those missing."""


class Closed(GradwireError):
    """The communicator was closed before."""


class InternalError(GradwireError):
    """An invariant of gradwire broke: a bug, please report it."""


# Keys are the names of ErrorKind in csrc/base/error.hpp.
BY_KIND: dict[str, type[BaseException]] = {
    "argument": ArgumentError,
    "mismatch": MismatchError,
    "timeout": Timeout,
    "peer_lost": PeerLost,
    "aborted": Aborted,
    "frame": FrameError,
    "rendezvous": RendezvousError,
    "closed": Closed,
    "internal": InternalError,
    "codec": CodecError,
    "gpu": GpuError,
}
