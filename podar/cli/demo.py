"""podar demo: half of the MACs of the network that travels with podar, and its accuracy won back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from podar.cli.app import app
from podar.cli.output import run_recipe

STAGES: list[dict[str, Any]] = [
    {"prune": {"target": "macs=0.5"}},
    {"finetune": {"epochs": 2, "lr": 0.003, "batch_size": 64, "label_smoothing": 0.0}},
    {"export": {"formats": ["onnx"]}},
    {"measure": {}},
]


@app.command()
def demo(
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA", help="fashion-mnist-demo travels with podar; fashion-mnist has all 70,000 images."
        ),
    ] = "fashion-mnist-demo",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to; an earlier demo there gives way.")] = Path(
        "runs/demo"
    ),
) -> None:
    """The whole story on real photographs, offline, in minutes."""
    from podar.runs import recipe

    run_recipe(recipe.make({"name": "demo", "model": "demo", "data": data, "stages": STAGES}), out, replace=True)
