"""`_native.pyi` against the compiled module: every name, argument and default of the one is in the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Names for checkers alone (the classes of `_native.gpu`), and what pybind11 makes of every class.
ALLOWED = r"""
gradwire\._native\.(Bytes|DeviceArray|Graph|HostPeers|Peers)
gradwire\._native\.[A-Z]\w+  # its metaclass
gradwire\._native\.(Candidate|Transport|Work)\.__init__  # made by native code alone
"""


def test_the_stub_says_what_the_module_has(tmp_path: Path) -> None:
    pytest.importorskip("mypy.stubtest")
    allowed = tmp_path / "allowed"
    allowed.write_text(ALLOWED)
    command = [
        sys.executable,
        "-m",
        "mypy.stubtest",
        "gradwire._native",
        "--concise",
        "--allowlist",
        str(allowed),
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
