"""Which weights of a model can be sparse, where each is used, and which of its axes are outputs and inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.prune import BasePruningMethod

from podar.errors import QUOTED, PodarError, UsageError, did_you_mean


@dataclass(frozen=True)
class Weight:
    """One weight tensor that may be sparse.

    **Attributes:**

    - `name`: its path, without the `_orig` of torch's mask format: "layer1.0.conv1.weight".
    - `places`: every (module, attribute) that holds it; more than one where weights are tied.
    - `axes`: its (output, input) axes.
    - `groups`: of a grouped convolution; its input axis then counts the channels of one group (of a transposed
      convolution, of all groups).
    - `others`: its further paths, where it is tied.
    """

    name: str
    places: tuple[tuple[nn.Module, str], ...]
    axes: tuple[int, int]
    groups: int = 1
    others: tuple[str, ...] = ()

    @property
    def layer(self) -> str:
        """The module's path: "layer1.0.conv1"; empty for a lone layer."""
        return self.name.rpartition(".")[0]

    @property
    def parameter(self) -> nn.Parameter:
        """What an optimizer trains: the weight, or under a mask of torch's format `weight_orig`."""
        module, attribute = self.places[0]
        found = module._parameters.get(attribute)
        return found if found is not None else module._parameters[f"{attribute}_orig"]  # type: ignore[return-value]

    @property
    def key(self) -> str:
        """The parameter's name in `model.named_parameters()`."""
        return self.name if self.mask is None else f"{self.name}_orig"

    @property
    def mask(self) -> Tensor | None:
        """The mask of torch's format, or None."""
        module, attribute = self.places[0]
        return module._buffers.get(f"{attribute}_mask") if f"{attribute}_orig" in module._parameters else None

    @property
    def values(self) -> Tensor:
        """The weight as the network uses it, detached: zero where masked."""
        mask = self.mask
        values = self.parameter.detach()
        return values if mask is None else values * mask.to(values.dtype)

    @property
    def inputs(self) -> int:
        """Consecutive inputs that one output can see: what N:M groups and blocks must divide."""
        size = self.parameter.shape[self.axes[1]]
        return size // self.groups if self.axes == (1, 0) else size

    def matrix(self, tensor: Tensor) -> Tensor:
        """(output, input, *kernel) → (outputs, kernel positions × inputs), inputs running fastest."""
        moved = tensor.movedim(self.axes, (0, -1)) if tensor.dim() > 1 else tensor
        return moved.reshape(moved.shape[0], -1)

    def unmatrix(self, matrix: Tensor) -> Tensor:
        """The inverse of `matrix`, contiguous, in the weight's own shape."""
        shape = self.parameter.shape
        kernel = [s for d, s in enumerate(shape) if d not in self.axes]
        full = matrix.reshape(shape[self.axes[0]], *kernel, shape[self.axes[1]])
        return full.movedim((0, -1), self.axes).contiguous()


def weights_of(model: nn.Module, protect: str | Iterable[str] = (), computed: str = "refuse") -> list[Weight]:
    """The convolution, linear, embedding, recurrent and attention weights of a model, tied ones once, in module order.

    **Arguments:**

    - `model`: any module, also a lone layer.
    - `protect`: patterns ("conv1", "*.attn.*", "fc.weight") of layers that stay dense.
    - `computed`: "refuse" or "skip" weights that a parametrization computes.

    **Raises:**

    - `UsageError`: a pattern that fits nothing.
    - `PodarError`: a weight that is computed (weight norm, parametrizations), lazy, or whose mask does not fit it.
    """
    if isinstance(protect, str):
        protect = (protect,)
    found: dict[int, Weight] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for attribute, axes in _attributes(module).items():
            name = f"{path}.{attribute}" if path else attribute
            parameter = _parameter(module, attribute, name)
            if parameter is None:
                if computed == "refuse" and not any(matches(p, name) for p in protect):
                    raise PodarError(
                        f"{name} is computed from other parameters (weight norm or a parametrization), so a mask on it "
                        f"would not last: make it plain first with remove_parametrizations, or "
                        f"{leave_dense(path or name)}"
                    )
                continue
            if not parameter.is_floating_point():
                continue
            known = found.get(id(parameter))
            here = (module, attribute)
            places = known.places if known else ()
            places = places if any(m is module and a == attribute for m, a in places) else (*places, here)
            groups = getattr(module, "groups", 1) if isinstance(module, _ConvNd) else 1
            others = (*known.others, name) if known else ()
            found[id(parameter)] = Weight(known.name if known else name, places, axes, groups, others)
    weights = list(found.values())
    for pattern in protect:
        _expect_match(pattern, weights, "protect")
    return [w for w in weights if not any(matches(p, w.name, *w.others) for p in protect)]


