"""Trains a byte-GPT (AdamW) and a digits network (SGD with momentum) once per codec and seed.

    python benchmarks/convergence.py                        all that is missing from results/convergence.jsonl
    python benchmarks/convergence.py --only 'int*,dense'    some methods (patterns of names)
    python benchmarks/convergence.py --minutes 5            start no training after that; again: go on
    python benchmarks/convergence.py --draw                 table and picture of what is there

Shows what each codec cost: held-out loss or accuracy against bytes, with the spread over the seeds.

Needs torch, scikit-learn, rich and matplotlib: pip install '.[studies,torch]'.
"""

from __future__ import annotations

import argparse
import fnmatch
import multiprocessing
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from studies import rows as jsonl
from studies.codecs import Method, methods
from studies.plots import convergence as draw
from studies.rows import Row
from studies.tables import by_method, convergence_table, verdicts
from studies.tasks import TASKS
from studies.training import train

RESULTS = Path(__file__).parent / "results"
JUDGED = {name: task.judged for name, task in TASKS.items()}
Job = tuple[str, Method, int, int, int]  # task, method, seed, steps, ranks
Key = tuple[Any, ...]
_ticks: Any = None  # in a worker: the counter of steps that all of them share


def key_of(row: Row) -> Key:
    """What makes two trainings the same one."""
    return tuple(row[k] for k in ("task", "method", "seed", "ranks", "steps"))


def key_of_job(job: Job) -> Key:
    task, method, seed, steps, ranks = job
    return task, method.name, seed, ranks, steps


def _begin(ticks: Any) -> None:
    """In each worker process: one core, and the counter for the progress bar."""
    global _ticks  # noqa: PLW0603  # a process has no other place to keep it
    _ticks = ticks
    torch.set_num_threads(1)


def _tick() -> None:
    with _ticks.get_lock():
        _ticks.value += 1


def _train(task: str, method: Method, seed: int, steps: int, ranks: int) -> Row:
    return train(task, method, seed, steps, ranks=ranks, tick=_tick)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", default="byte-gpt,digits")
    parser.add_argument("--only", default="*", help="patterns of method names, between commas")
    parser.add_argument("--seeds", default="0,1,2", type=lambda s: [int(x) for x in s.split(",")])
    parser.add_argument("--steps", type=int, help="instead of each task's own number")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side, one core each")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="then start no further training")
    parser.add_argument("--again", action="store_true", help="replace rows that are there already")
    parser.add_argument("--draw", action="store_true", help="train nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON lines and the picture")
    args = parser.parse_args()
    args.tasks = args.tasks.split(",")
    unknown = set(args.tasks) - set(JUDGED)
    if unknown:
        parser.error(f"unknown task {', '.join(sorted(unknown))}; known: {', '.join(JUDGED)}")
    return args


def chosen(only: str) -> list[Method]:
    patterns = [p.strip() for p in only.split(",")]
    return [m for m in methods() if any(fnmatch.fnmatchcase(m.name, p) for p in patterns)]


def run(args: argparse.Namespace, todo: list[Job], path: Path, console: Console) -> int:
    """Trains what is to do, appends each row when it is known; returns how many are left."""
    context = multiprocessing.get_context("spawn")
    ticks = context.Value("q", 0)
    about = jsonl.run_of(__file__)
    deadline = time.monotonic() + args.minutes * 60
    total = sum(job[3] for job in todo)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    queue = list(todo)
    with (
        Progress(*columns, console=console) as progress,
        ProcessPoolExecutor(args.jobs, context, _begin, (ticks,)) as pool,
    ):
        bar = progress.add_task("steps", total=total)
        running: dict[Future[Row], Job] = {}
        while queue or running:
            while queue and len(running) < args.jobs and time.monotonic() < deadline:
                job = queue.pop(0)
                running[pool.submit(_train, *job)] = job
            if not running:
                break
            done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                row = future.result()
                del running[future]
                jsonl.append(path, {**row, "run": about})
                said = f"{row['task']:9} {row['method']:24} seed {row['seed']}"
                progress.console.print(f"{said}: {row[JUDGED[row['task']]]:.4f}, {row['cpu_s']:.0f} s")
            names = ", ".join(sorted({job[1].name for job in running.values()}))
            progress.update(bar, completed=ticks.value, description=names or "steps")
    return len(queue)


def main() -> int:
    args = arguments()
    console = Console() if sys.stdout.isatty() else Console(width=130)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "convergence.jsonl"
    rows = jsonl.read(path)
    left = 0
    if not args.draw:
        plan = [
            (task, m, seed, args.steps or TASKS[task].steps, args.ranks)
            for m in chosen(args.only)
            for seed in args.seeds
            for task in args.tasks
        ]
        if not plan:
            sys.exit(f"--only {args.only!r} fits none of: {'; '.join(m.name for m in methods())}")
        wanted = {key_of_job(job): job for job in plan}
        if args.again:
            rows = [r for r in rows if key_of(r) not in wanted]
            jsonl.write(path, rows)
        known = {key_of(r) for r in rows}
        todo = [job for key, job in wanted.items() if key not in known]
        console.print(f"{len(plan)} trainings, {len(plan) - len(todo)} of them are in {path.name} already")
        left = run(args, todo, path, console)
        rows = jsonl.read(path)
    report(args, rows, console)
    if left:
        console.print(f"{left} trainings are left: run the same command again")
    return 0


def report(args: argparse.Namespace, rows: list[Row], console: Console) -> None:
    """Table, verdicts and picture, of the rows made with one setting: the most common one."""
    if not rows:
        console.print("no results yet")
        return
    settings = [(r["ranks"], r["steps"]) for r in rows]
    setting = max(set(settings), key=settings.count)
    rows = [r for r in rows if (r["ranks"], r["steps"]) == setting]
    order = [m.name for m in methods()]
    for task, judged in JUDGED.items():
        of_task = by_method([r for r in rows if r["task"] == task], order)
        if "dense" in of_task:
            console.print(convergence_table(task, judged, of_task))
            for line in verdicts(of_task, judged):
                console.print(f"{task}: {line}")
    picture = args.out / "convergence.png"
    draw(picture, {t: by_method([r for r in rows if r["task"] == t], order) for t in JUDGED}, JUDGED)
    console.print(f"{args.out / 'convergence.jsonl'}\n{picture}")


if __name__ == "__main__":
    sys.exit(main())
