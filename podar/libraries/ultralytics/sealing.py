"""Seals a pruned model's configuration, so that nobody rebuilds the unpruned network from it unnoticed.

Ultralytics' own trainer builds a new network from `model.yaml` and copies the weights whose shapes still agree: the
removed channels come back, with random weights, and nothing says so. Widths after pruning cannot be written as such a
configuration (each layer has its own). So the first row of a pruned model's backbone names, in place of a module, what
to do instead: Ultralytics stops at once with exactly these words, whether or not podar is installed. Everything else
(predict, val, track, export, benchmark) never builds from the configuration.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from podar.errors import PodarError
from podar.plans.surgery import PLAN_ATTRIBUTE

KEY = "podar"  # where a sealed configuration keeps the row that the seal replaces

# No "nn." and no "torchvision.ops." in it: Ultralytics would look for a module of that name there.
ADVICE = (
    "this model was pruned by podar, and Ultralytics' own trainer would rebuild it unpruned. Train it with: "
    'YOLO("pruned.pt").train(trainer=podar.libraries.ultralytics.trainer(), data=...), after: '
    "import podar.libraries.ultralytics"
)


def is_pruned(model: object) -> bool:
    """Whether a model carries a plan of podar."""
    return isinstance(model, nn.Module) and bool(model.__dict__.get(PLAN_ATTRIBUTE))


def is_sealed(config: object) -> bool:
    """Whether a configuration is a pruned model's."""
    return isinstance(config, dict) and KEY in config


def seal(model: nn.Module) -> nn.Module:
    """Seal a model's configuration, in place; a sealed one is left as it is. Returns the model.

    **Raises:** `PodarError` where the model has no configuration, which every model of Ultralytics has.
    """
    config: Any = getattr(model, "yaml", None)
    if not isinstance(config, dict) or not config.get("backbone"):
        raise PodarError(f"{type(model).__name__} has no configuration of Ultralytics, so it is no model of its.")
    if not is_sealed(config):
        first, *others = config["backbone"]
        row = [*first[:2], ADVICE, *first[3:]]
        model.yaml = {**config, "backbone": [row, *others], KEY: {"first": list(first)}}  # type: ignore[assignment]
    return model


def unsealed(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the unpruned network: what `seal` found."""
    if not is_sealed(config):
        return config
    plain = {key: value for key, value in config.items() if key != KEY}
    try:
        return {**plain, "backbone": [list(config[KEY]["first"]), *config["backbone"][1:]]}
    except (KeyError, TypeError) as error:
        raise PodarError("the seal of this pruned model's configuration is damaged: prune the model again.") from error