def matches(pattern: str, *names: str) -> bool:
    """Whether a pattern means a weight of these names: a name, its layer, one above it, or a shell pattern of such."""
    parts = [name.split(".") for name in names]
    paths = [".".join(own[:k]) for own in parts for k in range(1, len(own) + 1)]
    return any(path == pattern or fnmatchcase(path, pattern) for path in paths)


def per_weight(patterns: Mapping[str, float], weights: list[Weight], option: str) -> dict[str, float]:
    """{weight name: value} from {pattern: value}; the last pattern that fits wins.

    **Raises:** `UsageError`: a pattern that fits no weight.
    """
    values = {}
    for pattern, value in patterns.items():
        _expect_match(pattern, weights, option)
        values.update({w.name: value for w in weights if matches(pattern, w.name, *w.others)})
    return values


def leave_dense(layer: str, *others: str) -> str:
    """How to leave layers out, in Python and in a shell: the end of an error."""
    which, more = ("such layers", ", and so on") if others else ("it", "")
    return f"leave {which} dense with protect={[layer, *others]} (--protect {layer}{more})"


def _expect_match(pattern: str, weights: list[Weight], option: str) -> None:
    if any(matches(pattern, w.name, *w.others) for w in weights):
        return
    names = [name for weight in weights for name in (weight.name, *weight.others, weight.layer)]
    raise UsageError(f"{option}: no weight fits {pattern!r}{did_you_mean(pattern, names, QUOTED)}")


def _attributes(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Weight attributes of one module with their (output, input) axes."""
    if isinstance(module, _ConvTransposeNd):
        return {"weight": (1, 0)}
    if isinstance(module, (_ConvNd, nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag)):
        return {"weight": (0, 1)}
    if isinstance(module, nn.RNNBase):
        return {n: (0, 1) for n in module._flat_weights_names if n.startswith("weight")}
    if isinstance(module, nn.RNNCellBase):
        return {"weight_ih": (0, 1), "weight_hh": (0, 1)}
    if isinstance(module, nn.MultiheadAttention):
        names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        return {n: (0, 1) for n in names if getattr(module, n, None) is not None}
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # transformers' GPT-2: a linear layer, transposed
        return {"weight": (1, 0)}
    return {}


def _parameter(module: nn.Module, attribute: str, name: str) -> nn.Parameter | None:
    parameter = module._parameters.get(attribute)
    if parameter is None:
        parameter = module._parameters.get(f"{attribute}_orig")
        mask = module._buffers.get(f"{attribute}_mask")
        if parameter is None:
            return None
        if mask is None or not any(
            isinstance(h, BasePruningMethod) and h._tensor_name == attribute for h in module._forward_pre_hooks.values()
        ):
            raise PodarError(
                f"{name}_orig has lost its mask or the hook that applies it: mask the layer again with "
                "torch.nn.utils.prune or podar.sparsify and load its state into that"
            )
        if mask.shape != parameter.shape:
            raise PodarError(
                f"the mask of {name} has shape {tuple(mask.shape)}, the weight {tuple(parameter.shape)}: they belong "
                "to different models"
            )
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        raise PodarError(f"{name} has no size yet (a lazy layer): run the model once on an input, then sparsify it")
    if parameter.is_meta:
        raise PodarError(f"{name} is on the meta device and has no values: load the weights first")
    return parameter


def check_finite_weights(weights: Iterable[Weight]) -> None:
    """Refuse NaN and infinite weights, which have no rank.

    **Raises:** `PodarError`: names the first such weight.
    """
    for weight in weights:
        values = weight.parameter.detach()
        # min and max see every NaN and infinity in one pass and without a temporary tensor.
        if values.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(values))).all()):
            raise PodarError(f"{weight.name} has NaN or infinite values: repair or reload the weights before pruning")
