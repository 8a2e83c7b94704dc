"""Masks in the format of torch.nn.utils.prune (`weight_orig`, `weight_mask`): put on, taken off, baked, counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from podar.errors import QUOTED, PodarError, did_you_mean
from podar.sparse.layers import Weight, weights_of


@dataclass(frozen=True)
class LayerSparsity:
    """How many of one tensor's weights are zero."""

    name: str
    zeros: int
    weights: int

    @property
    def fraction(self) -> float:
        """Zeros as a fraction of the weights, 0 to 1."""
        return self.zeros / self.weights if self.weights else 0.0

    def __str__(self) -> str:
        return f"{100 * self.fraction:.2f} % ({self.zeros:,} of {self.weights:,} weights)"


@dataclass(frozen=True)
class Sparsity:
    """Zeros by layer; `print` it, or read `.fraction` (or `float(...)`), `.zeros`, `.weights`, `["fc.weight"]`."""

    layers: tuple[LayerSparsity, ...]

    @property
    def total(self) -> LayerSparsity:
        """All layers together."""
        return LayerSparsity("total", sum(x.zeros for x in self.layers), sum(x.weights for x in self.layers))

    @property
    def zeros(self) -> int:
        """Zero weights of all layers."""
        return self.total.zeros

    @property
    def weights(self) -> int:
        """Weights of all layers, zero or not."""
        return self.total.weights

    @property
    def fraction(self) -> float:
        """Zeros as a fraction of all weights, 0 to 1."""
        return self.total.fraction

    def __float__(self) -> float:
        return self.fraction

    def __getitem__(self, name: str) -> LayerSparsity:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

    @property
    def starved(self) -> str:
        """A sentence that names the layers of which almost nothing is left (one weight, or a twentieth of the mean
        density), so that hardly anything flows through them. Empty where there are none."""
        kept = 1 - self.fraction
        thin = [
            f"{x.name} keeps {x.weights - x.zeros:,} of {x.weights:,} weights"
            for x in self.layers
            if x.zeros and (x.weights - x.zeros <= 1 or 1 - x.fraction < kept / 20)
        ]
        if not thin or len(self.layers) == 1:
            return ""
        more = f" and {len(thin) - 3} more" if len(thin) > 3 else ""
        return (
            f"Almost empty: {', '.join(thin[:3])}{more}: choose scope erk or local, another criterion, a smaller "
            "amount, or protect them."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data for summary.json."""
        layers = {x.name: {"zeros": x.zeros, "weights": x.weights} for x in self.layers}
        return {"zeros": self.zeros, "weights": self.weights, "fraction": self.fraction, "layers": layers}

    def __str__(self) -> str:
        if len(self.layers) == 1:
            return str(self.layers[0])
        rows = [*self.layers, self.total]
        width = max(len(row.name) for row in rows)
        lines = [f"{row.name:<{width}}  {row}" for row in rows]
        return "\n".join([*lines, self.starved] if self.starved else lines)


def sparsity(model: nn.Module) -> Sparsity:
    """Count the zero weights of every convolution, linear, embedding, recurrent and attention layer.

    Weights masked by podar or by torch.nn.utils.prune count as zero where the mask is. Biases and norm scales are not
    counted; tied weights are counted once.

    **Raises:** `PodarError`: a mask that does not fit its weight.

    ```python
    import torch.nn.utils.prune
    layer = torch.nn.Conv2d(3, 32, 3)
    _ = torch.nn.utils.prune.l1_unstructured(layer, name="weight", amount=0.3)
    print(podar.sparsity(layer))
    29.98 % (259 of 864 weights)
    ```
    """
    counted = []
    for weight in weights_of(model, computed="skip"):
        values = weight.values
        counted.append(LayerSparsity(weight.name, values.numel() - int(torch.count_nonzero(values)), values.numel()))
    return Sparsity(tuple(counted))


def bake(model: nn.Module) -> nn.Module:
    """Make masks permanent: masked weights become zeros in plain parameters; hooks, masks and `_orig` names go.

    Reads the masks of podar and of torch.nn.utils.prune, on weights, biases and any other tensor. The model is changed
    in place; the parameters stay the same objects, so an optimizer keeps them.

    **Returns:** The model.

    **Raises:** `PodarError`: a mask that does not fit its weight; nothing is baked then.

    ```python
    podar.sparsify(model, 0.9)
    podar.bake(model)
    ```
    """
    weights_of(model, computed="skip")  # refuses masks that do not fit, before anything changes
    for module in model.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, prune.BasePruningMethod):
                with torch.no_grad():
                    hook.remove(module)
                    # A negative weight times 0 is −0: made +0, so that files see a zero.
                    module._parameters[hook._tensor_name].add_(0.0)  # pyright: ignore[reportOptionalMemberAccess]
                del module._forward_pre_hooks[key]
            elif isinstance(hook, _OutProjection):
                del module._forward_pre_hooks[key]
    return model


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """{weight name: boolean mask} of every weight: its mask, or where it has none what is not zero."""
    found = {}
    for weight in weights_of(model, computed="skip"):
        mask = weight.mask
        found[weight.name] = (mask if mask is not None else weight.parameter.detach()) != 0
    return found


def mask_weights(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Put masks on a model, in the format of torch.nn.utils.prune; existing masks are tightened.

    **Arguments:**

    - `masks`: {weight name: tensor of the weight's shape, zeros and ones or booleans}.

    **Raises:** `PodarError`: a name that the model does not have, a shape that does not fit, values other than 0 and 1.
    The model is unchanged then.

    ```python
    mask_weights(model, {"fc.weight": model.fc.weight.abs() > 0.01})
    ```
    """
    weights = {w.name: w for w in weights_of(model)}
    chosen: dict[str, Tensor] = {}
    for name, mask in masks.items():
        if name not in weights:
            raise PodarError(f"the model has no weight {name!r} to mask{did_you_mean(name, weights, QUOTED)}")
        shape = weights[name].parameter.shape
        if mask.shape != shape:
            raise PodarError(f"the mask for {name} has shape {tuple(mask.shape)}, the weight {tuple(shape)}")
        if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
            raise PodarError(f"the mask for {name} has values other than 0 and 1")
        old = weights[name].mask
        chosen[name] = mask.bool() if old is None else mask.bool() & old.bool()
    for name, mask in chosen.items():
        attach(model, weights[name], mask)


def attach(model: nn.Module, weight: Weight, mask: Tensor) -> None:
    """Give one weight this mask (boolean), under every module that holds it; an existing mask is replaced."""
    parameter = weight.parameter
    # A mask has its weight's type, as torch makes it, so that every reader of that format can compute with it.
    buffer = mask.to(parameter.dtype)
    for module, attribute in weight.places:
        hook = _hook(module, attribute)
        if hook is None:
            hook = prune.CustomFromMask(buffer)
            hook._tensor_name = attribute
            module.register_parameter(f"{attribute}_orig", parameter)
            del module._parameters[attribute]
            module.register_forward_pre_hook(hook)
        module.register_buffer(f"{attribute}_mask", buffer)
        # Without gradient history, so that deepcopy works until the first training step; each forward computes it anew.
        setattr(module, attribute, parameter.detach() * buffer)
    _follow_out_projections(model)


def detach(weight: Weight) -> None:
    """Take one weight's mask off again; the weights under it come back."""
    for module, attribute in weight.places:
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == attribute:
                del module._forward_pre_hooks[key]
        parameter = module._parameters.pop(f"{attribute}_orig")
        del module._buffers[f"{attribute}_mask"]
        delattr(module, attribute)
        setattr(module, attribute, parameter)


def _hook(module: nn.Module, attribute: str) -> prune.BasePruningMethod | None:
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == attribute:
            return hook
    return None


class _OutProjection:
    """MultiheadAttention reads `out_proj.weight` without calling `out_proj`, so torch's hook there never runs: this
    one, on the attention, runs it."""

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        projection: Any = module.out_proj
        for hook in list(projection._forward_pre_hooks.values()):
            hook(projection, ())


def _follow_out_projections(model: nn.Module) -> None:
    for module in model.modules():
        if (
            isinstance(module, nn.MultiheadAttention)
            and _hook(module.out_proj, "weight")
            and not any(isinstance(h, _OutProjection) for h in module._forward_pre_hooks.values())
        ):
            module.register_forward_pre_hook(_OutProjection())
