"""docs/training.md is run as it stands, one block after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_the_page_on_training_runs_and_what_it_trains_learns() -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    learned = 0
    for number, block in enumerate(blocks):
        exec(compile(block, f"block {number} of the page", "exec"), names)
        if "history = " in block:
            losses = [epoch["loss"] for epoch in names["history"].epochs]
            learned += losses[-1] < losses[0]
    assert len(blocks) == 4 and learned == 2
