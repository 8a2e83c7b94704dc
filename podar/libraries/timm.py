"""Models of timm by name: `timm:resnet18`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from podar.errors import PodarError, did_you_mean, require
from podar.libraries.register import library

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn

    from podar.workshops import Source

RANDOM = "{} has random weights: give trained ones with --weights FILE, or --model-arg pretrained=True."
PREFIX = "timm:"


def _timm() -> ModuleType:
    from podar.model.torchvision_operators import import_torchvision

    import_torchvision()  # timm imports torchvision at once, whatever its build
    return require("timm", extra="timm")


def _complete(incomplete: str) -> list[str]:
    if not incomplete.startswith(PREFIX):
        return [PREFIX]
    return [PREFIX + name for name in _timm().list_models(incomplete.removeprefix(PREFIX) + "*")]


@library(
    "timm:NAME",
    help="a model of timm, by name",
    accepts=lambda model: model.startswith(PREFIX),
    complete=_complete,
    package="timm",
    extra="timm",
)
def open_model(model: str, model_args: dict[str, Any], trust: bool) -> Source:
    """A timm model; `--model-arg pretrained=True` lets timm fetch its weights.

    **Raises:** `PodarError` for an unknown name (with the nearest one), or where the weights cannot be fetched.
    """
    from podar.model.building import call_builder
    from podar.workshops import PodarWorkshop, Source

    timm = _timm()
    name = model.removeprefix(PREFIX)
    if not timm.is_model(name.partition(".")[0]):
        raise PodarError(f"timm has no model {name!r}{did_you_mean(name, timm.list_models(), PREFIX + '{}')}")
    pretrained = bool(model_args.get("pretrained", False))
    kept = {key: value for key, value in model_args.items() if key != "pretrained"}

    builder = partial(timm.create_model, name, pretrained=pretrained)

    def make() -> nn.Module:
        return call_builder(builder, kept, of=model)

    return Source(
        called=model,
        spec={"model": model, "model_args": kept},
        make=make,
        dense=make,
        example_inputs=lambda built: _inputs(built, kept),
        workshop=PodarWorkshop(),
        notes=() if pretrained else (RANDOM.format(model),),
    )


def _inputs(model: nn.Module, model_args: dict[str, Any]) -> Any:
    from podar.model.example_inputs import random_images

    config: Any = getattr(model, "pretrained_cfg", None) or {}
    channels, height, width = config.get("input_size", (3, 224, 224))
    size = model_args.get("img_size", (height, width))
    height, width = (size, size) if isinstance(size, int) else size
    return random_images(model_args.get("in_chans", channels), height, width)
