"""all_reduce between hosts of the lab, beside what iperf3 gets on the very same link. Root and iperf3.

    python benchmarks/links.py --hosts 2,4 --rates 200mbit,1gbit --codec none,int8,int4 --vs gloo
    python benchmarks/links.py --hosts 2 --rates off,lo --sizes 64k,1m,25m --vs gloo
    python benchmarks/links.py --hosts 4 --rates 1gbit --slow-link 1-2=50mbit --vs gloo

off: no limit, the kernel's own speed between namespaces. lo: all ranks on this host, over loopback TCP. Runs
`gradwire bench all_reduce` with one rank a host; benchmarks/README.md explains its columns and adds two:

wire: Mbit/s each rank sends, `busbw` uncompressed, coded bytes over the time with a codec. As in nccl-tests,
and as iperf3 streams, calls follow one another without a pause (--batch; 1: a single call, which wants
--rest 0.03 before it to find the link idle, and a drained bucket full again). What the token bucket's burst
lets pass for nothing at the start of a batch does not count.
share: `wire` over iperf3's figure for this link: one direction of a limited link, which is full duplex; of an
unlimited one, where both directions share the cores, both directions of both. Where something is slower than
the rest (--slow-link, --slow-host; hosts are 0 to n-1), iperf3 still runs between hosts 0 and 1. iperf3 gets
the congestion control that gradwire takes on short paths: BBR, a common default, would be paced to less than
an unlimited path carries, and flatter the share.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lab import BURST, Lab, LabError, add_limits, set_limits, why_not

ADDRESS, PORT = "10.77.0.1", "5201"
CONGESTION = "reno"
UNLIMITED = ("off", "lo")
KIB = 1024


def iperf(lab: Lab | None, seconds: int, both: bool) -> float:
    """Mbit/s received by an iperf3 between hosts 0 and 1; both: in both directions at once, their sum."""

    def at(host: int, words: list[str]) -> list[str]:
        return lab.command(host, words) if lab else words

    serve = ["iperf3", "-s", "-1", "-p", PORT]
    server = subprocess.Popen(at(0, serve), stdout=subprocess.DEVNULL)
    try:
        where = lab.address(0) if lab else "127.0.0.1"
        client = ["iperf3", "-J", "-C", CONGESTION, "-t", str(seconds), "-c", where, "-p", PORT]
        for _ in range(50):  # until the server listens; the first packets of a new host may be lost
            command = at(1, ["timeout", str(seconds + 5), *client, *(["--bidir"] if both else [])])
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            end = json.loads(done.stdout or "{}").get("end")
            if end:  # the exit code is 0 either way
                break
            time.sleep(0.1)
        else:
            raise LabError(f"iperf3 failed: {done.stdout} {done.stderr}")
        ways = ["sum_received", *(["sum_received_bidir_reverse"] if both else [])]
        return sum(float(end[way]["bits_per_second"]) for way in ways) / 1e6
    finally:
        server.kill()
        server.wait(10)


def bench(lab: Lab | None, hosts: int, words: list[str], timeout: float) -> list[dict[str, Any]]:
    """`gradwire bench all_reduce` with one rank a host; its rows."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.jsonl"
        ranks = []
        for rank in range(hosts):
            me = [f"--rank={rank}", f"--size={hosts}", f"--store={(Path(folder) / 'store').as_uri()}"]
            command = [sys.executable, "-m", "gradwire", "bench", "all_reduce", *words, *me]
            command += ["--transport=tcp", "--no-progress", f"--json={out}"]
            env = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": ADDRESS if lab else "127.0.0.1"}
            env |= {"GLOO_SOCKET_IFNAME": "eth0" if lab else "lo"}
            env.setdefault("GRADWIRE_IFNAME", env["GLOO_SOCKET_IFNAME"])
            quiet = {"stdout": subprocess.DEVNULL, "env": env}
            ranks.append(
                lab.start(rank, command, **quiet) if lab else subprocess.Popen(command, **quiet)  # type: ignore[call-overload]
            )
        try:
            deadline = time.monotonic() + timeout
            codes = [r.wait(max(0.1, deadline - time.monotonic())) for r in ranks]
        finally:
            for r in ranks:
                r.kill()
                r.wait(10)
        if any(codes):
            raise LabError(f"gradwire bench all_reduce failed: exit codes {codes}")
        return [json.loads(line) for line in out.read_text().splitlines()]


