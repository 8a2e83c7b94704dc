"""Where one group alone is cut, its readers are solved anew from statistics of the dense model.

Nothing before the group has changed then, so its readers are given the same values of the units that stay. The second
moments of the dense model are therefore enough, and every cut is solved without another pass over the inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from podar.compensation.flow import Flow, follow
from podar.compensation.inputs import ready, running
from podar.compensation.passes import bytes_of, parts
from podar.compensation.readings import Parameters
from podar.compensation.statistics import Moments, moments
from podar.model.batches import run
from podar.plans.plan import Plan

RIDGE = 1e-3
"""Share of the mean of the second moments' diagonal that is added to it."""


class Readers:
    """The linear maps of a model, and what each reads on some inputs.

    **Arguments:** `batches`: inputs as the model takes them. `memory`: bytes of second moments held at once.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Any], *, memory: int, seed: int = 0) -> None:
        self.model, self.batches, self.memory, self.seed = model, batches, memory, seed
        self.parameters = Parameters(model)
        with ready(model), running(), torch.no_grad():
            self.flow: Flow = follow(model, lambda m: run(m, batches[0]), self.parameters)

    def solvable(self, plan: Plan) -> tuple[list[str], str]:
        """The maps whose inputs a plan cuts, and why they cannot all be solved ("" where they can)."""
        found = []
        for name, cuts in plan.cuts.items():
            form = self.flow.forms.get(name)
            if form is None or form.groups > 1:
                continue
            if any(cut.dim == form.input_dim for cut in cuts):
                found.append(name)
        if not found:
            return [], "no convolution or product reads it as a whole"
        need = bytes_of(found, self.flow.forms, self.parameters)
        if need > self.memory:
            return [], f"the second moments of its readers take {need:,} bytes, and memory allows {self.memory:,}"
        return found, ""

    def passes(self, wanted: Mapping[int, Iterable[str]]) -> Iterator[tuple[list[int], dict[str, Moments]]]:
        """Second moments of the wanted maps, in parts as large as memory allows: one pass over the inputs a part."""
        for part, names in parts(wanted, self.flow.forms, self.parameters, self.memory):
            with ready(self.model), running():
                found = moments(self.model, self.batches, self.parameters, names, self.seed)
            yield part, found

    def repair(self, cut: nn.Module, plan: Plan, names: Iterable[str], found: Mapping[str, Moments]) -> None:
        """Solve the readers of a model that was cut by this plan alone, in place."""
        members = Parameters(cut).members
        with torch.no_grad():
            for name in names:
                own, form = found[name], self.flow.forms[name]
                weight = self.parameters.members.tensors[name].detach()
                dims = {c.dim: c.array for c in plan.cuts[name]}
                after = self.flow.after.get((name, 0))
                shifts = after is not None and (after.bias is not None or after.norm is not None)
                matrix, shift = _solved(own, weight, dims[form.input_dim], shifts)
                rows = _kept(matrix.shape[0], dims.get(1 - form.input_dim))
                here = members.tensors[name]
                here.data.copy_(form.weight(matrix[rows].unsqueeze(0).to(here.device), here))
                if after is None or not shifts:
                    continue
                shift = shift[rows]
                if after.bias is not None:
                    bias = members.tensors[after.bias]
                    bias.data += shift.reshape(bias.shape).to(bias)
                elif after.norm is not None:
                    mean = members.buffers[after.norm.mean]
                    mean -= shift.reshape(mean.shape).to(mean)


def _solved(own: Moments, weight: Tensor, removed: np.ndarray, shifts: bool) -> tuple[Tensor, Tensor]:
    """(outputs, kept columns) that give what the dense map gave, as near as they can, and the shift of the outputs."""
    dense, kernel = own.form.matrix(weight)[0].double().cpu(), own.form.kernel(weight)
    inputs = _kept(dense.shape[1] // kernel, removed)
    columns = (inputs.unsqueeze(1) * kernel + torch.arange(kernel)).reshape(-1)
    gone = _kept(dense.shape[1], columns.numpy())
    products = own.mean_products(shifts)[0]
    inner, across = products[columns][:, columns], products[gone][:, columns]
    ridge = (RIDGE * inner.diagonal().mean()).clamp_min(torch.finfo(inner.dtype).tiny)
    factor, failed = torch.linalg.cholesky_ex(inner + ridge * torch.eye(len(inner), dtype=inner.dtype))
    matrix = dense[:, columns]
    if not bool(failed):
        matrix = matrix + torch.cholesky_solve((dense[:, gone] @ across).T, factor).T
    if not shifts:
        return matrix, torch.zeros(len(dense), dtype=dense.dtype)
    mean = own.total[0] / own.count
    return matrix, dense @ mean - matrix @ mean[columns]


def _kept(size: int, removed: np.ndarray | None) -> Tensor:
    """The indices that stay."""
    return torch.from_numpy(np.delete(np.arange(size), [] if removed is None else removed))
