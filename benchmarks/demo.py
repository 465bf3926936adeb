"""Trains a byte-level GPT on the standard library's source, on ranks that talk over TCP, once per codec.

    python benchmarks/demo.py            2 ranks, 1 seed, under two minutes on two cores
    python benchmarks/demo.py --full     4 ranks, 3 seeds, longer: mean and spread

Shows held-out loss against bytes and time; leaves a PNG and JSON lines in benchmarks/results/ (or --out).
Needs torch, rich and matplotlib.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

HERE = Path(__file__).parent
AGREE = 0.05  # share by which the kernel's byte count may differ from the reported one
PROMISED = {"int8": 0.005, "int4": 0.015}  # at most so much worse than dense, as a share of its held-out loss

Result = dict[str, Any]


def launch(
    args: argparse.Namespace, runs: list[list[Any]], progress: Progress
) -> tuple[dict[str, Any], list[Result]]:
    """Starts the ranks, moves the bars, and returns (what the text was, one result per training)."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(args.ranks),
    ]
    command += [str(HERE / "demo_worker.py"), "--runs", json.dumps(runs), "--seeds", json.dumps(args.seeds)]
    command += ["--steps", str(args.steps), "--batch", str(args.batch), "--every", str(args.every)]
    bars = {name: progress.add_task(name, total=args.steps * len(args.seeds), loss="") for name, _, _ in runs}
    text: dict[str, Any] = {}
    results: list[Result] = []
    env = {"OMP_NUM_THREADS": "1", **os.environ}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    ) as ranks:
        other = []
        try:
            assert ranks.stdout is not None
            for line in ranks.stdout:
                if not line.startswith("{"):
                    other.append(line)
                    continue
                message = json.loads(line)
                if "at" in message:
                    progress.update(bars[message["at"]], advance=1, loss=f"{message['loss']:.3f}")
                elif "result" in message:
                    results.append(message["result"])
                else:
                    text = message
        except BaseException:
            ranks.terminate()
            raise
    if ranks.returncode:
        sys.exit(f"the ranks failed with {ranks.returncode}:\n{''.join(other)}")
    return text, results


def spread(values: list[float], form: str) -> str:
    """Mean, and the standard deviation if there are several seeds."""
    text = format(mean(values), form)
    return f"{text} ± {format(stdev(values), form)}" if len(values) > 1 else text


def table_of(by_codec: dict[str, list[Result]]) -> Table:
    table = Table(title="held-out loss; kB a rank sends a step; kernel: bytes it counted / reported")
    for heading in ("codec", "loss", "vs dense", "kB/step", "ratio", "step ms", "exposed ms", "kernel"):
        table.add_column(heading, justify="left" if heading == "codec" else "right")
    dense = mean(r["held_out_loss"] for r in by_codec["dense"])
    for name, results in by_codec.items():
        table.add_row(
            name,
            spread([r["held_out_loss"] for r in results], ".4f"),
            f"{mean(r['held_out_loss'] for r in results) / dense - 1:+.2%}",
            f"{results[0]['bytes_per_step'] / 1e3:,.1f}",
            f"{results[0]['ratio']:.1f}x",
            spread([r["step_s"] * 1e3 for r in results], ".1f"),
            spread([r["exposed_s"] * 1e3 for r in results], ".1f"),
            f"{mean(r['kernel_bytes_all_ranks'] / r['reported_bytes_all_ranks'] for r in results):.4f}",
        )
    return table


