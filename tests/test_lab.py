"""The lab itself: hosts that reach one another by their cables alone, and nothing that stays behind."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def reaches(lab: Any, host: int, address: str) -> bool:
    """A datagram needs a route and a neighbour that answers; a refused connection does as well."""
    probe = (
        "import errno, socket, sys; family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n"
        "s = socket.socket(family); s.settimeout(0.5)\n"
        "sys.exit(0 if s.connect_ex((sys.argv[1], 9)) == errno.ECONNREFUSED else 1)"
    )
    return lab.start(host, [sys.executable, "-c", probe, address]).wait(10) == 0


@pytest.mark.parametrize("version", [4, 6])
def test_hosts_reach_one_another_until_the_cable_is_cut(make_lab: Callable[..., Any], version: int) -> None:
    lab = make_lab(2)
    assert reaches(lab, 0, lab.address(1, version))
    lab.cut(1)
    assert not reaches(lab, 0, lab.address(1, version))
    lab.join(1)
    assert reaches(lab, 0, lab.address(1, version))


def test_every_host_has_a_name_of_its_own(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(2)
    names = [lab.start(h, ["hostname"], stdout=subprocess.PIPE).communicate()[0].strip() for h in range(2)]
    assert names == [f"{lab.name}0", f"{lab.name}1"]


TRANSFER = """
import socket, sys, time
where, bytes_each = sys.argv[1], 1 << 19
if sys.argv[2] == "take":
    family = socket.AF_INET6 if ":" in where else socket.AF_INET
    with socket.create_server((where, 9), family=family) as server:
        print("ready", flush=True)
        line = server.accept()[0]
        start, got = time.monotonic(), 0
        while piece := line.recv(1 << 16):
            got += len(piece)
        print(got, time.monotonic() - start)
else:
    socket.create_connection((where, 9)).sendall(bytes(bytes_each))
"""


def transfer(lab: Any, source: int, target: int, version: int) -> float:
    """Seconds that 512 KiB take."""
    words = [sys.executable, "-c", TRANSFER, lab.address(target, version)]
    taker = lab.start(target, [*words, "take"], stdout=subprocess.PIPE)
    try:
        assert taker.stdout.readline() == "ready\n"
        lab.start(source, [*words, "give"]).wait(20)
        got, seconds = taker.communicate(timeout=20)[0].split()
        assert int(got) == 1 << 19
        return float(seconds)
    finally:
        taker.kill()
        taker.wait()


def classed(lab: Any, host: int) -> int:
    """Bytes that a host sent over its slow links."""
    words = ["tc", "-s", "-n", f"{lab.name}{host}", "class", "show", "dev", "eth0"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return sum(map(int, re.findall(r"class htb.*\n Sent (\d+) bytes", shown)))


@pytest.mark.parametrize(("version", "rate"), [(4, "1gbit"), (6, None)])
def test_one_link_can_be_slower_than_the_others(
    make_lab: Callable[..., Any], version: int, rate: str | None
) -> None:
    lab = make_lab(3, rate)
    lab.limit_link(0, 2, "8mbit")
    for source, target in ((0, 1), (1, 2)):
        transfer(lab, source, target, version)
    assert classed(lab, 0) == classed(lab, 2) == 0
    for source, target in ((0, 2), (2, 0)):
        # 512 KiB less the burst of 128 KiB, at 1 MB/s
        assert transfer(lab, source, target, version) > 0.3
        assert classed(lab, source) > 1 << 19
    lab.limit_link(0, 2, None)
    assert reaches(lab, 0, lab.address(2, version))


def test_a_limit_on_what_is_not_there_is_refused() -> None:
    import lab

    for a, b in ((0, 3), (-1, 0), (1, 1)):
        with pytest.raises(lab.LabError, match="host"):
            lab.Lab(3).limit_link(a, b, "1mbit")
    for wrong in ("1-2", "1=50mbit", "1-2=50", "1-2=mbit"):
        with pytest.raises(argparse.ArgumentTypeError, match="1-2=50mbit"):
            lab.slow_link(wrong)


def test_nothing_of_a_lab_stays_behind(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(2, "1gbit")
    lab.down()
    left = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    left += subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert lab.name not in left


def test_a_lab_without_root_refuses_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    import lab

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(lab.LabError, match="CAP_NET_ADMIN"):
        lab.Lab(2).up()


def test_the_command_line_explains_itself() -> None:
    import lab

    script = str(Path(lab.__file__))
    subprocess.run([sys.executable, script, "--help"], capture_output=True, check=True)
    wrong = subprocess.run([sys.executable, script, "grow"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "invalid choice" in wrong.stderr
