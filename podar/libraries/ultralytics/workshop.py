"""Ultralytics' workshop: its own trainer, validator, exporter and files, and cuts that they can live with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from podar.errors import UsageError
from podar.formats import FORMATS, Exported
from podar.graph import Graph
from podar.libraries.ultralytics import exporting, validation
from podar.libraries.ultralytics.checkpoint import is_checkpoint, read_checkpoint
from podar.libraries.ultralytics.cutting import fused_cost, prune, trace_model
from podar.libraries.ultralytics.datasets import YoloData, is_own_form, open_data
from podar.libraries.ultralytics.files import NAME, save_pruned, write_checkpoint
from podar.libraries.ultralytics.heads import head_of, with_head
from podar.libraries.ultralytics.quantizing import recall_quantization
from podar.libraries.ultralytics.samples import IMPORTANCE, Samples, task_loss
from podar.libraries.ultralytics.sealing import is_pruned
from podar.libraries.ultralytics.training import check_settings, train
from podar.model.checkpoints import read_state
from podar.model.example_inputs import random_images
from podar.model.inputs import ExampleInputs
from podar.pruning.options import Options
from podar.pruning.result import Result
from podar.recover import History
from podar.workshops import Loss, PodarWorkshop, Source, TrainingOptions, needed

SIDE = 320  # pixels of example images; every stride of every family divides it


def images(model: Any, side: int) -> Tensor:
    """One example image for a model of Ultralytics, with values from 0 to 1."""
    config = getattr(model, "yaml", None)
    channels = config.get("channels", config.get("ch", 3)) if isinstance(config, dict) else 3
    return random_images(int(channels or 3), side, side).sigmoid()


class _OfUltralytics:
    """What is done alike with every model of Ultralytics, whoever trains it."""

    def read_weights(self, path: Path, trust: bool) -> dict[str, Tensor]:
        """A state dict or safetensors as everywhere, or the weights of a best.pt that Ultralytics trained."""
        if path.suffix == ".pt" and is_checkpoint(path):
            return read_checkpoint(path, trust).state_dict()
        return read_state(path, trust)

    def trace(self, model: nn.Module, inputs: ExampleInputs) -> Graph:
        return trace_model(model, inputs)

    def prune(
        self,
        model: nn.Module,
        inputs: ExampleInputs,
        target: str | None,
        options: Options,
        graph: Graph | None = None,
    ) -> Result:
        return prune(model, inputs, target, options=options, graph=graph)

    def blocks(self, model: Any) -> dict[str, str]:
        """As in Ultralytics' own table of layers: `model.6` is `6 C3k2`."""
        return {f"model.{k}": f"{k} {type(layer).__name__}" for k, layer in enumerate(model.model)}

    def save(self, model: nn.Module, folder: Path) -> None:
        settings: dict[str, Any] = getattr(model, "trained_with", {})
        write = save_pruned if is_pruned(model) else write_checkpoint
        recall_quantization(model, folder)
        write(model, folder / NAME, settings)


@dataclass(frozen=True)
class YoloWorkshop(_OfUltralytics):
    """Ultralytics trains, validates and exports; `podar.workshops.Workshop` describes the methods.

    `data`: in Ultralytics' own form. Pictures of podar's own data sets go to `YoloOnPictures`.
    """

    data: YoloData | None = None

    @property
    def importance(self) -> str:
        return "magnitude" if self.data is None else IMPORTANCE

    def formats(self) -> Mapping[str, str]:
        return {**exporting.formats(), **dict.fromkeys(FORMATS, "")}

    def check_training(
        self, data: str | None, *, precision: str | None, distill: bool, settings: Mapping[str, Any]
    ) -> None:
        own = data is not None and (data.endswith((".yaml", ".yml")) or Path(data).is_dir())
        if precision and own:
            raise UsageError(
                f"--precision {precision}: Ultralytics' own trainer decides this by its argument amp, so leave "
                "--precision away (precision: in a recipe)."
            )
        if not distill and own:
            raise UsageError(
                "--no-distill: nothing distils a YOLO unless distill_model=FILE asks for it, so leave --no-distill "
                "away (distill: false in a recipe)."
            )
        if settings:
            check_settings(settings)

    def furnished(self, source: Source, data: str | None, image_size: int | None) -> Source:
        if data is None:
            return source if image_size is None else source.replaced(example_inputs=lambda m: images(m, image_size))
        if not is_own_form(data, getattr(source.model, "task", "")):
            return YoloOnPictures().furnished(source, data, image_size)
        opened = open_data(source.model, data, image_size)
        own = head_of(source.model)

        def fit(model: nn.Module) -> nn.Module:
            fitted = with_head(model, **opened.head)
            fitted.names = opened.names
            return fitted.eval()

        head = opened.head if own != {**own, **opened.head} else {}
        return source.changed(fit).replaced(
            dense=lambda: fit(source.dense()),
            spec={**source.spec, "model_args": {**source.spec.get("model_args", {}), **head}},
            example_inputs=lambda model: images(model, opened.side),
            workshop=YoloWorkshop(opened),
            classes=tuple(opened.names.values()),
            about_data=f"{data}: {len(opened.names)} classes, at {opened.side}×{opened.side}",
        )

    def figures(self, model: nn.Module, inputs: ExampleInputs) -> dict[str, int]:
        """What is deployed: batch norms folded away, and one of two heads dropped."""
        fused = fused_cost(model, inputs)
        return {"fused_params": fused.params, "fused_macs": fused.macs}

    def samples(self, model: nn.Module, seed: int) -> tuple[Samples | None, Loss | None]:
        if self.data is None:
            return None, None
        return Samples(model, self.data.path, self.data.side), task_loss(model)

    def recalibrate(self, model: nn.Module) -> None:
        """Ultralytics' trainer comes next, which begins with that."""

    def train(self, model: nn.Module, training: TrainingOptions) -> History:
        data = needed(self.data)
        return train(model, data.path, data.side, training)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        data = needed(self.data)
        return validation.evaluate(model, data.spec, data.side)

    def evaluate_file(self, model: nn.Module, file: Path) -> dict[str, float]:
        data = needed(self.data)
        if file.suffix != ".onnx":  # Ultralytics opens the others by the names of their folders
            return {}
        return validation.evaluate_file(file, str(getattr(model, "task", "detect")), data.spec, data.side)

    def pictures(self, dense: nn.Module, model: nn.Module, folder: Path) -> dict[str, list[dict[str, Any]]]:
        if self.data is None:
            return {"pictures": []}
        return {"pictures": [], "scenes": validation.pictures(dense, model, self.data, folder)}

    def export(self, model: nn.Module, inputs: ExampleInputs, *, folder: Path, stem: str, format: str) -> Exported:
        assert isinstance(inputs, Tensor), inputs  # what `images` makes
        if stem == "model":  # the trained one of a run; dense.onnx stands beside it
            recall_quantization(model, folder)
        return exporting.export(model, folder, stem, inputs, format)


class YoloOnPictures(_OfUltralytics, PodarWorkshop):
    """A classifier of Ultralytics on a data set of podar's own: podar trains, and what it saves is Ultralytics'."""
