"""Codecs by name, and stand-alone frames: floats to self-describing bytes and back, without any peer."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from gradwire import _native, arrays
from gradwire._native import Codec
from gradwire.errors import ArgumentError

__all__ = ["Codec", "codec", "codecs", "decode", "decode_add", "encode"]

_SPEC = re.compile(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*")
_PARAMETERS = {
    "block": int,
    "ratio": float,
    "values": str,
    "levels": str,
    "rounding": str,
    "scale": str,
    "seed": int,
}


def codec(name: str, **parameters: Any) -> Codec:
    """Make a codec. It is immutable, holds no data and may be shared by threads and communicators.

    name: one of `codecs()`, or the form that a codec prints, such as "int4(block=64)". block: elements that
    share a scale (int8, int4; fp8_e4m3 and fp8_e5m2, which without it are plain casts) or a selection
    (topk). ratio: kept share of each block (topk). values: how kept values travel, "fp32", "bf16", "int8" or
    "int4" (topk, randk). levels: where decoded values lie, "signed-max" (evenly, the largest magnitude met)
    or "lloyd-max" (least error on Gaussian values; int2 to int6). rounding: "nearest" or "stochastic"
    (unbiased; int2 to int8). scale: "least-squares" or "unbiased" (rotated4). seed: 0 to 65535, of whatever
    the codec draws at random; the numbers also depend on the step and the element, not on how an array is
    split. Raises ArgumentError for an unknown name, or a parameter that the codec does not take.

    >>> import gradwire
    >>> int4 = gradwire.codec("int4", block=32)
    >>> int4.name, int4.lossy, int4.encoded_bytes(1024)  # 4 bits each and a 2-byte scale per block
    ('int4', True, 576)
    """
    match = _SPEC.fullmatch(name)
    if match is None:
        raise ArgumentError(
            f'codec "{name}" is not of the form name or name(parameter=value); known: {_known()}'
        )
    word, written = match.groups()
    if word == "auto":
        raise ArgumentError(
            'codec "auto" is chosen for each array, by all_reduce and gradwire.torch; here name one of: '
            + _known()
        )
    given: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in (written or "").split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise ArgumentError(f'codec "{name}": expected parameter=value, got "{item}"')
        given[key] = value
    given.update(parameters)
    for key, value in given.items():
        kind = _PARAMETERS.get(key)
        if kind is None:
            raise ArgumentError(f'codec "{word}": no parameter "{key}"; known: {", ".join(_PARAMETERS)}')
        try:
            given[key] = kind(value)
        except (TypeError, ValueError):
            raise ArgumentError(f'codec "{word}": {key} must be {kind.__name__}, got {value!r}') from None
        if key != "seed" and not given[key]:  # which is how native code hears that it was not given
            raise ArgumentError(f'codec "{word}": {key} cannot be {value!r}; leave it out for the default')
    return Codec(word, **given)


def codecs() -> list[str]:
    """Names of all codecs of this build, then of those that were registered (`register_codec`).

    >>> import gradwire
    >>> "int8" in gradwire.codecs()
    True
    """
    return [*_native.codec_names(), *_native.user_codec_names()]


def _known() -> str:
    return ", ".join(codecs())


@lru_cache(maxsize=64)
def _by_spec(spec: str) -> Codec:
    return codec(spec)


def forget_names() -> None:
    """After a name has come to mean something else."""
    _by_spec.cache_clear()


def as_codec(choice: Codec | str | None) -> Codec | None:
    """What a `codec=` argument means. Names are looked up once."""
    if isinstance(choice, str):
        return _by_spec(choice)
    if choice is None or isinstance(choice, Codec):
        return choice
    raise ArgumentError(f"codec must be a name, a gradwire.Codec or None, got {type(choice).__name__}")


def encode(x: Any, codec: Codec | str, residual: Any | None = None, step: int = 0, threads: int = 1) -> Any:
    """Encode an array into one frame: a 64-byte header and the payload (see csrc/codec/WIRE_FORMAT.md).

    x: float array of any shape. residual: fp32, as many elements as x; it is added to x before encoding and
    overwritten with what the encoding lost (error feedback). step: for codecs with a seed, so that every step
    draws other numbers; it travels in the header. threads: for fp32 arrays of 1 MiB and more, at most so
    many; the bytes do not depend on it.
    Returns uint8[64 + codec.encoded_bytes(x.size)] (identity: 64 + the bytes of x; fewer from a codec without
    a fixed size), a torch tensor if x is one, else a NumPy array. Raises ArgumentError if x is not contiguous
    or not floating point.

    >>> import gradwire, numpy as np
    >>> frame = gradwire.encode(np.linspace(-1, 1, 64, dtype=np.float32), "int8")
    >>> float(abs(gradwire.decode(frame) - np.linspace(-1, 1, 64)).max()) < 1 / 127
    True
    """
    chosen = as_codec(codec)
    if chosen is None:
        raise ArgumentError(f"encode needs a codec; known: {_known()}")
    # identity keeps the array's own bytes, every other codec starts from fp32
    payload = chosen.encoded_bytes(arrays.count_and_dtype(x)[0]) if chosen.id else arrays.nbytes(x)
    frame = arrays.empty(x, _native.HEADER_BYTES + payload, "uint8")
    return _native.encode(x, chosen, residual, frame, step, threads)


def decode(frame: Any, out: Any | None = None, threads: int = 1) -> Any:
    """Decode a frame made by `encode`, here or on another machine.

    frame: uint8 array or bytes. out: float array of the frame's count, any float dtype; made if None: 1-D, of
    the frame's kind of array, in the dtype that was encoded (bfloat16 without torch: float32). threads: as in
    encode. Raises FrameError if the bytes are not a frame.

    >>> import gradwire, numpy as np
    >>> gradwire.decode(gradwire.encode(np.float16([1, 2, -4]), "bf16"))
    array([ 1.,  2., -4.], dtype=float16)
    """
    if out is None:
        info = _native.frame_info(frame)
        out = arrays.empty(frame, info["count"], info["dtype"])
    _native.decode(frame, out, threads)
    return out


def decode_add(frame: Any, acc: Any, threads: int = 1) -> Any:
    """Add a frame's values to `acc` in place, without a temporary array. Returns acc.

    acc: float array of the frame's count. threads: as in encode. Raises FrameError if the bytes are not a
    frame, ArgumentError if acc does not fit.

    >>> import gradwire, numpy as np
    >>> acc = np.ones(3, np.float32)
    >>> gradwire.decode_add(gradwire.encode(np.float32([1, 2, 3]), "identity"), acc)
    array([2., 3., 4.], dtype=float32)
    """
    _native.decode_add(frame, acc, threads)
    return acc
