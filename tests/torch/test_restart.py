"""torchrun restarts a job whose rank was killed: it meets again in the same store and resumes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")


def test_a_job_that_lost_a_rank_resumes_with_the_same_bits(tmp_path: Path) -> None:
    script = Path(__file__).parent / "restart_main.py"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    done = subprocess.run(
        [sys.executable, *torchrun, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100.0,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert done.stdout.count("attempt 1 began at step 4") == 2
    assert done.stdout.count("resumed training equals uninterrupted training") == 2
