"""YOLO26n from scratch on scenes composed of real photographs, pruned to 0.6 of the MACs, trained again, measured.

python examples/yolo_demo.py [--out runs/yolo] [--epochs 24] [--again 12] [--scenes 800 150] [--side 160]
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from rich.console import Console

from podar.data.scenes import compose
from podar.libraries.ultralytics import fastest_on_cpu, make_ready

# Scenes hold several things already, so no mosaics of them; a step every batch (nbs), not every fourth: so few images
# make few batches.
HOW = {"workers": 0, "warmup_epochs": 1.0, "mosaic": 0.0, "nbs": 16, "cache": "ram"}


def main() -> None:
    """Compose, train, and run `podar prune`, whose summary and report are the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/yolo"))
    parser.add_argument("--epochs", type=int, default=24, help="of the dense training")
    parser.add_argument("--again", type=int, default=12, help="epochs of training after the cut")
    parser.add_argument("--scenes", type=int, nargs=2, default=(800, 150), help="for training and for validation")
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--enough", type=float, default=0.5, help="mAP50-95 below which a cut would say nothing")
    asked = parser.parse_args()
    screen, began = Console(), time.perf_counter()

    make_ready()
    from ultralytics import YOLO
    from ultralytics.utils import callbacks

    callbacks.default_callbacks["on_train_start"].append(fastest_on_cpu)  # of both trainings

    shutil.rmtree(asked.out, ignore_errors=True)
    data = compose(asked.out / "scenes", scenes=tuple(asked.scenes), side=asked.side)
    screen.print(f"{sum(asked.scenes)} scenes of Fashion-MNIST photographs: {data}")

    reached = [0.0]

    def tell(trainer) -> None:
        reached.append(trainer.metrics.get("metrics/mAP50-95(B)", 0.0))
        screen.print(f"epoch {trainer.epoch + 1}: mAP50-95 {reached[-1]:.3f}, {time.perf_counter() - began:.0f} s")

    dense = YOLO("yolo26n.yaml")
    dense.add_callback("on_fit_epoch_end", tell)
    dense.train(
        data=str(data),
        imgsz=asked.side,
        epochs=asked.epochs,
        batch=16,
        optimizer="AdamW",
        lr0=0.002,
        project=str(asked.out.resolve()),
        name="dense",
        plots=False,
        verbose=False,
        pretrained=False,
        **HOW,
    )

    if max(reached) < asked.enough:
        screen.print(f"The dense model is still below {asked.enough}: more --epochs would make the comparison fairer.")

    from podar.runs import recipe as recipes
    from podar.runs import running

    recipe = recipes.make(
        {
            "name": "yolo",
            "model": str(asked.out / "dense" / "weights" / "best.pt"),
            "data": str(data),
            "image_size": asked.side,
            "stages": [
                {"prune": {"target": "macs=0.6"}},
                {"finetune": {"epochs": asked.again, "lr": 0.002, "batch_size": 16, "settings": HOW}},
                {"export": {"formats": ["onnx"]}},
                {"measure": {"seconds": 5}},
            ],
        }
    )
    summary = running.start(recipe, asked.out / "pruned", command="python examples/yolo_demo.py")
    both = {half: summary[half]["map50_95"] for half in ("before", "after")}
    screen.print(
        f"mAP50-95 {both['before']:.3f} dense, {both['after']:.3f} pruned to "
        f"{summary['after']['macs'] / summary['before']['macs']:.2f} of the MACs; latency ratio "
        f"{summary['latency_ratio']:.2f}; {time.perf_counter() - began:.0f} s. "
        f"Report: {asked.out / 'pruned' / 'report.html'}"
    )


if __name__ == "__main__":
    main()
