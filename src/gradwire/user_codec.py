"""Codecs written in Python: registered once per process, then usable wherever a native one is."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from gradwire import _native
from gradwire._native import Codec
from gradwire.codecs import forget_names
from gradwire.errors import ArgumentError

__all__ = ["Place", "UserCodec", "register_codec"]

_LARGEST_BLOCK = 4096
Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


class Place(NamedTuple):
    """Where a piece of an array stands: the key of random numbers, so that they do not depend on how an array
    is split. A method gets it if it has a parameter of the name `place`.

    first: index of the piece's first element in the whole array. step: number of the operation, or the step
    of a frame. stream: the encoding rank; 0 in decode, which does not know it.

    >>> import gradwire
    >>> gradwire.user_codec.Place(first=4096, step=7, stream=0).step
    7
    """

    first: int
    step: int
    stream: int


class UserCodec(Protocol):
    """What `register_codec` takes. Methods may be called from several threads.

    name: a word that no codec has. block: elements that belong together, 1 to 4096 (default 1): an array is
    only split at multiples of it, and the payload of the whole must be the payloads of the parts, one after
    the other. So what is shared by elements, such as a scale, is stored once a block.

    >>> import gradwire
    >>> gradwire.user_codec.UserCodec.__name__
    'UserCodec'
    """

    name: str

    def encoded_bytes(self, count: int) -> int:
        """Bytes of a payload of count elements, whatever the values."""

    def encode(self, x: Floats) -> Any:
        """x: float32[count], a copy. Returns encoded_bytes(count) bytes: bytes, or a uint8 array."""

    def decode(self, payload: Bytes, count: int) -> Any:
        """payload: uint8[encoded_bytes(count)], a copy, from anywhere: hostile until checked; raise
        ValueError if it makes no sense. Returns a float array of count elements."""


def register_codec(codec: UserCodec | Callable[[], UserCodec], name: str | None = None) -> Codec:
    """Make a Python object a codec: in collectives, frames, `gradwire.codec(name)` and the DDP hook.

    codec: an object with the methods of `UserCodec`, or a class of such without arguments. name: instead of
    its attribute. Returns the Codec. Registering a name again replaces it for new calls. Every rank must
    register the same; name, block and sizes are compared in every message (MismatchError). It is lossy as far
    as gradwire knows. What its methods raise, and payloads of a wrong size, become `CodecError`, which ends a
    collective on every rank and names this one. Python is slow next to native codecs: this is for trying
    ideas. `gradwire check-codec module:Class` tests one.
    Raises ArgumentError for a name that is taken or no word, and sizes that do not add up over blocks.

    >>> import gradwire, numpy as np
    >>> class Half:
    ...     name = "half"
    ...     def encoded_bytes(self, count): return 2 * count
    ...     def encode(self, x): return x.astype(np.float16).tobytes()
    ...     def decode(self, payload, count): return payload.view(np.float16)
    >>> gradwire.register_codec(Half)
    half
    >>> def rank(comm): return comm.all_reduce(np.float32([1, 2, 4]), codec="half")
    >>> gradwire.testing.run_ranks(2, rank)[0]
    array([2., 4., 8.], dtype=float32)
    """
    made: Any = codec() if isinstance(codec, type) else codec
    word = name if name is not None else getattr(made, "name", None)
    if not isinstance(word, str) or not word.isidentifier() or keyword.iskeyword(word):
        raise ArgumentError(f"a codec's name must be a word such as my_codec, got {word!r}")
    missing = [m for m in ("encoded_bytes", "encode", "decode") if not callable(getattr(made, m, None))]
    if missing:
        raise ArgumentError(
            f"codec {word!r} has no method {', '.join(missing)}: see gradwire.user_codec.UserCodec"
        )
    encode, decode = _with_place(made.encode), _with_place(made.decode)
    _native.add_user_codec(
        word,
        _sizes(word, made),
        lambda x, first, step, stream: _as_bytes(encode(x, place=Place(first, step, stream))),
        lambda payload, count, first, step: _as_floats(decode(payload, count, place=Place(first, step, 0))),
    )
    forget_names()
    return Codec(word)


def _with_place(method: Callable[..., Any]) -> Callable[..., Any]:
    if "place" in inspect.signature(method).parameters:
        return method

    def without_place(*arguments: Any, place: Place) -> Any:
        return method(*arguments)

    return without_place


def _sizes(word: str, made: Any) -> list[int]:
    """Payload bytes of 0 .. block elements; native code adds them up and never asks Python again."""
    block = getattr(made, "block", 1)
    if not isinstance(block, int) or not 1 <= block <= _LARGEST_BLOCK:
        raise ArgumentError(f"codec {word!r}: block must be from 1 to {_LARGEST_BLOCK}, got {block!r}")

    def size(count: int) -> int:
        value = made.encoded_bytes(count)
        if not isinstance(value, (int, np.integer)) or not 0 <= value < 2**32:
            raise ArgumentError(
                f"codec {word!r}: encoded_bytes({count}) must be a number of bytes, got {value!r}"
            )
        return int(value)

    sizes = [size(count) for count in range(block + 1)]
    for count in (0, 2 * block, 3 * block + block // 2, 1000 * block + 1):
        want = count // block * sizes[-1] + sizes[count % block]
        if size(count) != want or sizes[0] != 0:
            raise ArgumentError(
                f"codec {word!r}: encoded_bytes({count}) is {size(count)}, but whole blocks of {block} "
                f"elements at {sizes[-1]} bytes and the rest make {want if sizes[0] == 0 else 0}: store "
                "shared values once a block, and nothing for no elements"
            )
    return sizes


def _as_bytes(payload: Any) -> Any:
    return (
        np.frombuffer(payload, np.uint8) if isinstance(payload, (bytes, bytearray, memoryview)) else payload
    )


def _as_floats(values: Any) -> Any:
    return np.ascontiguousarray(values, np.float32)
