"""A run that is killed before any of its file operations goes on, and ends with the same bits in a clean folder.

`make test` tries a sample, `make test-kill` every operation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")

ROOT = Path(__file__).parents[2]
KINDS = ["prune", "sparsify", "ticket", "export"]


def ends(kind: str, folder: Path, every: int, first: int) -> list[dict]:
    """What the driver says of every run that it killed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    arguments = [
        sys.executable,
        str(ROOT / "tests" / "killing" / "driver.py"),
        kind,
        str(folder),
        str(every),
        str(first),
    ]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("kind", "first"), list(zip(KINDS, (3, 17, 29, 41))))
def test_a_sample(kind: str, first: int, tmp_path: Path) -> None:
    found = ends(kind, tmp_path, 120, first)
    assert found and found[0]["of"] > 120
    assert not [end for end in found if not end["good"]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_operation(kind: str, tmp_path: Path) -> None:
    found = ends(kind, tmp_path, 1, 1)
    assert [end["at"] for end in found] == list(range(1, found[0]["of"] + 1))
    assert not [end for end in found if not end["good"]]


@pytest.mark.slow
def test_a_sample_of_a_run_that_ultralytics_trains(tmp_path: Path) -> None:
    """Its files are all there again and the plan is the same; weights that it keeps in half precision are not."""
    pytest.importorskip("ultralytics")
    found = ends("yolo", tmp_path, 45, 11)
    assert found and found[0]["of"] > 150
    assert not [end for end in found if not end["good"]]
