"""Ultralytics' trainers that keep a pruned model's shape, and check that they did.

Ultralytics trains what `get_model` returns. Its own builds a network from the configuration; here a pruned model stands
for itself. Anything else (losses, augmentation, EMA, validation, callbacks, files) is Ultralytics' own, untouched.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from ultralytics.engine import validator
from ultralytics.models.rtdetr.train import RTDETRTrainer
from ultralytics.models.yolo.classify import ClassificationTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.obb import OBBTrainer
from ultralytics.models.yolo.pose import PoseTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer
from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils import DEFAULT_CFG, LOCAL_RANK, RANK, torch_utils

from podar.errors import PodarError
from podar.libraries.ultralytics.caches import check_unpickling
from podar.libraries.ultralytics.sealing import is_pruned, is_sealed, seal

if TYPE_CHECKING:
    from ultralytics.engine.trainer import BaseTrainer as _Base
else:
    _Base = object


class KeepsShape(_Base):
    """What each of the trainers below does otherwise than its parent: a pruned model stays as it is."""

    _shape: dict[str, tuple[int, ...]] | None = None  # of the pruned model; None while a dense one is trained

    def __init__(self, cfg: Any = DEFAULT_CFG, overrides: Any = None, _callbacks: Any = None) -> None:
        super().__init__(cfg, overrides, _callbacks)
        # Whoever named these: the user, a file of arguments (cfg=), or the checkpoint that a training goes on from.
        for named in (self.args.distill_model, self.args.pretrained):
            if isinstance(named, (str, Path)) and Path(named).is_file():
                check_unpickling(Path(named))
        if self.device.type == "cpu" and LOCAL_RANK != -1:  # under torchrun; Ultralytics counts no CPU as a device
            self.world_size = int(os.environ["WORLD_SIZE"])

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        """The pruned model itself; what was not pruned is built as ever.

        **Raises:** `PodarError` where the data do not fit the model's head, or its weights were asked to be forgotten.
        """
        if not is_pruned(weights):
            if is_sealed(cfg):
                raise PodarError(
                    "pretrained=False would forget the weights of a pruned model and with them its shape: leave "
                    "pretrained away."
                )
            return super().get_model(cfg=cfg, weights=weights, verbose=verbose)
        _check_head(weights, self.data)
        model: Any = seal(copy.deepcopy(weights)).float().train()
        model.criterion = None
        for parameter in model.parameters():
            parameter.requires_grad = True
        for module in model.modules():
            if isinstance(module, nn.Dropout) and getattr(self.args, "dropout", 0):
                module.p = self.args.dropout
        self._shape = shapes_of(model)
        return model

    def setup_model(self) -> Any:
        """As ever; a model that was given as a module (by the process that started this one) is known here too."""
        checkpoint = super().setup_model()
        model = unwrapped(self.model)
        if is_pruned(model):
            self._shape = self._shape or shapes_of(model)
            _assert_shape(model, self._shape, "before training")
        return checkpoint

    def _setup_train(self) -> None:
        with _data_parallel_on_cpu(self):
            super()._setup_train()
        self._check("when training begins")

    def _setup_ddp(self) -> None:
        if self.device.type != "cpu":
            return super()._setup_ddp()
        torch.distributed.init_process_group("gloo", rank=RANK, world_size=self.world_size)
        return None

    def validate(self) -> Any:
        """Validate as ever, after each epoch; the shape is looked at first."""
        self._check("during training")
        return super().validate()

    def save_model(self) -> Any:
        """Save as ever, and only what kept its shape."""
        self._check("before saving")
        return super().save_model()

    def final_eval(self) -> Any:
        """Validate the best weights as ever, and look at the files that training leaves."""
        with _validation_on_cpu(self):
            done = super().final_eval()
        self._check("after training")
        if self._shape is not None and RANK in (-1, 0):
            for path in (self.last, self.best):
                if path.exists():
                    _assert_shape(unwrapped(load_checkpoint(path)[0]), self._shape, f"in {path}")
        return done

    def _check(self, when: str) -> None:
        if self._shape is None:
            return
        _assert_shape(unwrapped(self.model), self._shape, when)
        if self.ema is not None:
            _assert_shape(unwrapped(self.ema.ema), self._shape, f"{when}, in the averaged weights (EMA),")


class PrunedDetectionTrainer(KeepsShape, DetectionTrainer):
    """Boxes."""


class PrunedSegmentationTrainer(KeepsShape, SegmentationTrainer):
    """Masks."""


class PrunedPoseTrainer(KeepsShape, PoseTrainer):
    """Key points."""


class PrunedOBBTrainer(KeepsShape, OBBTrainer):
    """Rotated boxes."""


class PrunedClassificationTrainer(KeepsShape, ClassificationTrainer):
    """Whole images."""


class PrunedRTDETRTrainer(KeepsShape, RTDETRTrainer):
    """Boxes, by a transformer."""


TRAINERS: dict[str, type[Any]] = {
    "detect": PrunedDetectionTrainer,
    "segment": PrunedSegmentationTrainer,
    "pose": PrunedPoseTrainer,
    "obb": PrunedOBBTrainer,
    "classify": PrunedClassificationTrainer,
    "rtdetr": PrunedRTDETRTrainer,
}


class Trainer:
    """Ultralytics' `train(trainer=…)` calls this; what it gets is the trainer of the model's task."""

    def __new__(cls, cfg: Any = DEFAULT_CFG, overrides: Any = None, _callbacks: Any = None) -> Any:
        settings = dict(overrides or {})
        task = settings.get("task") or getattr(cfg, "task", None) or "detect"
        if task not in TRAINERS:
            raise PodarError(f"podar keeps the shape of models for {', '.join(TRAINERS)}; this one is for {task}.")
        if task == "detect" and _is_rtdetr(settings.get("model")):
            task = "rtdetr"
        return TRAINERS[task](cfg, settings, _callbacks)


def _is_rtdetr(model: Any) -> bool:
    """By its name, or by the classes that a checkpoint needs: found out without loading it."""
    path = Path(str(model or ""))
    if path.suffix != ".pt" or not path.is_file():
        return path.stem.startswith("rtdetr")
    return any("RTDETR" in name for name in torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _assert_shape(model: nn.Module, expected: dict[str, tuple[int, ...]], when: str) -> None:
    found = shapes_of(model)
    if found == expected:
        return
    counts = [sum(torch.Size(shape).numel() for shape in shapes.values()) for shapes in (expected, found)]
    changed = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    raise PodarError(
        f"{when} the pruned model has {counts[1]:,} parameters where it had {counts[0]:,} ({changed[0]} is "
        f"{found.get(changed[0])}, was {expected.get(changed[0])}): another program changed its shape; "
        "training stops here."
    )


def unwrapped(model: Any) -> nn.Module:
    """The model under data parallelism, compilation and distillation."""
    model = torch_utils.unwrap_model(model)
    return getattr(model, "student_model", model)


def _check_head(model: Any, data: dict[str, Any]) -> None:
    """Say so where the data have other classes, channels or key points than the pruned model's head."""
    head = model.model[-1]
    classes = getattr(head, "nc", None) or getattr(getattr(head, "linear", None), "out_features", None)
    for what, own, given in (
        ("classes", classes, data.get("nc")),
        ("image channels", model.yaml.get("channels"), data.get("channels")),
        ("key points and values", _tuple(getattr(head, "kpt_shape", None)), _tuple(data.get("kpt_shape"))),
    ):
        if own is not None and given is not None and own != given:
            raise PodarError(
                f"the pruned model has {own} {what} and the data have {given}: prune a model that was trained on "
                "them, or run podar prune with these data, which gives the model its new head first."
            )


