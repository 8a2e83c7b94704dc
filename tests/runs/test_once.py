"""A plain run builds its model once and traces it once; what is left is counted from the cut, and not traced again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import podar.graph.graph as graphs
from podar.runs import recipe, running

NETWORK = """
import pathlib
from torch import nn

def make():
    with open(pathlib.Path(__file__).with_name("built"), "a") as counted:
        counted.write("x")
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def example_inputs():
    import torch
    return torch.zeros(1, 1, 12, 12)
"""


def test_a_plain_run_builds_once_and_traces_each_shape_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    traced: list[Any] = []
    real = graphs.observe
    monkeypatch.setattr(graphs, "observe", lambda *given, **more: traced.append(given) or real(*given, **more))
    stages = [{"prune": {"target": "macs=0.6", "multiple_of": 1}}, {"measure": {"seconds": 0.05}}]
    planned = recipe.make({"model": f"{tmp_path / 'net.py'}:make", "stages": stages})
    summary = running.start(planned, tmp_path / "x", command="")
    assert (tmp_path / "built").read_text() == "x" and len(traced) == 1
    from podar.sources.opening import open_source

    left = open_source(str(tmp_path / "x"), trust=True)
    cost = left.workshop.trace(left.model, left.inputs()).cost()
    told = {key: summary["after"][key] for key in ("params", "macs", "activation_bytes")}
    assert told == {"params": cost.params, "macs": cost.macs, "activation_bytes": cost.memory_bytes}
