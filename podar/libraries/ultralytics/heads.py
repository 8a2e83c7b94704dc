"""Gives a model of Ultralytics the head that its data need: their number of classes, their key points."""

from __future__ import annotations

from typing import Any

from torch import nn

from podar.errors import PodarError
from podar.libraries.ultralytics.building import build
from podar.libraries.ultralytics.sealing import is_pruned


def head_of(model: Any) -> dict[str, Any]:
    """What the head is made for: `nc`, number of classes, and for key points `data_kpt_shape`."""
    head = model.model[-1]
    classes = getattr(head, "nc", None) or getattr(getattr(head, "linear", None), "out_features", None)
    found: dict[str, Any] = {} if classes is None else {"nc": int(classes)}
    if getattr(head, "kpt_shape", None):
        found["data_kpt_shape"] = tuple(head.kpt_shape)
    return found


def with_head(model: Any, **wanted: Any) -> Any:
    """The model with a head for these data; all weights whose shapes agree stay, as when Ultralytics trains it.

    **Arguments:** `wanted`: keys of `head_of`, others stay.

    **Raises:** `PodarError` where the model is pruned: its widths cannot be built from its configuration.
    """
    own = head_of(model)
    asked = {**own, **{key: tuple(v) if isinstance(v, (list, tuple)) else v for key, v in wanted.items()}}
    if asked == own:
        return model
    if is_pruned(model):
        raise PodarError(
            f"the pruned model's head is made for {_told(own)} and the data have {_told(asked)}: prune the dense model "
            "with these data, which gives it its new head first."
        )
    built: Any = build(type(model), model.yaml, of=f"the configuration of this {type(model).__name__}", **asked)
    _copy_weights(model, built)
    built.task = model.task
    if hasattr(model, "args"):
        built.args = model.args
    return built.train(model.training)


def _copy_weights(model: nn.Module, built: nn.Module) -> None:
    own, new = model.state_dict(), built.state_dict()
    built.load_state_dict({n: t for n, t in own.items() if n in new and new[n].shape == t.shape}, strict=False)


def _told(head: dict[str, Any]) -> str:
    text = f"{head.get('nc')} classes"
    if "data_kpt_shape" in head:
        text += f" and key points of the shape {'×'.join(map(str, head['data_kpt_shape']))}"
    return text
