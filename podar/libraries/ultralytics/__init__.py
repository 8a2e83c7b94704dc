"""Ultralytics (AGPL-3.0, an optional extra): everything of podar that imports it stands in this folder.

Its own terms bind whoever installs it; podar itself needs none of it.

```python
from ultralytics import YOLO
import podar.libraries.ultralytics as podar_yolo

model = YOLO("yolo26n.pt")
result = podar_yolo.prune(model.model, torch.zeros(1, 3, 640, 640), "macs=0.6", data="data.yaml")
podar_yolo.save_pruned(model.model, "pruned.pt")
YOLO("pruned.pt").train(trainer=podar_yolo.trainer(), data="data.yaml", epochs=30)
```
"""

from __future__ import annotations

from typing import Any

from podar.libraries.ultralytics.cutting import fused_cost, prune
from podar.libraries.ultralytics.files import save_pruned
from podar.libraries.ultralytics.models import open_model
from podar.libraries.ultralytics.ready import make_ready
from podar.libraries.ultralytics.speed import fastest_on_cpu
from podar.libraries.ultralytics.workshop import SIDE
from podar.libraries.yolo_names import architectures

__all__ = [
    "SIDE",
    "architectures",
    "fastest_on_cpu",
    "fused_cost",
    "make_ready",
    "open_model",
    "prune",
    "save_pruned",
    "trainer",
    "tune",
]


def trainer(task: str | None = None) -> type[Any]:
    """The trainer class to hand to Ultralytics, so that a pruned model keeps its shape while it is trained.

    It is Ultralytics' own trainer of the task in all but one thing: it trains the pruned module itself, and checks its
    parameters before, during and after training and in the files written. A model that is not pruned trains as ever.

    **Arguments:** `task`: detect, segment, pose, obb, classify or rtdetr; None: the task of the model to be trained.

    **Raises:** `PodarError` where Ultralytics is not installed; later, in training, as soon as a shape is lost.

    ```python
    YOLO("pruned.pt").train(trainer=podar.libraries.ultralytics.trainer(), data="data.yaml", epochs=30)
    ```
    """
    make_ready()
    from podar.errors import check_known
    from podar.libraries.ultralytics.trainers import TRAINERS, Trainer

    if task is None:
        return Trainer
    check_known("task", task, TRAINERS)
    return TRAINERS[task]


def tune(model: Any, iterations: int = 300, **settings: Any) -> None:
    """`YOLO.tune` for a pruned model: each trial is trained by `trainer()`, in this process, and keeps the shape.

    **Arguments:** `model`: a `YOLO`; `iterations` and `settings`: as for `YOLO.tune`.

    **Raises:** `PodarError` where the installed Ultralytics tunes in another way.

    ```python
    podar.libraries.ultralytics.tune(YOLO("pruned.pt"), iterations=30, data="data.yaml", epochs=10)
    ```
    """
    make_ready()
    from podar.libraries.ultralytics.tuning import tune as carry_out

    carry_out(model, iterations, settings)
