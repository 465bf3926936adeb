"""The lab itself: hosts that reach one another by their cables alone, and nothing that stays behind."""

from __future__ import annotations

import os
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
