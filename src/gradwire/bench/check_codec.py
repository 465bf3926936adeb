"""`gradwire check-codec`: is a codec fit for use? Native ones by name, one of your own as module:Class."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradwire.bench.arguments import UsageError, make_codec

if TYPE_CHECKING:
    from gradwire import Codec

EXAMPLES = """\
examples:
  gradwire check-codec int4                      a codec of this build
  gradwire check-codec "topk(ratio=0.05)" fp8_e4m3
  gradwire check-codec my_module:MyCodec         a class with the methods of gradwire.user_codec.UserCodec

Exit code: 0 if every check of every codec passed, 1 if one failed, 2 for bad arguments.
"""

Floats = npt.NDArray[np.float32]
_UNBIASED_SPREADS = 6.0  # a fair mean strays further than so many of its deviations once in a billion


_VERDICTS = {True: "pass", False: "FAIL", None: "note"}


@dataclass(frozen=True)
class Check:
    """passed is None where the check says something that a codec need not fulfil."""

    name: str
    passed: bool | None
    found: str


def add_parser(commands: Any) -> None:
    p: argparse.ArgumentParser = commands.add_parser(
        "check-codec",
        help="test a codec: round trip, sizes, bias, NaN, determinism",
        description="Tests codecs against the contract that collectives and error feedback rely on.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("codec", nargs="+", metavar="NAME", help="a codec, or module:Class to register and test")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    failed = 0
    for spec in args.codec:
        codec = _find(spec)
        checks = list(check(codec))
        failed += sum(c.passed is False for c in checks)
        print(f"codec {codec}")
        for c in checks:
            print(f"  {c.name:17} {_VERDICTS[c.passed]:5} {c.found}")
    return 1 if failed else 0


def _find(spec: str) -> Codec:
    import gradwire

    module, colon, attribute = spec.partition(":")
    if not colon:
        codec = make_codec(spec)
        if codec is None:
            raise UsageError(
                f"{spec!r} encodes nothing: name a codec, such as {', '.join(gradwire.codecs())}"
            )
        return codec
    sys.path.insert(0, os.getcwd())  # as python -m does
    try:
        return gradwire.register_codec(getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError, gradwire.GradwireError) as error:
        raise UsageError(f"{spec}: {error}") from None
    finally:
        sys.path.pop(0)


def check(codec: Codec) -> Iterator[Check]:
    """Every check, in the order of the table. A check that raises has failed, with the error as its
    finding."""
    for name, one in _CHECKS.items():
        try:
            passed, found = one(codec)
        except Exception as error:
            passed, found = False, f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0]
        yield Check(name, passed, found)


# -- the checks ----------------------------------------------------------------------------------------------
def _normal(count: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).standard_normal(count, np.float32)


def _encode(codec: Codec, x: Floats, step: int = 0, residual: Floats | None = None) -> Any:
    import gradwire

    return gradwire.encode(x, codec, residual, step)


def _decode(frame: Any) -> Floats:
    import gradwire

    decoded: Floats = gradwire.decode(frame)
    return decoded


def _counts(codec: Codec) -> list[int]:
    block = codec.block
    return sorted({0, 1, block - 1, block, block + 1, 3 * block + 1, 10_007})


def _payload(frame: Any) -> bytes:
    from gradwire import _native

    return bytes(np.asarray(frame)[_native.HEADER_BYTES :])


def _sizes(codec: Codec) -> tuple[bool, str]:
    """encoded_bytes is what is written (or a bound on it), and adds up over whole blocks."""
    for count in _counts(codec):
        promised, got = codec.encoded_bytes(count), len(_payload(_encode(codec, _normal(count))))
        if got > promised or (codec.fixed_size and got != promised):
            return False, f"encoded_bytes({count}) says {promised}, {got} were written"
    whole = codec.encoded_bytes(codec.block)
    for blocks in (2, 5):
        if codec.fixed_size and codec.encoded_bytes(blocks * codec.block) != blocks * whole:
            return False, f"{blocks} blocks of {codec.block} do not take {blocks} x {whole} bytes"
    count = 1000 * codec.block
    return (
        True,
        f"{8 * codec.encoded_bytes(count) / count:.4g} bits an element, {_counts(codec)} elements tried",
    )


def _round_trip(codec: Codec) -> tuple[bool, str]:
    """Decoding gives finite values of the right number, and nothing from nothing."""
    for count in _counts(codec):
        decoded = _decode(_encode(codec, _normal(count)))
        if decoded.shape != (count,) or not np.isfinite(decoded).all():
            return (
                False,
                f"{count} elements came back as {decoded.shape}, finite: {np.isfinite(decoded).all()}",
            )
    zeros = _decode(_encode(codec, np.zeros(2 * codec.block + 1, np.float32)))
    if zeros.any():
        return False, "zeros do not come back as zeros"
    x = _normal(max(100_000 // codec.block, 4) * codec.block)
    error = float(np.linalg.norm(_decode(_encode(codec, x)) - x) / np.linalg.norm(x))
    if not codec.lossy and error:
        return False, f"a lossless codec lost {error:.3g} of N(0, 1)"
    return True, f"relative error {error:.4g} on N(0, 1)"


def _contraction(codec: Codec) -> tuple[bool, str]:
    """|x - Q(x)| < |x| is what makes error feedback converge (Karimireddy et al. 2019, assumption A)."""
    worst, where = 0.0, ""
    for name, x in _distributions(max(20_000 // codec.block, 4) * codec.block).items():
        share = float(np.linalg.norm(_decode(_encode(codec, x)) - x) / np.linalg.norm(x))
        if not share < worst:
            worst, where = share, name
    return worst < 1, f"at worst {worst:.4g} of the norm is lost, on {where}"


def _range(codec: Codec) -> tuple[bool | None, str]:
    """What becomes of very small and very large values: a cast without a scale cannot hold them."""
    found = []
    for size in ("1e-20", "1e20"):
        x = _normal(4 * codec.block) * np.float32(size)
        decoded = _decode(_encode(codec, x))
        with np.errstate(all="ignore"):
            share = np.linalg.norm((decoded - x) / np.float32(size)) / np.linalg.norm(x / np.float32(size))
        found.append(
            f"{size} N(0, 1) loses {share:.4g}" if np.isfinite(decoded).all() else f"{size} becomes Inf"
        )
    return None, "; ".join(found)


def _distributions(count: int) -> dict[str, Floats]:
    rng = np.random.default_rng(2)
    spikes = np.zeros(count, np.float32)
    spikes[::97] = 1
    draws = {
        "N(0, 1)": rng.standard_normal(count),
        "Student t, 3 degrees": rng.standard_t(3, count),
        "lognormal": rng.lognormal(0, 2, count),
        "one sign": np.abs(rng.standard_normal(count)),
        "spikes": spikes,
    }
    return {name: np.ascontiguousarray(x, np.float32) for name, x in draws.items()}


def _residual(codec: Codec) -> tuple[bool, str]:
    """What is sent and what stays in the residual add up to what was given, up to fp32 rounding."""
    count = 2 * codec.block + 1001
    x, residual = _normal(count), _normal(count, 3) * np.float32(0.125)
    given = x.astype(np.float64) + residual
    sent = _decode(_encode(codec, x, 0, residual))
    missing = float(np.abs(sent + residual.astype(np.float64) - given).max())
    bound = 4 * 2.0**-24 * float(np.abs(given).max() + np.abs(sent).max())
    return missing <= bound, f"largest difference {missing:.3g}, bound {bound:.3g}"


def _bias(codec: Codec) -> tuple[bool | None, str]:
    """The mean error over 64 steps of one array, beside what chance explains."""
    x = _normal(max(8192 // codec.block, 2) * codec.block)
    errors = np.stack([(_decode(_encode(codec, x, step)) - x).astype(np.float64) for step in range(64)])
    spread = errors.std(axis=0, ddof=1)
    if not spread.any():
        slope = float(x @ errors.mean(axis=0) / (x @ x))
        return (
            None,
            f"every step rounds alike; <x, error> / |x|^2 = {slope:+.3%} (error feedback corrects it)",
        )
    mean = float(np.linalg.norm(errors.mean(axis=0)) / np.linalg.norm(x))
    chance = float(np.linalg.norm(spread) / 8 / np.linalg.norm(x))
    verdict = "unbiased" if mean < (1 + _UNBIASED_SPREADS / np.sqrt(2 * x.size)) * chance else "biased"
    return None, f"{verdict}: the mean of 64 draws is off by {mean:.3%}, chance explains {chance:.3%}"


def _determinism(codec: Codec) -> tuple[bool, str]:
    """Equal values and step give equal bytes: again, and cut in two at a block."""
    count = 7 * codec.block + 3
    x = _normal(count)
    whole = _payload(_encode(codec, x, 5))
    if whole != _payload(_encode(codec, x.copy(), 5)):
        return False, "two encodings of one array differ"
    if whole != _payload(_encode(codec, x, 6)):
        return True, "same bytes twice; it draws random numbers, other ones every step"
    head = 3 * codec.block
    parts = _payload(_encode(codec, x[:head], 5)) + _payload(_encode(codec, x[head:], 5))
    if parts != whole:
        return False, "the payloads of two parts are not the payload of the whole"
    return True, "same bytes twice, and in parts"


def _not_finite(codec: Codec) -> tuple[bool, str]:
    """NaN and Inf come back as NaN or Inf in their block, and never enter a residual."""
    for value in (np.nan, np.inf, -np.inf):
        x = _normal(3 * codec.block)
        at = codec.block + codec.block // 2
        x[at] = value
        residual = np.zeros_like(x)
        decoded = _decode(_encode(codec, x, 0, residual))
        if np.isfinite(decoded[codec.block : 2 * codec.block]).all():
            return False, f"{value} came back as finite numbers"
        if not np.isfinite(np.delete(decoded, np.s_[codec.block : 2 * codec.block])).all():
            return False, f"{value} reached another block"
        if not np.isfinite(residual).all():
            return False, f"{value} entered the residual"
    return True, "NaN, Inf and -Inf show, in their block only; residuals stay finite"


def _hostile(codec: Codec) -> tuple[bool, str]:
    """Random payloads decode to something or raise a typed error."""
    import gradwire

    rng, refused = np.random.default_rng(4), 0
    frame = _encode(codec, _normal(3 * codec.block + 5)).copy()
    for _ in range(50):
        frame[64:] = rng.integers(0, 256, len(frame) - 64, np.uint8)
        try:
            _decode(frame)
        except gradwire.FrameError:
            refused += 1
        except gradwire.CodecError as error:
            if "ValueError" not in str(error):
                return False, f"decode of random bytes: {error}"
            refused += 1
    return True, f"of 50 random payloads {refused} were refused"


def _instruction_sets(codec: Codec) -> tuple[bool | None, str]:
    """The bytes and the values do not depend on the instruction set."""
    from gradwire import _native

    if codec.id == 255:
        return None, "registered codecs choose their own"
    names, before, seen = _native.isas(), _native.isa(), {}
    x = np.concatenate(list(_distributions(4 * codec.block + 13).values()))
    try:
        for isa in names:
            _native.use_isa(isa)
            frame = _encode(codec, x)
            seen[isa] = bytes(np.asarray(frame)) + _decode(frame).tobytes()
    finally:
        _native.use_isa(before)
    different = [isa for isa in names if seen[isa] != seen[names[0]]]
    return not different, f"{', '.join(names)}" + (
        f": {', '.join(different)} differ" if different else " agree"
    )


_CHECKS: dict[str, Callable[[Any], tuple[bool | None, str]]] = {
    "sizes": _sizes,
    "round trip": _round_trip,
    "contraction": _contraction,
    "range": _range,
    "residual": _residual,
    "bias": _bias,
    "determinism": _determinism,
    "NaN and Inf": _not_finite,
    "hostile bytes": _hostile,
    "instruction sets": _instruction_sets,
}