def _tuple(value: Any) -> tuple[Any, ...] | None:
    return None if value is None else tuple(value)


@contextmanager
def _data_parallel_on_cpu(trainer: Any) -> Iterator[None]:
    """Ultralytics names a device to DistributedDataParallel, which takes none where modules lie on a CPU."""
    if trainer.device.type != "cpu" or trainer.world_size < 2:
        yield
        return
    parallel = nn.parallel.DistributedDataParallel

    class WithoutDevice(parallel):
        def __init__(self, module: nn.Module, device_ids: Any = None, **options: Any) -> None:
            super().__init__(module, **options)

    nn.parallel.DistributedDataParallel = WithoutDevice  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        nn.parallel.DistributedDataParallel = parallel  # type: ignore[misc]


@contextmanager
def _validation_on_cpu(trainer: Any) -> Iterator[None]:
    """Ultralytics looks for the graphics card of each rank when it validates the best weights; here none has one."""
    if trainer.device.type != "cpu" or trainer.world_size < 2 or not hasattr(validator, "get_torch_device_backend"):
        yield
        return
    kept: dict[str, Any] = {name: getattr(validator, name) for name in ("AutoBackend", "get_torch_device_backend")}

    def on_cpu(*args: Any, **options: Any) -> Any:
        return kept["AutoBackend"](*args, **{**options, "device": torch.device("cpu")})

    validator.__dict__.update(
        AutoBackend=on_cpu, get_torch_device_backend=lambda _: SimpleNamespace(current_device=lambda: 0)
    )
    try:
        yield
    finally:
        validator.__dict__.update(kept)
