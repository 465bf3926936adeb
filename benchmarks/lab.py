"""A network of hosts on one machine: namespaces on a bridge, every link limited to a rate. Needs root.

    python benchmarks/lab.py up 4 --rate 1gbit      # hosts 0..3, 10.77.0.1 to .4 and fd77::1 to ::4
    python benchmarks/lab.py up 4 --rate 1gbit --slow-link 1-2=50mbit --slow-host 3=200mbit
    python benchmarks/lab.py exec 0 -- iperf3 -s    # a command on host 0, which has a host name of its own
    python benchmarks/lab.py cut 2                  # pull the cable of host 2; `join 2` plugs it in again
    python benchmarks/lab.py down

In a program, `with Lab(4, "1gbit") as lab: lab.start(0, ["command"])` removes all of it however it ends;
`lab.limit(3, "200mbit")` makes one host slow, `lab.limit_link(1, 2, "50mbit")` the way between two of them.

A limit is a token bucket (tc tbf) on both ends of the host's cable, so it holds in each direction by itself.
What fits into an idle bucket passes unthrottled: a single message under `--burst` (128 KiB) is not slowed
down, and a measurement of few bytes flatters the link by that much. A smaller bucket would strangle links
used in both directions: with 64 KiB, less than one packet of segmentation offload, iperf3 got 1050 of 1900
Mbit/s both ways (measured, Linux 6.18, 2 cores). All hosts share the cores of this machine.

A slow link is a class of its own (tc htb) inside the bucket of either end, for what goes to the other end:
what a host sends elsewhere keeps the cable's rate, and does not queue behind it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

BURST = "128kb"
LATENCY_MS = 50  # how long a packet may wait in a queue
SMALLEST_QUEUE = 256 * 1024  # bytes
UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


class LabError(RuntimeError):
    """The lab cannot be made here; the message says why."""


def why_not() -> str:
    """Why this process cannot make a lab; empty if it can."""
    if os.geteuid() != 0:
        return "needs root (CAP_NET_ADMIN) to make network namespaces"
    missing = [tool for tool in ("ip", "tc") if not shutil.which(tool)]
    if missing:
        return f"needs {' and '.join(missing)}: install iproute2"
    probe = subprocess.run(["unshare", "--net", "--uts", "true"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else "this kernel or container allows no network namespaces"


class Lab:
    """`hosts` namespaces; rate: as tc writes it ("200mbit"), None for as fast as the kernel copies."""

    def __init__(self, hosts: int, rate: str | None = None, burst: str = BURST, name: str = "gwl") -> None:
        self.hosts, self.burst, self.name = hosts, burst, name
        self.rates: list[str | None] = [rate] * hosts
        self.links: dict[frozenset[int], str | None] = {}
        self.is_up = False

    def address(self, host: int, version: int = 4) -> str:
        return f"10.77.0.{host + 1}" if version == 4 else f"fd77::{host + 1:x}"

    def up(self) -> None:
        problem = why_not()
        if problem:
            raise LabError(f"no lab here: {problem}")
        self.down()
        self.is_up = True
        try:
            _run("ip", "link", "add", f"{self.name}b", "type", "bridge")
            _run("ip", "link", "set", f"{self.name}b", "up")
            for host in range(self.hosts):
                self._add(host)
        except BaseException:
            self.down()
            raise

    def _add(self, host: int) -> None:
        space, cable = f"{self.name}{host}", f"{self.name}v{host}"
        _run("ip", "netns", "add", space)
        _run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        _run("ip", "link", "set", cable, "master", f"{self.name}b", "up")
        inside = ["ip", "-n", space]
        _run(*inside, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
        # nodad: an address that is still being checked for duplicates cannot be bound for a second or two
        _run(*inside, "addr", "add", f"{self.address(host, 6)}/64", "dev", "eth0", "nodad")
        for device in ("lo", "eth0"):
            _run(*inside, "link", "set", device, "up")
        self._shape(host)

    def limit(self, host: int, rate: str | None) -> None:
        """Another rate for one host's cable, from now on, both ways; before up() as well."""
        self._check(host)
        self.rates[host] = rate
        self._shape(host)

    def limit_link(self, a: int, b: int, rate: str | None) -> None:
        """A rate for what two hosts send to one another, within the rates of their cables; None: no other."""
        if a == b:
            raise LabError(f"a link joins two hosts, not {a} with itself")
        for host in (a, b):
            self._check(host)
        self.links[frozenset((a, b))] = rate
        for host in (a, b):
            self._shape(host)

    def _check(self, host: int) -> None:
        if not 0 <= host < self.hosts:
            raise LabError(f"host: expected 0 to {self.hosts - 1}, got {host}")

    def _shape(self, host: int) -> None:
        if not self.is_up:
            return
        rate = self.rates[host]
        bucket = ["tbf", "rate", rate or "", "burst", self.burst, "latency", f"{LATENCY_MS}ms"]
        inside = ["tc", "-n", f"{self.name}{host}"]
        for tc, device in ((inside, "eth0"), (["tc"], f"{self.name}v{host}")):
            subprocess.run([*tc, "qdisc", "del", "dev", device, "root"], capture_output=True, check=False)
            if rate:
                _run(*tc, "qdisc", "add", "dev", device, "root", "handle", "1:", *bucket)
        slow = {b: r for b in range(self.hosts) if b != host and (r := self.links.get(frozenset((host, b))))}
        if slow:
            place = ["parent", "1:1"] if rate else ["root"]
            # without a default class: what goes to other hosts passes
            _run(*inside, "qdisc", "add", "dev", "eth0", *place, "handle", "2:", "htb")
        for peer, slower in slow.items():
            self._slow_class([*inside], peer, slower)

    def _slow_class(self, tc: list[str], peer: int, rate: str) -> None:
        ident = f"2:{peer + 1:x}"
        shape = ["htb", "rate", rate, "burst", self.burst, "cburst", self.burst, "quantum", "60000"]
        _run(*tc, "class", "add", "dev", "eth0", "parent", "2:", "classid", ident, *shape)
        # unlike tbf, htb cuts no packet of segmentation offload (64 KiB): what never fits would never pass
        queue = str(max(SMALLEST_QUEUE, int(bits_per_second(rate) / 8 * LATENCY_MS / 1e3)))
        _run(*tc, "qdisc", "add", "dev", "eth0", "parent", ident, "bfifo", "limit", queue)
        for version, kind, match, bits in ((4, "ip", "ip", 32), (6, "ipv6", "ip6", 128)):
            where = ["dev", "eth0", "parent", "2:", "prio", str(version), "protocol", kind, "u32"]
            rule = ["match", match, "dst", f"{self.address(peer, version)}/{bits}", "flowid", ident]
            _run(*tc, "filter", "add", *where, *rule)

    def cut(self, host: int) -> None:
        """No reset, no goodbye: the cable is gone."""
        _run("ip", "link", "set", f"{self.name}v{host}", "down")

    def join(self, host: int) -> None:
        _run("ip", "link", "set", f"{self.name}v{host}", "up")

    def command(self, host: int, words: Sequence[str]) -> list[str]:
        """`words` as a command that runs on that host, under a host name of its own."""
        named = f'hostname {self.name}{host} && exec "$@"'
        enter = ["ip", "netns", "exec", f"{self.name}{host}", "unshare", "--uts"]
        return [*enter, "sh", "-c", named, "sh", *words]

    def start(self, host: int, words: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command(host, words), text=True, **options)

    def down(self) -> None:
        """Removes what up() made, here or in an earlier process; processes inside go on without a network."""
        self.is_up = False
        spaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
        mine = [w for w in spaces.split() if w.startswith(self.name) and w[len(self.name) :].isdigit()]
        for space in mine:
            # the cable by name first: a deleted namespace lives on while a socket in it does
            cable = f"{self.name}v{space[len(self.name) :]}"
            subprocess.run(["ip", "link", "del", cable], capture_output=True, check=False)
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", f"{self.name}b"], capture_output=True, check=False)

    def __enter__(self) -> Lab:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()