def draw(by_codec: dict[str, list[Result]], path: Path, caption: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    for panel, key, scale, label in (
        (panels[0], "bytes", 1e6, "MB sent per rank (log)"),
        (panels[1], "seconds", 1.0, "training time, s"),
    ):
        for i, (name, results) in enumerate(by_codec.items()):
            for r in results:
                x = [p[key] / scale for p in r["curve"]]
                y = [p["loss"] for p in r["curve"]]
                style = {"color": f"C{i}", "marker": "os^D"[i % 4], "markersize": 3.5, "linewidth": 1.4}
                panel.plot(x, y, label=name if r is results[0] else None, alpha=0.9, **style)
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    panels[0].set_xscale("log")
    panels[0].set_ylabel("held-out loss, nats a byte")
    panels[1].legend(title="gradients", frameon=False)
    figure.suptitle(caption, fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def problems(by_codec: dict[str, list[Result]]) -> list[str]:
    """What a reader should not have to find out alone. Empty: all as promised."""
    found = []
    for name, results in by_codec.items():
        for r in results:
            if len(set(r["hashes"])) != 1:
                found.append(f"{name}: replicas differ: {r['hashes']}")
            share = r["kernel_bytes_all_ranks"] / r["reported_bytes_all_ranks"]
            if abs(share - 1) > AGREE:
                found.append(f"{name}: the kernel counted {share:.3f} of the reported bytes")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--full", action="store_true", help="4 ranks, 3 seeds, 600 steps unless given otherwise"
    )
    parser.add_argument("--ranks", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=lambda s: [int(x) for x in s.split(",")])
    parser.add_argument("--batch", type=int, default=8, help="windows of 128 bytes per rank and step")
    parser.add_argument("--codecs", default="int8,int4,topk", help="beside dense")
    parser.add_argument(
        "--out", type=Path, default=HERE / "results", help="folder of the PNG and the JSON lines"
    )
    args = parser.parse_args()
    args.ranks = args.ranks or (4 if args.full else 2)
    args.steps = args.steps or (600 if args.full else 120)
    args.seeds = args.seeds or ([0, 1, 2] if args.full else [0])
    args.every = max(1, args.steps // 12)
    known = {"topk": ["top-k 1 %", "topk(ratio=0.01)", args.steps // 4]}
    runs = [["dense", None, 0], *(known.get(c, [c, c, 0]) for c in filter(None, args.codecs.split(",")))]

    console = Console()
    columns = (TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    begin = time.monotonic()
    with Progress(
        *columns, TextColumn("loss {task.fields[loss]}"), console=console, refresh_per_second=2
    ) as progress:
        text, results = launch(args, runs, progress)
    by_codec: dict[str, list[Result]] = defaultdict(list)
    for r in results:
        by_codec[r["codec"]].append(r)

    first = results[0]
    where = f"{platform.node()}, {os.cpu_count()} cores, {args.ranks} ranks on one host over TCP loopback"
    setup = f"{first['params']:,} parameters, {args.steps} steps, seeds {args.seeds}"
    command = shlex.join(["python", "benchmarks/demo.py", *sys.argv[1:]])
    console.print(
        f"\ntext: {text['files']} files of the standard library, every 20th held out, list {text['text']} "
        f"({text['train_bytes']:,} + {text['held_out_bytes']:,} bytes)\n"
        f"measured on {where}\n{setup}\n{command}\n"
    )
    console.print(table_of(by_codec))
    for name, of_codec in by_codec.items():
        hashes = ", ".join(r["hashes"][0] for r in of_codec)
        console.print(f"{name}: parameters of all {args.ranks} ranks hash to {hashes}")
    dense = mean(r["held_out_loss"] for r in by_codec["dense"])
    for name, bar in PROMISED.items():
        if name in by_codec:
            change = mean(r["held_out_loss"] for r in by_codec[name]) / dense - 1
            verdict = "within" if change <= bar else "NOT within"
            console.print(f"{name}: held-out loss {change:+.2%} against dense, {verdict} {bar:.1%}")

    args.out.mkdir(parents=True, exist_ok=True)
    picture, lines = args.out / "demo.png", args.out / "demo.jsonl"
    draw(by_codec, picture, f"{setup}; {where}")
    about = {"text": text, "host": where, "command": command, "python": platform.python_version()}
    lines.write_text("".join(json.dumps({**r, **about}) + "\n" for r in results), encoding="utf-8")
    console.print(f"\n{picture}\n{lines}\n{time.monotonic() - begin:.0f} s in all")
    wrong = problems(by_codec)
    for problem in wrong:
        console.print(f"WRONG: {problem}", style="bold red")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
