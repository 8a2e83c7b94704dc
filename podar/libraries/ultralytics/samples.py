"""Training batches and the task's own loss, for importance criteria that look at gradients or activations."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from podar.errors import PodarError
from podar.libraries.ultralytics.ready import make_ready

BATCHES, SIZE = 8, 16  # images in all: what a first-order criterion needs; more changes little
IMPORTANCE = "taylor"  # where there are data: docs/yolo.md shows what the others leave of a detector


class BatchLabels:
    """What belongs to a batch of images: Ultralytics' own mapping. Cut like a tensor along the images."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self.batch = batch

    def to(self, device: Any) -> BatchLabels:
        """The same on a device."""
        return BatchLabels({k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.batch.items()})

    @property
    def device(self) -> torch.device:
        """Where the images lie."""
        return self.batch["img"].device

    def __len__(self) -> int:
        return len(self.batch["img"])

    def __getitem__(self, images: slice) -> BatchLabels:
        start, stop, _ = images.indices(len(self))
        owner = self.batch.get("batch_idx")
        shown = None if owner is None else (owner >= start) & (owner < stop)
        cut: dict[str, Any] = {}
        for key, value in self.batch.items():
            if isinstance(value, Tensor) and shown is not None and owner is not None and key != "img":
                if len(value) == len(owner) and key != "masks":
                    value = value[shown] - (start if key == "batch_idx" else 0)
                elif len(value) == len(self):
                    value = value[images]
            elif isinstance(value, (Tensor, list, tuple)) and len(value) == len(self):
                value = value[images]
            cut[key] = value
        return BatchLabels(cut)


class Samples:
    """Up to `BATCHES` batches (images, Labels) of the training data, not augmented; read only when asked for."""

    def __init__(self, model: Any, spec: str, side: int) -> None:
        self.model, self.spec, self.side = model, spec, side

    def __iter__(self) -> Iterator[tuple[Tensor, BatchLabels]]:
        with self._trainer() as trainer:
            loader = trainer.get_dataloader(trainer.data["train"], batch_size=SIZE, rank=-1, mode="val")
            found: Any = loader.dataset
            collate = getattr(found, "collate_fn", torch.utils.data.default_collate)
            for places in _spread(len(found), whole=bool(getattr(found, "rect", False))):
                batch = trainer.preprocess_batch(collate([found[place] for place in places]))
                yield batch["img"], BatchLabels(batch)

    @contextmanager
    def _trainer(self) -> Iterator[Any]:
        """A trainer of the task that trains nothing: it knows how its data are read."""
        make_ready()
        from podar.libraries.ultralytics.trainers import Trainer

        kept = self.model.__dict__.get("transforms")
        with tempfile.TemporaryDirectory(prefix="podar-samples-") as folder:
            name = "rtdetr" if "RTDETR" in type(self.model).__name__ else "yolo"
            asked = {"task": self.model.task, "model": f"{name}.yaml", "data": self.spec, "imgsz": self.side}
            quiet = {"workers": 0, "plots": False, "verbose": False, "project": folder, "name": "samples"}
            trainer = Trainer(overrides={**asked, **quiet})
            trainer.model = self.model
            try:
                yield trainer
            finally:
                if kept is not None:
                    self.model.transforms = kept


def _spread(count: int, whole: bool) -> list[list[int]]:
    """Places of images from all over a data set; `whole`: batches as it orders them, since each has its own shape."""
    if whole:
        batches = torch.arange(count).split(SIZE)
        chosen = torch.linspace(0, len(batches) - 1, min(BATCHES, len(batches))).round().long().tolist()
        return [batches[number].tolist() for number in chosen]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: BATCHES * SIZE]
    return [places.tolist() for places in order.split(SIZE)]


def task_loss(model: Any) -> Callable[[Any, BatchLabels], Tensor]:
    """`loss(outputs, labels)` of the model's task, by Ultralytics' own criterion and default weights of its parts.

    **Raises:** `PodarError` where the criterion cannot be computed from the outputs.
    """

    def loss(outputs: Any, labels: BatchLabels) -> Tensor:
        from ultralytics.utils import DEFAULT_CFG

        kept = {name: model.__dict__.get(name) for name in ("args", "criterion")}
        try:
            model.args, model.criterion = DEFAULT_CFG, None
            with torch.enable_grad():
                value = model.loss(labels.batch, outputs)[0].sum()
        except (RuntimeError, KeyError, AttributeError, TypeError) as error:
            raise PodarError(f"the loss of {type(model).__name__} cannot be computed: {error}.") from error
        finally:
            for name, was in kept.items():
                if was is None:
                    model.__dict__.pop(name, None)
                else:
                    setattr(model, name, was)
        return value

    return loss
