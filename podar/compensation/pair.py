"""A dense and a pruned model side by side, and which indices of the dense one's axes the pruned one kept."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from podar.compensation.readings import Parameters
from podar.plans.plan import Plan
from podar.plans.surgery import PLAN_ATTRIBUTE


class Pair:
    """The two models.

    **Attributes:**

    - `of_pruned`, `of_dense`: the parameters of each.
    - `cut`: names of the tensors that the pruned one's plan cut.
    """

    def __init__(self, pruned: nn.Module, dense: nn.Module) -> None:
        self.pruned, self.dense = pruned, dense
        self.of_pruned, self.of_dense = Parameters(pruned), Parameters(dense)
        self._kept: dict[tuple[str, int], np.ndarray] = {}
        self.cut: set[str] = set()
        text = pruned.__dict__.get(PLAN_ATTRIBUTE)
        for step in Plan.from_json(text).steps if text else ():
            for name, cuts in step.cuts.items():
                self.cut.add(name)
                for c in cuts:
                    if c.groups == 1:
                        before = self._kept.get((name, c.dim), np.arange(c.size))
                        self._kept[name, c.dim] = np.delete(before, c.array)

    def kept(self, name: str, dim: int) -> Tensor | None:
        """The indices of an axis that were kept; None: all."""
        found = self._kept.get((name, dim))
        return None if found is None else torch.from_numpy(found)
