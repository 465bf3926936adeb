"""The command line: one module per command, with add_parser() and run(). A new command is one line here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import gradwire
from gradwire.bench import all_reduce, check_codec, codec, doctor, probe, run
from gradwire.bench.arguments import UsageError

EXAMPLES = """\
examples:
  gradwire run -n 4 train.py --steps 100               a script on four ranks of this machine
  gradwire probe --ranks 4                             every link between ranks; which are slow
  gradwire doctor                                      what works here, what does not, and why
  gradwire bench all_reduce --ranks 2 --vs gloo        two processes on this machine, Gloo beside
  torchrun --nproc-per-node 4 -m gradwire bench all_reduce --codec none,int8,int4
  gradwire bench codec --codec int8,int4 --size 25m    encode and decode speed as a share of memcpy

Every column is defined in benchmarks/README.md of the source tree.
"""


def make_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="gradwire",
        description="Collective communication with gradient compression: launcher, benchmarks, checks.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {gradwire.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    bench = commands.add_parser(
        "bench", help="measure all_reduce or the codecs", epilog=EXAMPLES, formatter_class=raw
    )
    benches = bench.add_subparsers(title="benchmarks", metavar="WHAT", required=True)
    all_reduce.add_parser(benches)
    codec.add_parser(benches)
    check_codec.add_parser(commands)
    doctor.add_parser(commands)
    probe.add_parser(commands)
    run.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. 0: fine; 1: something measured or checked is wrong; 2: bad arguments."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser()
    try:
        args = parser.parse_args(words)
        args.words = words
        return int(args.run(args))
    except SystemExit as e:  # argparse: 0 after -h, 2 after a bad argument
        return e.code if isinstance(e.code, int) else 2
    except UsageError as e:
        print(f"gradwire: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `head`, left
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
