"""Wanda: weights times the norm of the inputs that they meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode

from podar.criteria.calibration import forward, scoring
from podar.criteria.register import criterion
from podar.model.batches import inputs_of

BATCHES = 32
Energies = dict[str, Tensor]
"""{weight attribute: squared inputs that its weights met, shaped to broadcast over it}."""


@criterion("wanda", needs=("data",))
def wanda(model: nn.Module, data: Any = None, loss: Any = None) -> dict[str, Tensor]:
    """|weight| × L2 norm of its input feature over the data (Sun et al., ICLR 2024).

    Linear and attention layers take the norm of each input, convolutions of each input channel over all positions,
    embeddings the root of how often each row was read, recurrent layers the norm of each input and hidden feature.

    **Arguments:**

    - `data`: inputs, no labels needed: a tensor or an iterable of batches; up to 32 batches are used.
    - `loss`: ignored.

    **Raises:** `PodarError`: no data, or data that do not fit the model.
    """
    energies: dict[str, Tensor] = {}
    names = {id(p): n for n, p in model.named_parameters()}

    def listen(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        for attribute, energy in _measure(module)(module, inputs, options, output).items():  # type: ignore[misc]
            owner, _, leaf = attribute.rpartition(".")
            holder = module.get_submodule(owner)
            parameter = holder._parameters.get(leaf)
            if parameter is None:
                parameter = holder._parameters.get(f"{leaf}_orig")
            if parameter is not None:
                _add(energies, names[id(parameter)], energy)

    hooks = []
    batches = inputs_of(data, model, "importance 'wanda'", limit=BATCHES)
    with scoring(model, grad=False) as parameters:
        try:
            for module in model.modules():
                if _measure(module) is not None:
                    hooks.append(module.register_forward_hook(listen, with_kwargs=True))
            with _Borrowed(model, names) as borrowed:
                for inputs in batches:
                    forward(model, inputs, "wanda")
        finally:
            for hook in hooks:
                hook.remove()
        energies = {**borrowed.energies, **energies}
        return {n: parameters[n].detach().abs() * e.sqrt() for n, e in energies.items()}


def _add(energies: dict[str, Tensor], name: str, energy: Tensor) -> None:
    energies[name] = energies[name] + energy if name in energies else energy


class _Borrowed(TorchFunctionMode):
    """Linear layers whose weight a network takes into `functional.linear` itself, without calling the layer."""

    def __init__(self, model: nn.Module, names: dict[int, str]) -> None:
        super().__init__()
        self.energies: dict[str, Tensor] = {}
        self._names = dict(names)
        for path, module in model.named_modules():  # under a mask the weight is a tensor of its own
            if isinstance(module, nn.Linear) and "weight_orig" in module._parameters:
                self._names[id(module.weight)] = f"{path}.weight_orig" if path else "weight_orig"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func is functional.linear:
            name = self._names.get(id(_argument(args, options, 1, "weight", detach=False)))
            if name is not None:
                _add(self.energies, name, _features(_argument(args, options, 0, "input"))[None])
        return func(*args, **options)


def _measure(module: nn.Module) -> Callable[..., Energies] | None:
    """What measures the inputs of a layer of this kind."""
    if isinstance(module, _ConvNd):
        return _convolution
    if isinstance(module, nn.MultiheadAttention):
        return _attention
    if isinstance(module, nn.RNNBase):
        return _recurrent
    if isinstance(module, nn.RNNCellBase):
        return _cell
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return _embedding
    if isinstance(module, nn.Bilinear):
        return _bilinear
    if isinstance(module, nn.Linear):
        return _linear
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # transformers' GPT-2: a linear layer, transposed
        return _transposed_linear
    return None


def _features(x: Tensor) -> Tensor:
    """The energy of each feature, the last axis."""
    return x.detach().reshape(-1, x.shape[-1]).float().square().sum(0)


def _linear(module: nn.Module, inputs: Any, options: Any, output: Any) -> Energies:
    return {"weight": _features(_argument(inputs, options, 0, "input"))[None]}


def _transposed_linear(module: nn.Module, inputs: Any, options: Any, output: Any) -> Energies:
    return {"weight": _features(_argument(inputs, options, 0, "x"))[:, None]}


def _bilinear(module: nn.Module, inputs: Any, options: Any, output: Any) -> Energies:
    one, two = (_argument(inputs, options, k, f"input{k + 1}") for k in (0, 1))
    first, second = (x.reshape(-1, x.shape[-1]).float().square() for x in (one, two))
    return {"weight": (first.T @ second)[None]}


def _embedding(module: Any, inputs: Any, options: Any, output: Any) -> Energies:
    rows = torch.bincount(_argument(inputs, options, 0, "input").flatten(), minlength=module.num_embeddings)
    return {"weight": rows[:, None].to(module.weight.dtype)}


def _convolution(module: Any, inputs: Any, options: Any, output: Any) -> Energies:
    x = _argument(inputs, options, 0, "input")
    spatial = len(module.kernel_size)
    channels = x.float().square().sum(dim=[d for d in range(x.dim()) if d != x.dim() - 1 - spatial])
    ones = [1] * spatial
    if isinstance(module, _ConvTransposeNd):
        return {"weight": channels.view(-1, 1, *ones)}
    # Row o of a grouped convolution meets the channels of its own group only.
    each = channels.view(module.groups, 1, -1).expand(-1, module.out_channels // module.groups, -1)
    return {"weight": each.reshape(module.out_channels, -1, *ones)}


def _recurrent(module: Any, inputs: Any, options: Any, output: Any) -> Energies:
    x = _argument(inputs, options, 0, "input")
    hidden = output[0].data if isinstance(output[0], nn.utils.rnn.PackedSequence) else output[0]
    first = _features(x.data if isinstance(x, nn.utils.rnn.PackedSequence) else x)
    # Inner layers' activations are not visible from outside: the last layer's output stands for them.
    last = _features(hidden)
    found = {}
    for name in module._flat_weights_names:
        weight = getattr(module, name)
        if weight.dim() == 2:
            energy = first if name.startswith("weight_ih_l0") else last
            found[name] = (energy if energy.numel() == weight.shape[1] else energy.mean().expand(weight.shape[1]))[None]
    return found


def _cell(module: Any, inputs: Any, options: Any, output: Any) -> Energies:
    state = _argument(inputs, options, 1, "hx")
    hidden = state[0] if isinstance(state, tuple) else state
    if hidden is None:  # the first step meets zeros; what it gives is what the next ones meet
        hidden = output[0] if isinstance(output, tuple) else output
    return {
        "weight_ih": _features(_argument(inputs, options, 0, "input"))[None],
        "weight_hh": _features(hidden)[None],
    }


def _attention(module: Any, inputs: Any, options: Any, output: Any) -> Energies:
    query, key, value = (_argument(inputs, options, k, n) for k, n in enumerate(("query", "key", "value")))
    each = {"q": _features(query)[None], "k": _features(key)[None], "v": _features(value)[None]}
    # What the output projection reads comes out where that projection changes nothing.
    projection = module.out_proj
    plain = nn.Linear(module.embed_dim, module.embed_dim, device=query.device, dtype=query.dtype)
    nn.init.eye_(plain.weight)
    nn.init.zeros_(plain.bias)
    module.out_proj = plain
    try:
        heads = module.forward(*inputs, **options)[0]
    finally:
        module.out_proj = projection
    found = {f"{n}_proj_weight": e for n, e in each.items()}
    if module.in_proj_weight is not None:
        found = {"in_proj_weight": torch.cat([e.expand(module.embed_dim, -1) for e in each.values()])}
    return {**found, "out_proj.weight": _features(heads)[None]}


def _argument(inputs: tuple[Any, ...], options: dict[str, Any], place: int, name: str, detach: bool = True) -> Any:
    """An argument of forward, by place or by name; detached where it is a tensor."""
    found = inputs[place] if len(inputs) > place else options.get(name)
    return found.detach() if detach and isinstance(found, Tensor) else found
