"""Models of Ultralytics by name or file: `yolo26n.yaml`, `yolo26n.pt`, a user's own best.pt."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from podar.errors import PodarError, did_you_mean
from podar.libraries.ultralytics.building import build
from podar.libraries.ultralytics.checkpoint import read_checkpoint
from podar.libraries.ultralytics.configuration import checked, is_own
from podar.libraries.ultralytics.finding import asked, find_checkpoint
from podar.libraries.ultralytics.heads import head_of, with_head
from podar.libraries.ultralytics.ready import make_ready
from podar.libraries.ultralytics.sealing import is_pruned, seal, unsealed
from podar.libraries.ultralytics.workshop import SIDE, YoloWorkshop, images
from podar.libraries.yolo_names import architectures
from podar.model.building import call_builder
from podar.trust.plain import read_yaml
from podar.trust.user_code import taken
from podar.workshops import Source


def open_model(model: str, model_args: dict[str, Any], trust: bool) -> Source:
    """An Ultralytics architecture with random weights (.yaml), or a checkpoint (.pt).

    `model_args` of an architecture: `nc` (or `num_classes`) and `ch`, the channels of the image.

    **Raises:** `PodarError` for an unknown name (with the nearest one), a missing file, or a checkpoint that needs
    more than Ultralytics' and torch's own classes, without `trust`.
    """
    if model.endswith(".pt"):
        return from_checkpoint(model, model_args, trust)
    return from_yaml(model, model_args, trust)


def from_yaml(called: str, model_args: dict[str, Any], trust: bool) -> Source:
    """An architecture by the name or path of its YAML, with random weights."""
    make_ready()
    from ultralytics.nn import tasks

    model = called if called.endswith((".yaml", ".yml")) else f"{called}.yaml"
    path = Path(model).expanduser()
    if path.is_file():
        model = str(path.resolve())
    elif model not in architectures():
        raise PodarError(
            f"there is neither a file {model} nor an Ultralytics architecture of this name"
            + did_you_mean(model, architectures())
        )
    config = _read(path) if path.is_file() else asked(tasks.yaml_model_load, model)
    return _from_config(config, called, model, model_args, trust)


def _read(path: Path) -> dict[str, Any]:
    """The content of a YAML file, with the scale that its name says, as Ultralytics reads it."""
    from ultralytics.nn.tasks import guess_model_scale

    content = read_yaml(path)
    if not isinstance(content, dict):
        raise PodarError(f"{path} describes no Ultralytics model: it needs the sections backbone and head.")
    return {**content, "scale": guess_model_scale(str(path)), "yaml_file": str(path)}


def _from_config(raw: Any, called: str, model: str, model_args: dict[str, Any], trust: bool) -> Source:
    from ultralytics.nn import tasks

    config = checked(raw, of=model, trust=trust)
    task = tasks.guess_model_task(config) or "detect"  # RT-DETR's head is not in the guesser's list
    kwargs = dict(model_args)
    if "num_classes" in kwargs:
        kwargs["nc"] = kwargs.pop("num_classes")
    builder = _model_class(config, task)
    if builder is None:
        raise PodarError(f"{model}: podar does not know how Ultralytics builds a model of the task {task!r}.")

    def make() -> nn.Module:
        built = call_builder(partial(build, builder, config, model), kwargs, of=model)
        built.task = task  # type: ignore[assignment]  # Ultralytics' own loader sets it too
        return built

    return Source(
        called=called,
        spec={"model": model, "model_args": kwargs, **_own_files(config)},
        make=make,
        dense=make,
        example_inputs=lambda built: images(built, SIDE),
        workshop=YoloWorkshop(),
        task=task,
        notes=(f"{model} has random weights: give trained ones with --weights FILE, or a .pt as MODEL.",),
    )


def _own_files(config: dict[str, Any]) -> dict[str, list[str]]:
    """The files that define the layers of the user's own which a configuration names."""
    own = any(is_own(row[2]) for row in (*config["backbone"], *config["head"]))
    return {"modules": taken()} if own else {}


def _model_class(config: dict[str, Any], task: str) -> type[nn.Module] | None:
    """The class that `YOLO(…)` would build: a decoder of RT-DETR, YOLOE and YOLO-World have their own."""
    from ultralytics.nn import tasks

    heads = {str(layer[2]) for layer in config["head"]}
    for head, name in (
        ("RTDETRDecoder", "RTDETRDetectionModel"),
        ("WorldDetect", "WorldModel"),
        ("YOLOEDetect", "YOLOEModel"),
        ("YOLOESegment", "YOLOESegModel"),
        ("YOLOESegment26", "YOLOESegModel"),
    ):
        if head in heads:
            return getattr(tasks, name, None)
    names = {
        "classify": "ClassificationModel",
        "detect": "DetectionModel",
        "segment": "SegmentationModel",
        "pose": "PoseModel",
        "obb": "OBBModel",
        "semantic": "SemanticSegmentationModel",
        "depth": "DepthModel",
    }
    return getattr(tasks, names.get(task, ""), None)


def from_checkpoint(model: str, model_args: dict[str, Any], trust: bool) -> Source:
    """The model of a .pt that Ultralytics wrote, pruned by podar or not.

    `model_args` may give it another head: `nc` (or `num_classes`), and `data_kpt_shape` for key points.
    """
    make_ready()
    path = find_checkpoint(model)
    head = {("nc" if key == "num_classes" else key): value for key, value in model_args.items()}
    unknown = set(head) - {"nc", "data_kpt_shape"}
    if unknown:
        raise PodarError(
            f"{model} is a checkpoint and brings its own architecture, so --model-arg {min(unknown)} has no meaning "
            f"here: to change it, name an architecture and give the checkpoint as --weights {model}."
        )

    def make() -> nn.Module:
        read = read_checkpoint(path, trust)
        if is_pruned(read):
            seal(read)
        return with_head(read, **head).eval() if head else read

    def dense() -> nn.Module:
        read = make()
        return _build_dense(read) if is_pruned(read) else read

    return Source(
        called=model,
        spec={"model": str(path), "model_args": head, **({"modules": taken()} if taken() else {})},
        make=make,
        dense=dense,
        example_inputs=lambda built: images(built, SIDE),
        workshop=YoloWorkshop(),
    )


def _build_dense(pruned: Any) -> nn.Module:
    """The architecture of a pruned model as it was, with random weights."""
    of = f"the configuration of this {type(pruned).__name__}"
    built: Any = build(type(pruned), unsealed(pruned.yaml), of, **head_of(pruned))
    built.task = pruned.task
    return built.eval()
