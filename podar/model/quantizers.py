"""Recognises modules that rehearse quantisation (fake-quantisers and observers), and weights that are quantised."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from torch import Tensor, nn

from podar.errors import PodarError

OPERATORS = {"FakeQuantizeBase": "fake_quantize", "ObserverBase": "observe", "FakeQuantizerBase": "fake_quantize"}
"""The operator that stands for each class in a trace. By name, since classes would import all of torch.ao."""

_MODULES = ("torch.ao.", "torchao.quantization.")


def is_quantizer(kind: type[nn.Module]) -> bool:
    """Whether modules of a class are fake-quantisers or observers."""
    return bool(operator_of(kind))


@functools.cache
def operator_of(kind: type[nn.Module]) -> str:
    """The operator that stands for modules of a class; nothing for all that do not rehearse quantisation."""
    bases = [base for base in kind.__mro__ if base.__module__.startswith(_MODULES)]
    return next((OPERATORS[base.__name__] for base in bases if base.__name__ in OPERATORS), "")


def is_by_index(module: nn.Module) -> bool:
    """Whether a fake-quantiser rounds each value by a range in which a zero more or less does not count.

    torchao's take that of a row or a token, with zero in it. Groups of inputs would be other groups after a cut, and
    ranges that are learned are parameters of a shape of their own.
    """
    config = getattr(module, "config", None)
    by_group = type(getattr(config, "granularity", None)).__name__ == "PerGroup"
    return not by_group and not getattr(config, "range_learning", False)


def refuse_quantized(parameters: Mapping[str, Tensor]) -> None:
    """Refuse weights that hold whole numbers in a tensor of torchao's own, which no operator of torch cuts.

    **Arguments:** `parameters`: those of the model, by name.

    **Raises:** `PodarError` that names the first.
    """
    foreign = {kind for kind in set(map(type, parameters.values())) if kind.__module__.startswith("torchao.")}
    for name, tensor in parameters.items() if foreign else ():
        if type(tensor) in foreign:
            raise PodarError(
                f"{name} is quantised ({type(tensor).__name__} of torchao), and what is quantised cannot be cut: prune "
                "the model before quantize_, and quantise what remains"
            )


def refuse_already(model: nn.Module) -> None:
    """Refuse a model that computes in whole numbers already, or holds such weights: it cannot be quantised again.

    **Raises:** `PodarError` that names the first.
    """
    for name, module in model.named_modules():
        kind = type(module)
        if kind.__module__.startswith("torch.ao.nn.") and "quantized" in kind.__module__:
            raise PodarError(f"{name} is quantised already ({kind.__name__}): give the float model that it came from.")
    for name, tensor in model.named_parameters():
        if type(tensor).__module__.startswith("torchao."):
            raise PodarError(f"{name} is quantised already ({type(tensor).__name__} of torchao): give the float model.")
