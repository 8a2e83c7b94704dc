"""podar's own workshop: what is done with every model whose library brings no other, on podar's own data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from podar.data import Dataset, Split
from podar.errors import UsageError
from podar.formats import FORMATS, Exported, export
from podar.graph import Graph, trace
from podar.model.batches import collated
from podar.model.checkpoints import read_state
from podar.model.inputs import ExampleInputs
from podar.pruning.options import Options
from podar.pruning.pipeline import prune_by
from podar.pruning.result import Result
from podar.quantization.samples import FileModel
from podar.recover import History, accuracy, finetune, recalibrate
from podar.runtimes import open_file
from podar.workshops.answers import likeness, pictures
from podar.workshops.contract import Loss, Source, TrainingOptions, needed
from podar.workshops.fitting import check_classes, fitting_data

_CHECKED = 8  # test images on which an exported file is compared with its model


@dataclass(frozen=True)
class PodarWorkshop:
    """Trains and evaluates classifiers on a data set of podar's; without one it can still cut, export and save.

    On pictures without labels models are compared with `dense`, and learn from it. `podar.workshops.Workshop` describes
    the methods.
    """

    data: Dataset | None = None
    importance: str = "magnitude"
    dense: nn.Module | None = None

    def formats(self) -> Mapping[str, str]:
        return dict.fromkeys(FORMATS, "")

    def check_training(
        self, data: str | None, *, precision: str | None, distill: bool, settings: Mapping[str, Any]
    ) -> None:
        for name, value in settings.items():
            raise UsageError(f"{name}={value}: only Ultralytics' trainer takes such arguments.")

    def read_weights(self, path: Path, trust: bool) -> dict[str, Tensor]:
        return read_state(path, trust)

    def furnished(self, source: Source, data: str | None, image_size: int | None) -> Source:
        if data is None:
            return source
        dataset, converted = fitting_data(source, data, image_size)
        check_classes(source.model, dataset, source.called)
        image = dataset.train[0][0].unsqueeze(0)
        about = (
            f"{dataset.name}: {len(dataset.train):,} training and {len(dataset.test):,} test images of "
            f"{'×'.join(map(str, dataset.shape))}, "
            + (f"{len(dataset.classes)} classes" if dataset.labelled else "without labels")
        )
        return source.replaced(
            workshop=replace(self, data=dataset, importance="reconstruction", dense=source.model),
            example_inputs=lambda _: image,
            task="classify" if dataset.labelled else source.task,
            data=dataset,
            classes=dataset.classes,
            about_data=about,
            notes=(*source.notes, *converted),
        )

    def trace(self, model: nn.Module, inputs: ExampleInputs) -> Graph:
        return trace(model, inputs)

    def prune(
        self,
        model: nn.Module,
        inputs: ExampleInputs,
        target: str | None,
        options: Options,
        graph: Graph | None = None,
    ) -> Result:
        # A graph holds the widths of all outputs, which may not be those that were asked for.
        return prune_by(model, inputs, target, options, graph=graph if options.outputs is None else None)

    def figures(self, model: nn.Module, inputs: ExampleInputs) -> dict[str, int]:
        return {}

    def blocks(self, model: nn.Module) -> dict[str, str]:
        return {}

    def samples(self, model: nn.Module, seed: int) -> tuple[Batches | None, Loss | None]:
        return (None if self.data is None else Batches(self.data.train, seed)), None

    def recalibrate(self, model: nn.Module) -> None:
        recalibrate(model, needed(self.data).train)

    def train(self, model: nn.Module, training: TrainingOptions) -> History:
        if training.settings:
            names = ", ".join(training.settings)
            raise UsageError(f"{names}: podar's own trainer takes no such arguments.")
        if training.teacher is None and not needed(self.data).labelled:
            raise UsageError(
                f"{needed(self.data).name} has no labels, so the model can only learn from the unpruned one, and "
                "--no-distill (distill: false) forbids that: leave it away, or train nothing (--epochs 0)."
            )
        sizes: dict[str, Any] = {} if training.batch_size is None else {"batch_size": training.batch_size}
        return finetune(
            model,
            needed(self.data),
            epochs=training.epochs,
            lr=training.lr,
            seconds=training.seconds,
            label_smoothing=training.label_smoothing,
            teacher=training.teacher,
            checkpoint=training.checkpoint,
            precision=training.precision,
            chosen=training.chosen,
            seed=training.seed,
            keeper=None if training.keeper is None else training.keeper(model),
            progress=training.progress,
            **sizes,
        )

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        data = needed(self.data)
        if data.labelled or self.dense is None:
            return {"accuracy": accuracy(model, data.test)}
        return likeness(self.dense, model, data.test)

    def evaluate_file(self, model: nn.Module, file: Path) -> dict[str, float]:
        return self.evaluate(FileModel(open_file(file, torch.get_num_threads())))

    def pictures(self, dense: nn.Module, model: nn.Module, folder: Path) -> dict[str, list[dict[str, Any]]]:
        return {"pictures": [] if self.data is None else pictures(dense, model, self.data, folder)}

    def export(self, model: nn.Module, inputs: ExampleInputs, *, folder: Path, stem: str, format: str) -> Exported:
        checks = None if self.data is None else first(self.data.test, _CHECKED)[0]
        return export(model, folder / f"{stem}{FORMATS[format].suffix}", inputs, format=format, check_inputs=checks)

    def save(self, model: nn.Module, folder: Path) -> None:
        """podar's own files, which every run writes, are all."""


class Batches:
    """A few batches (images, labels) of the training data, for criteria that need them; read only when asked for.

    Where the data have no labels a batch is the images alone.
    """

    def __init__(self, train: Split, seed: int, batches: int = 8, size: int = 64) -> None:
        self._train = train
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        self._places = order[: batches * size].split(size)

    def __iter__(self) -> Iterator[Any]:
        return (collated(self._train, places.tolist()) for places in self._places)


def first(split: Split, count: int) -> tuple[Tensor, Tensor]:
    """The first images of a split, and their classes."""
    return split.batch(torch.arange(min(count, len(split))))
