"""Two processes that train together keep the same masks, whichever trainer they use."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch has no gloo here"
)


@pytest.mark.parametrize("trainer", ["own", "lightning", "transformers"])
def test_masks_hold_and_agree(tmp_path: Path, trainer: str) -> None:
    if trainer != "own" and importlib.util.find_spec(trainer) is None:
        pytest.skip(f"{trainer} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    # As torchrun sets them; by the last one Lightning knows that it need not start processes itself.
    shared |= {"GROUP_RANK": 0, "OMP_NUM_THREADS": 1, "ACCELERATE_USE_CPU": "true", "TORCHELASTIC_RUN_ID": "test"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.sparse.distributed_worker", str(tmp_path), trainer], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **{k: str(v) for k, v in (shared | rank).items()}},
        )
        for rank in ({"RANK": k, "LOCAL_RANK": k} for k in range(2))
    ]  # fmt: skip
    try:
        for process in started:
            out, errors = process.communicate(timeout=300)
            assert process.returncode == 0 and out.endswith("agreed\n"), errors[-3000:]
    finally:
        for process in started:
            process.kill()
