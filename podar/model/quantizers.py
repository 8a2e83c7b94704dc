"""Which modules rehearse quantisation: the fake-quantisers and observers of torch.ao."""

from __future__ import annotations

import functools

from torch import nn

OPERATORS = {"FakeQuantizeBase": "fake_quantize", "ObserverBase": "observe"}
"""The operator that stands for each class in a trace. By name: asking for the classes would import all of torch.ao."""


def is_quantizer(kind: type[nn.Module]) -> bool:
    """Whether modules of a class are fake-quantisers or observers."""
    return bool(operator_of(kind))


@functools.cache
def operator_of(kind: type[nn.Module]) -> str:
    """The operator that stands for modules of a class; nothing for all that do not rehearse quantisation."""
    bases = [base for base in kind.__mro__ if base.__module__.startswith("torch.ao.")]
    return next((OPERATORS[base.__name__] for base in bases if base.__name__ in OPERATORS), "")