def measure(args: argparse.Namespace, hosts: int, rate: str) -> list[dict[str, Any]]:
    lab = None if rate == "lo" else Lab(hosts, None if rate == "off" else rate, args.burst, "gwlinks")
    words = ["--sizes", args.sizes, "--codec", args.codec, "--algorithm", args.algorithm]
    for option in ("batch", "iters", "warmup", "rounds", "rest"):
        words += [f"--{option}", str(getattr(args, option))]
    words += ["--vs", args.vs] if args.vs else []
    try:
        if lab:
            set_limits(lab, args)
            lab.up()
        one, two = iperf(lab, args.iperf_seconds, False), iperf(lab, args.iperf_seconds, True)
        rows = bench(lab, hosts, words, args.timeout)
    finally:
        if lab:
            lab.down()
    line = two if rate in UNLIMITED else one
    for row in rows:
        if not row["time_us"]:
            continue
        sent = row["busbw"] * row["time_us"] * 1e3 if row["codec"] == "none" else row["wire_bytes"]
        # an idle token bucket lets its burst pass for nothing: that much is not the link's speed
        free = 0 if rate in UNLIMITED else KIB * int(args.burst.removesuffix("kb")) / row["batch"]
        wire = 8 * max(0, sent - free) / row["time_us"]
        if rate in UNLIMITED and hosts == 2:
            wire *= 2  # both directions, as in `line`
        row |= {"wire_mbit": wire, "share": wire / line}
        row["link"] = {"rate": rate, "burst": args.burst, "iperf_mbit": one, "iperf_both_mbit": two}
        row["link"] |= {"iperf_congestion": CONGESTION, "rest": args.rest}
        if args.slow_link or args.slow_host:
            row["link"] |= {"slow_link": args.slow_link, "slow_host": args.slow_host}
        row["command"] = " ".join(["python", *sys.argv])
        row["run"].pop("command")  # of one rank, with paths that are gone
    return rows


def show(rows: list[dict[str, Any]], hosts: int, rate: str) -> None:
    link = next(row["link"] for row in rows if "link" in row)
    iperf_said = f"iperf3 {link['iperf_mbit']:.0f} Mbit/s, both ways {link['iperf_both_mbit']:.0f}"
    print(f"\n{hosts} hosts, {rate}: {iperf_said}")
    heads = f"{'ms':>9}{'+-':>5}{'wire':>8}{'share':>7}{'x gloo':>8}"
    print(f"{'size':>10} {'library':9}{'algorithm':16}{'codec':8}{heads}")
    for r in rows:
        name = f"{r['size']:>10} {r['library']:9}{r['algorithm']:16}{r['codec']:8}"
        if not r["time_us"]:
            print(f"{name} wrong: {r['wrong']}")
            continue
        spread = f"{100 * r['spread']:.0f}%" if r["spread"] is not None else ""
        times = f"{r['time_us'] / 1e3:9.3f}{spread:>5}"
        print(f"{name}{times}{r['wire_mbit']:8.0f}{r['share']:7.3f}{r.get('vs_gloo') or 0:8.2f}", flush=True)


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    p.add_argument("--hosts", default="2,4", help="numbers of hosts (default 2,4)")
    p.add_argument("--rates", default="200mbit,1gbit", help="as tc writes them, off, or lo")
    p.add_argument("--sizes", default="4m,25m")
    p.add_argument("--codec", default="none")
    p.add_argument("--algorithm", default="ring")
    p.add_argument("--vs", default="", help="gloo, or nothing")
    p.add_argument("--burst", default=BURST, help=f"of the token bucket, in kb (default {BURST})")
    p.add_argument("--batch", type=int, default=8, help="calls in a repetition (default 8)")
    p.add_argument("--iters", type=int, default=3, help="repetitions a round (default 3)")
    p.add_argument("--warmup", type=int, default=1)
    p.add_argument("--rest", type=float, default=0.0, help="seconds before a repetition (default 0)")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--iperf-seconds", type=int, default=3)
    p.add_argument("--timeout", type=float, default=900, help="seconds for one number of hosts at one rate")
    add_limits(p)
    p.add_argument("--json", help="append one line per row to this file")
    args = p.parse_args()
    if "lo" in args.rates.split(",") and (args.slow_link or args.slow_host):
        p.error("over loopback there are no links to make slow")
    problem = why_not()
    if problem:
        print(f"no lab here: {problem}", file=sys.stderr)
        return 1
    for rate in args.rates.split(","):
        for hosts in map(int, args.hosts.split(",")):
            try:
                rows = measure(args, hosts, rate)
            except LabError as e:
                print(e, file=sys.stderr)
                return 1
            show(rows, hosts, rate)
            if args.json:
                with open(args.json, "a", encoding="utf-8") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
