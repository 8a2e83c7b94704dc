"""Models of Ultralytics by name or file: `yolo26n.yaml`, `yolo26n.pt`, a user's own best.pt."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from podar.errors import PodarError, nearest, require
from podar.libraries import Blueprint
from podar.libraries._builders import call_builder
from podar.libraries._inputs import random_images
from podar.libraries._modules import taken
from podar.libraries.ultralytics.building import build
from podar.libraries.ultralytics.checkpoint import is_checkpoint, read_checkpoint
from podar.libraries.ultralytics.configuration import checked, is_own
from podar.libraries.yolo import architectures, blueprint
from podar.model.checkpoints import read_state
from podar.model.torchvision_operators import import_torchvision
from podar.trust.offline import ultralytics_offline
from podar.trust.plain import read_yaml

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SIDE", "architectures", "blueprint", "from_checkpoint", "from_yaml", "make_ready"]

SIDE = 320  # pixels; every stride of every family divides it


def make_ready() -> None:
    """Import Ultralytics so that it neither installs packages nor prints; later imports of its parts are plain ones.

    **Raises:** `PodarError` when it is not installed.
    """
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ.setdefault("YOLO_VERBOSE", "false")
    import_torchvision()
    with ultralytics_offline():
        require("ultralytics", extra="ultralytics")
        require("ultralytics.utils", extra="ultralytics")  # which asks for the network


def from_yaml(model: str, model_args: dict[str, Any], trust: bool) -> Blueprint:
    """An architecture by the name or path of its YAML, with random weights."""
    make_ready()
    from ultralytics.nn import tasks

    path = Path(model).expanduser()
    if path.is_file():
        model = str(path.resolve())
    elif model not in architectures():
        near = nearest(model, architectures())
        raise PodarError(
            f"there is neither a file {model} nor an Ultralytics architecture of this name"
            + (f"; did you mean {near}?" if near else ".")
        )
    config = _read(path) if path.is_file() else _asked(tasks.yaml_model_load, model)
    return _from_config(config, model, model_args, trust)


def _read(path: Path) -> dict[str, Any]:
    """The content of a YAML file, with the scale that its name says, as Ultralytics reads it."""
    from ultralytics.nn.tasks import guess_model_scale

    content = read_yaml(path)
    if not isinstance(content, dict):
        raise PodarError(f"{path} describes no Ultralytics model: it needs the sections backbone and head.")
    return {**content, "scale": guess_model_scale(str(path)), "yaml_file": str(path)}


def _from_config(raw: Any, model: str, model_args: dict[str, Any], trust: bool) -> Blueprint:
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

    from podar.libraries.ultralytics.library import LIBRARY

    notes = (f"{model} has random weights: give trained ones with --weights FILE, or a .pt as MODEL.",)
    spec = {"model": model, "model_args": kwargs, **_own_files(config)}
    return Blueprint(make, _inputs, spec, notes=notes, read_weights=_read_weights, library=LIBRARY)


def _own_files(config: dict[str, Any]) -> dict[str, list[str]]:
    """The files that define the layers of the user's own which a configuration names."""
    own = any(is_own(row[2]) for row in (*config["backbone"], *config["head"]))
    return {"modules": taken()} if own else {}


def _read_weights(path: Path, trust: bool) -> dict[str, Tensor]:
    """A state dict or safetensors as everywhere, or the weights of a best.pt that Ultralytics trained."""
    if path.suffix == ".pt" and is_checkpoint(path):
        return read_checkpoint(path, trust).state_dict()
    return read_state(path, trust)


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


def from_checkpoint(model: str, model_args: dict[str, Any], trust: bool) -> Blueprint:
    """The model of a .pt that Ultralytics wrote, pruned by podar or not.

    `model_args` may give it another head: `nc` (or `num_classes`), and `data_kpt_shape` for key points.
    """
    make_ready()
    from podar.libraries.ultralytics.heads import with_head
    from podar.libraries.ultralytics.library import LIBRARY
    from podar.libraries.ultralytics.sealing import is_pruned, seal

    path = _find_checkpoint(model)
    head = {("nc" if key == "num_classes" else key): value for key, value in model_args.items()}
    unknown = set(head) - {"nc", "data_kpt_shape"}
    if unknown:
        raise PodarError(
            f"{model} is a checkpoint and brings its own architecture, so --model-arg {min(unknown)} has no meaning "
            f"here: to change it, name an architecture and give the checkpoint as --weights {model}."
        )

    def make() -> nn.Module:
        read: Any = read_checkpoint(path, trust)
        if is_pruned(read):
            seal(read)
        return with_head(read, **head).eval() if head else read

    def dense() -> nn.Module:
        read: Any = make()
        return _build_dense(read) if is_pruned(read) else read

    spec = {"model": str(path), "model_args": head, **({"modules": taken()} if taken() else {})}
    return Blueprint(make, _inputs, spec, dense=dense, trained=True, library=LIBRARY)


def _build_dense(pruned: Any) -> nn.Module:
    """The architecture of a pruned model as it was, with random weights."""
    from podar.libraries.ultralytics.heads import head_of
    from podar.libraries.ultralytics.sealing import unsealed

    of = f"the configuration of this {type(pruned).__name__}"
    built: Any = build(type(pruned), unsealed(pruned.yaml), of, **head_of(pruned))
    built.task = pruned.task
    return built.eval()


def _find_checkpoint(model: str) -> Path:
    path = Path(model).expanduser()
    if path.is_file():
        return path.resolve()
    from ultralytics.utils import downloads, is_online

    if model in downloads.GITHUB_ASSETS_NAMES and is_online():
        found = Path(_asked(downloads.attempt_download_asset, model))
        if found.is_file():
            return found.resolve()
    refuse_missing(model, f" and it could not be downloaded; {path.stem}.yaml is its architecture with random weights")
    raise AssertionError  # refused above


def refuse_missing(model: str, of_a_known_one: str | None = None) -> None:
    """Say that a checkpoint is missing, with the nearest name; one that can be downloaded is left to Ultralytics.

    **Arguments:** `of_a_known_one`: what to say of a name that could be downloaded; None: nothing, no error.
    """
    from ultralytics.utils import downloads

    path = Path(model).expanduser()
    if model in downloads.GITHUB_ASSETS_NAMES:
        if of_a_known_one is None:
            return
        raise PodarError(f"there is no file {model}{of_a_known_one}.")
    local = [p.name for p in path.parent.glob("*.pt")] if path.parent.is_dir() else []
    near = nearest(path.name, [*local, *(downloads.GITHUB_ASSETS_NAMES if path.name == model else ())])
    raise PodarError(f"there is no file {model}" + (f"; did you mean {path.with_name(near)}?" if near else "."))


def _asked(function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except Exception as error:
        raise PodarError(f"Ultralytics cannot provide {args[0]}: {' '.join(str(error).split())[:300]}") from error


def _inputs(model: nn.Module) -> Tensor:
    config: Any = getattr(model, "yaml", None)
    channels = config.get("channels", config.get("ch", 3)) if isinstance(config, dict) else 3
    return random_images(int(channels or 3), SIDE, SIDE).sigmoid()