def bits_per_second(rate: str) -> float:
    """Of a rate as tc writes it."""
    found = re.fullmatch(r"([0-9.]+)([kmg]bit)", rate)
    if not found:
        raise LabError(f"expected a rate such as 200mbit or 1gbit, got {rate!r}")
    return float(found[1]) * UNITS[found[2]]


def slow_link(text: str) -> tuple[int, int, str]:
    """ "1-2=50mbit", for argparse."""
    found = re.fullmatch(r"(\d+)-(\d+)=([0-9.]+[kmg]bit)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected two hosts and a rate, such as 1-2=50mbit, got {text!r}")
    return int(found[1]), int(found[2]), found[3]


def slow_host(text: str) -> tuple[int, str]:
    """ "3=200mbit", for argparse."""
    found = re.fullmatch(r"(\d+)=([0-9.]+[kmg]bit)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected a host and a rate, such as 3=200mbit, got {text!r}")
    return int(found[1]), found[2]


def add_limits(parser: argparse.ArgumentParser) -> None:
    """The options that make a lab uneven."""

    def several(flag: str, kind: Callable[[str], object], form: str, text: str) -> None:
        parser.add_argument(flag, type=kind, action="append", default=[], metavar=form, help=text)

    several("--slow-link", slow_link, "A-B=RATE", "the way between two hosts, such as 1-2=50mbit")
    several("--slow-host", slow_host, "A=RATE", "one host's cable, such as 3=200mbit")


def set_limits(lab: Lab, args: argparse.Namespace) -> None:
    for a, b, rate in getattr(args, "slow_link", []):
        lab.limit_link(a, b, rate)
    for host, rate in getattr(args, "slow_host", []):
        lab.limit(host, rate)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(words)}: {done.stderr.strip()}")


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="do", required=True)
    up = commands.add_parser("up", help="make the hosts")
    up.add_argument("hosts", type=int)
    up.add_argument("--rate", help="200mbit, 1gbit, ...; default: no limit")
    up.add_argument("--burst", default=BURST)
    add_limits(up)
    commands.add_parser("down", help="remove them")
    for name in ("cut", "join", "exec"):
        command = commands.add_parser(name)
        command.add_argument("host", type=int)
        if name == "exec":
            command.add_argument("words", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    problem = why_not()
    if problem:
        print(f"no lab here: {problem}", file=sys.stderr)
        return 1
    lab = Lab(getattr(args, "hosts", 0), getattr(args, "rate", None), getattr(args, "burst", BURST))
    if args.do == "exec":
        words = args.words[1:] if args.words[:1] == ["--"] else args.words
        command = lab.command(args.host, words or ["bash"])
        os.execvp(command[0], command)
    try:
        set_limits(lab, args)
        getattr(lab, args.do)(*([args.host] if args.do in ("cut", "join") else []))
    except LabError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
