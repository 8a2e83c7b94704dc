"""Models of torchvision by name: `torchvision:resnet50`, of every task it has."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from podar.errors import PodarError, did_you_mean
from podar.libraries.register import library

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from torch import nn

    from podar.workshops import Source

RANDOM = "{} has random weights: give trained ones with --weights FILE, or --model-arg weights=DEFAULT."
PREFIX = "torchvision:"


def _models() -> ModuleType:
    from podar.model.torchvision_operators import import_torchvision

    return import_torchvision().models


def _complete(incomplete: str) -> list[str]:
    if not incomplete.startswith(PREFIX):
        return [PREFIX]
    names = _models().list_models()
    return [PREFIX + name for name in names if name.startswith(incomplete.removeprefix(PREFIX))]


@library(
    "torchvision:NAME",
    help="a model of torchvision, by name",
    accepts=lambda model: model.startswith(PREFIX),
    complete=_complete,
    package="torchvision",
    extra="torchvision",
)
def open_model(model: str, model_args: dict[str, Any], trust: bool) -> Source:
    """A torchvision model; `--model-arg weights=DEFAULT` lets torchvision fetch its weights.

    **Raises:** `PodarError` for an unknown name (with the nearest one), or where the weights cannot be fetched.
    """
    from podar.model.building import call_builder
    from podar.workshops import PodarWorkshop, Source

    models = _models()
    name = model.removeprefix(PREFIX)
    if name not in models.list_models():
        raise PodarError(f"torchvision has no model {name!r}{did_you_mean(name, models.list_models(), PREFIX + '{}')}")
    builder = models.get_model_builder(name)
    weights = model_args.get("weights")
    kept = {key: value for key, value in model_args.items() if key != "weights"}
    offline = partial(builder, weights=weights, **_offline_defaults(builder))

    def make() -> nn.Module:
        return call_builder(offline, kept, of=model)

    return Source(
        called=model,
        spec={"model": model, "model_args": kept},
        make=make,
        dense=make,
        example_inputs=lambda _: _inputs(builder),
        workshop=PodarWorkshop(),
        task=_task(builder)[0] or "classify",
        notes=() if weights is not None else (RANDOM.format(model),),
    )


def _offline_defaults(builder: Callable[..., nn.Module]) -> dict[str, Any]:
    """Arguments without which a builder goes to the network, or warns and spends seconds on random numbers."""
    task, family = _task(builder)
    defaults: dict[str, Any] = {}
    if task in ("detection", "segmentation"):
        defaults["weights_backbone"] = None
    if family in ("googlenet", "inception"):
        defaults["init_weights"] = True
    return defaults


def _task(builder: Callable[..., nn.Module]) -> tuple[str, str]:
    """`("detection", "ssd")` of `torchvision.models.detection.ssd`; classification is `("", "resnet")`."""
    parts = builder.__module__.removeprefix("torchvision.models.").split(".")
    return (parts[0], parts[-1]) if len(parts) > 1 else ("", parts[0])


def _inputs(builder: Callable[..., nn.Module]) -> Any:
    import torch

    from podar.model.example_inputs import random_images

    task, family = _task(builder)
    if task == "detection":
        return ([random_images(3, 320, 320)[0].sigmoid()],)  # a list of images with values in 0…1
    if task == "video":
        side = 224 if family in ("mvit", "swin_transformer") else 112
        return torch.stack([random_images(3, side, side)] * 16, dim=2)
    if task == "optical_flow":
        return (random_images(3, 128, 128), random_images(3, 128, 128))
    side = 299 if family == "inception" else 224
    return random_images(3, side, side)
