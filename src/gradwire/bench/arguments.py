"""Arguments that several commands share: sizes, comma-separated lists, codecs, output files."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradwire import Codec

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?", re.IGNORECASE)


class UsageError(Exception):
    """Arguments that cannot be carried out. The message says what is wrong and what to do; exit code 2."""


def parse_size(text: str) -> int:
    """Bytes of "25m", "1.5MiB", "4096". Units are powers of 1024, as in nccl-tests."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size: use for example 4096, 64k, 25m or 1g")
    size = int(float(match[1]) * _UNITS[match[2].lower()])
    if size < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is less than one byte")
    return size


def parse_sizes(text: str) -> list[int]:
    return [parse_size(word) for word in text.split(",")]


def parse_names(text: str) -> list[str]:
    """Names between commas; a comma inside parentheses separates a codec's parameters."""
    names = ["".join(word.split()) for word in re.split(r",(?![^(]*\))", text)]
    if not all(names):
        raise argparse.ArgumentTypeError(f"'{text}' has an empty name: separate names with one comma")
    return list(dict.fromkeys(names))


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def not_negative(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 0")
    return int(text)


def size_range(smallest: int, largest: int, factor: int) -> list[int]:
    """[smallest, smallest * factor, ...] up to and including `largest` where it is met."""
    if largest < smallest:
        raise UsageError(f"--max-bytes {largest} is less than --min-bytes {smallest}")
    if factor < 2:
        raise UsageError(f"--factor {factor} would never end: use 2 or more")
    sizes = [smallest]
    while sizes[-1] * factor <= largest:
        sizes.append(sizes[-1] * factor)
    return sizes


def human_size(n: int) -> str:
    for unit, one in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if n >= one:
            return f"{n / one:.4g} {unit}"
    return f"{n} B"


def make_codec(spec: str) -> Codec | None:
    """The codec of a name or of the form that a codec prints, "int4(block=64)"; None for "none"."""
    import gradwire

    if spec == "none":
        return None
    try:
        return gradwire.codec(spec)
    except gradwire.ArgumentError as e:
        raise UsageError(f"--codec: {e}") from None


def add_outputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--json", metavar="FILE", help="append JSON lines, with machine, versions and command; - is stdout"
    )
    group.add_argument(
        "--csv", metavar="FILE", help="write the same columns as CSV; - is stdout, without the table"
    )
    group.add_argument("--plot", metavar="FILE.png", help="draw the results (needs matplotlib)")
    group.add_argument("--no-progress", action="store_true", help="no progress bar, even on a terminal")


def check_outputs(args: argparse.Namespace) -> None:
    """Before anything is measured: is what the chosen outputs need installed?"""
    if args.json == "-" and args.csv == "-":
        raise UsageError("--json - and --csv - would mix on stdout: send one of them to a file")
    if "-" not in (args.json, args.csv) and not importlib.util.find_spec("rich"):
        raise UsageError("the table needs rich: pip install 'gradwire[bench]', or use --csv - or --json -")
    for path in filter(None, (args.json, args.csv, args.plot)):
        if path != "-" and not os.access(Path(path).parent, os.W_OK):
            raise UsageError(f"cannot write {path}: {Path(path).parent} is not a writable folder")
    if args.plot and not importlib.util.find_spec("matplotlib"):
        raise UsageError("--plot needs matplotlib: pip install 'gradwire[bench]'")
