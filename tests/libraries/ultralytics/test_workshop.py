"""What a run asks of the workshop of Ultralytics: every shape of a model is traced once, and the model built once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from podar.graph import graph
from podar.libraries.ultralytics import models
from podar.runs import recipe as recipes
from podar.runs import running

pytestmark = pytest.mark.filterwarnings("ignore")  # Ultralytics' and its libraries' own


def test_a_run_traces_each_shape_once_and_builds_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[int] = []
    built: list[str] = []
    observe, build = graph.observe, models.build

    def seen(model: Any, *args: Any) -> Any:
        traced.append(sum(p.numel() for p in model.parameters()))
        return observe(model, *args)

    def counted(*args: Any, **given: Any) -> Any:
        built.append(str(args[0]))
        return build(*args, **given)

    monkeypatch.setattr(graph, "observe", seen)
    monkeypatch.setattr(models, "build", counted)
    asked = {"model": "yolo26n.yaml", "image_size": 64, "stages": [{"prune": {"target": "macs=0.6"}}]}
    summary = running.start(recipes.make(asked), tmp_path / "y", command="")
    halves = [summary[half] for half in ("before", "after")]
    fused = [half["fused_params"] for half in halves]
    assert traced == [halves[0]["params"], *fused]  # the pruned one's costs are those of the plan
    assert len(built) == 1
