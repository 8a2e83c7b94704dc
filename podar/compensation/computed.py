"""Finds parameters that a model does not read as a whole: weights are computed from them, or rows are looked up."""

from __future__ import annotations

from typing import Any

from torch.utils.weak import WeakTensorKeyDictionary

from podar.compensation.readings import Parameters
from podar.model.tensors import tensors_in

CONTRACTIONS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "linear", "lstm", "gru", "rnn_tanh", "rnn_relu"}
LOOKUPS = {"embedding", "embedding_bag", "_embedding_bag", "_embedding_bag_forward_only", "index", "index_select"}


class Computed:
    """Collects these parameters while it is shown every operator of one forward pass.

    **Attributes:**

    - `looked_up`: names of the parameters of which rows are looked up.
    - `found`: names of the parameters that an operator contracted with activations, changed or in part.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.found: set[str] = set()
        self.looked_up: set[str] = set()
        self._made_of = WeakTensorKeyDictionary()  # by tensor that was made of parameters alone: their names
        for name, tensor in parameters.members.tensors.items():
            if tensor not in self._made_of:
                self._made_of[tensor] = {name} if tensor.dim() > 1 and name in parameters.members.parameters else set()

    def done(self, func: Any, args: tuple[Any, ...], out: Any) -> None:
        """Look at an operator that has returned `out`."""
        known = [self._made_of.get(tensor) for tensor in tensors_in(args)]
        operator = getattr(func, "__name__", "").partition(".")[0]
        if operator in LOOKUPS and known and known[0]:
            self.looked_up |= known[0]
        names = set[str]().union(*(own for own in known if own is not None))
        if None not in known:
            for tensor in tensors_in(out):
                self._made_of[tensor] = names
        elif names and operator in CONTRACTIONS:
            self.found |= names
