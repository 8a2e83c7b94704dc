"""Wanda: weights times the norm of the inputs that they meet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from podar.criteria.backward import forward, input_batches, scoring
from podar.criteria.registry import criterion


@criterion("wanda")
def wanda(model: nn.Module, data: Any = None, loss: Any = None) -> dict[str, Tensor]:
    """|weight| × L2 norm of its input feature over the data (Sun et al., ICLR 2024).

    Linear layers take the norm of each input, convolutions of each input channel over all positions, embeddings the
    root of how often each row was read, recurrent layers the norm of each input and hidden feature.

    Args:
        data: inputs, no labels needed: a tensor or an iterable of batches; up to 32 batches are used.
        loss: ignored.

    Raises:
        PodarError: no data, or data that do not fit the model.
    """
    energies: dict[str, Tensor] = {}
    names = {id(p): n for n, p in model.named_parameters()}
    hooks = []
    with scoring(model, grad=False) as parameters:
        try:
            for module in model.modules():
                if isinstance(module, (nn.Linear, _ConvNd, nn.Embedding, nn.RNNBase)):
                    hooks.append(module.register_forward_hook(lambda m, i, o: _listen(m, i, o, names, energies)))
            for inputs in input_batches(data, "wanda"):
                forward(model, inputs, "wanda")
        finally:
            for hook in hooks:
                hook.remove()
        return {n: parameters[n].detach().abs() * e.sqrt() for n, e in energies.items()}


def _listen(
    module: nn.Module, inputs: tuple[Any, ...], output: Any, names: dict[int, str], into: dict[str, Tensor]
) -> None:
    """Add the energy of each input feature to the entry of each weight that meets it, shaped to broadcast over it."""

    def add(attribute: str, energy: Tensor) -> None:
        parameter = module._parameters.get(attribute)
        if parameter is None:
            parameter = module._parameters.get(f"{attribute}_orig")
        if parameter is not None:
            name = names[id(parameter)]
            into[name] = into[name] + energy if name in into else energy

    x = inputs[0].detach()
    if isinstance(module, nn.Embedding):
        rows = torch.bincount(x.flatten(), minlength=module.num_embeddings).to(module.weight.dtype)
        add("weight", rows[:, None])
    elif isinstance(module, nn.Linear):
        add("weight", x.reshape(-1, x.shape[-1]).float().square().sum(0)[None])
    elif isinstance(module, _ConvNd):
        spatial = len(module.kernel_size)
        channels = x.float().square().sum(dim=[d for d in range(x.dim()) if d != x.dim() - 1 - spatial])
        ones = [1] * spatial
        if isinstance(module, _ConvTransposeNd):
            add("weight", channels.view(-1, 1, *ones))
        else:
            # Row o of a grouped convolution meets the channels of its own group only.
            each = channels.view(module.groups, 1, -1).expand(-1, module.out_channels // module.groups, -1)
            add("weight", each.reshape(module.out_channels, -1, *ones))
    elif isinstance(module, nn.RNNBase):
        hidden = output[0].data if isinstance(output[0], nn.utils.rnn.PackedSequence) else output[0]
        x = x.data if isinstance(x, nn.utils.rnn.PackedSequence) else x
        first = x.reshape(-1, x.shape[-1]).float().square().sum(0)
        # Inner layers' activations are not visible from outside: the last layer's output stands for them.
        last = hidden.detach().reshape(-1, hidden.shape[-1]).float().square().sum(0)
        for name in module._flat_weights_names:
            weight = getattr(module, name)
            if weight.dim() != 2:
                continue
            energy = first if name.startswith("weight_ih_l0") else last
            if energy.numel() != weight.shape[1]:
                energy = energy.mean().expand(weight.shape[1])
            add(name, energy[None])
