"""What each unit is worth where its consumers are solved anew: the error that they keep after the best repair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from podar.compensation.elimination import SMALLEST, Share, eliminate
from podar.compensation.flow import Flow, follow
from podar.compensation.forms import Convolution, Form
from podar.compensation.inputs import first_batches, ready, running
from podar.compensation.passes import bytes_of, parts
from podar.compensation.readings import Parameters
from podar.compensation.statistics import Moments, moments
from podar.errors import UsageError
from podar.graph.graph import Graph
from podar.model.batches import run

RIDGE = 1e-3
"""Share of the mean of the second moments' diagonal that is added to it."""

PRECISE = 1024
"""Up to this many columns the elimination is computed in double precision."""

MEMORY = 2 << 30
"""Bytes of second moments that are held at once where nothing else is asked for."""

Readers = Mapping[int, Sequence[str]]
"""By family: the parameters that read its units."""


class _Unmeasurable(Exception):
    """A family cannot be measured; the message says why."""


@dataclass(frozen=True)
class Worth:
    """What the units of a graph are worth.

    **Attributes:**

    - `errors`: for each unit the error that its removal adds once the units below it in its family are gone. It is the
      squared error of each consumer after the best repair, as a share of its squared spread, summed over the consumers.
      Where nothing could be measured it is the unit's part of its family's plain scores.
    - `left`: names of the groups that have plain scores only, and why.
    """

    errors: NDArray[np.float64]
    left: Mapping[str, str]


def worth(
    graph: Graph,
    model: nn.Module,
    data: Any,
    plain: NDArray[np.float64],
    *,
    seed: int = 0,
    memory: int = MEMORY,
) -> Worth:
    """Error curves of all groups, from inputs without labels.

    **Arguments:**

    - `graph`: the trace of the model.
    - `data`: inputs, as docs/data.md says; the first 512 samples are read.
    - `plain`: the score of each unit by another criterion, for groups whose consumers are not linear.
    - `memory`: bytes of second moments that may be held at once: groups are measured one after the other beyond it,
      with one more pass over the inputs each time, and a group that needs more alone keeps its plain scores.

    **Raises:** `PodarError`: no inputs, or inputs that are not finite or do not fit.
    """
    if memory < 1:
        raise UsageError(f"memory is {memory!r}; give the bytes that second moments may take, at least 1")
    batches = first_batches(data, model)
    errors = np.zeros(len(plain))
    for family in graph.families:
        own = np.maximum(plain[family.units], 0)
        errors[family.units] = own / max(float(own.sum()), SMALLEST)
    with ready(model), running(), torch.no_grad():
        parameters = Parameters(model)
        flow = follow(model, lambda m: run(m, batches[0]), parameters)
        readers, reasons = _readers(graph, flow)
        for family, why in _too_large(readers, flow.forms, parameters, memory).items():
            reasons[family] = why
            readers.pop(family)
        for part, names in parts(readers, flow.forms, parameters, memory):
            found = moments(model, batches, parameters, names, seed)
            for family in part:
                units = graph.families[family].units
                try:
                    shares = [s for n in readers[family] for s in _shares(graph, family, n, parameters, found[n], flow)]
                except _Unmeasurable as why:
                    reasons[family] = str(why)
                    continue
                curve = eliminate(shares, len(units))
                errors[units[curve.order]] = _rising(np.diff(curve.errors))
    families = {f for c in graph.clusters for f in c.families}
    left = {
        group.name: reasons.get(group.families[0], "no convolution or product reads it")
        for group in graph.groups
        if any(f in families and (f in reasons or f not in readers) for f in group.families)
    }
    return Worth(errors, left)


def _rising(added: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each removal adds, made to rise so that sorting keeps the order of removals; the last unit adds most."""
    rising = np.maximum.accumulate(np.concatenate([added, [max(1.0, float(added.max(initial=0)))]]))
    return rising * (1 + 1e-9 * np.arange(len(rising))) + 1e-15 * np.arange(len(rising))


def _readers(graph: Graph, flow: Flow) -> tuple[dict[int, list[str]], dict[int, str]]:
    """For each family the linear maps that read its units, and the reasons why other families cannot be measured."""
    found: dict[int, list[str]] = {}
    reasons: dict[int, str] = {}
    for name, dims in graph.record.layouts.items():
        if len(graph.shapes[name]) < 2 or not (name in flow.forms or name in flow.computed):
            continue  # parameters that are only looked up, added or multiplied read no units
        form = flow.forms.get(name)
        axis = 1 if form is None else form.input_dim
        if axis not in dims:
            continue
        families = graph.families.of(dims[axis])
        if form is None:
            reasons.update(dict.fromkeys(families, f"{name}, which reads it, is no convolution or product as a whole"))
        elif isinstance(form, Convolution) and form.groups > 1 and (form.transposed or graph.shapes[name][1] == 1):
            if form.transposed:
                reasons.update(
                    dict.fromkeys(families, f"{name}, which reads it, is a transposed convolution in groups")
                )
        else:
            for family in families:
                found.setdefault(family, []).append(name)
    for family in reasons:
        found.pop(family, None)
    return found, reasons


def _too_large(readers: Readers, forms: Mapping[str, Form], parameters: Parameters, memory: int) -> dict[int, str]:
    found = {}
    for family, names in readers.items():
        need = bytes_of(names, forms, parameters)
        if need > memory:
            found[family] = f"its second moments take {need:,} bytes, and memory allows {memory:,}"
    return found


def _shares(graph: Graph, family: int, name: str, parameters: Parameters, stats: Moments, flow: Flow) -> list[Share]:
    """The weights and inverse second moments of a map, with the columns of each unit of a family: one share a group.

    **Raises:** `_Unmeasurable`: units have different numbers of its inputs, or inputs are not finite.
    """
    weight, form = parameters.members.tensors[name].detach(), stats.form
    matrix = form.matrix(weight).cpu()
    kernel, groups = form.kernel(weight), matrix.shape[0]
    own = graph.families[family].units
    under = graph.families.units(graph.record.layouts[name][form.input_dim])
    under = under.reshape(groups, -1, under.shape[-1])
    after = flow.after.get((name, 0))
    products = stats.mean_products(after is not None and (after.bias is not None or after.norm is not None))
    kind = torch.float64 if matrix.shape[-1] <= PRECISE else torch.float32
    found = []
    for group, units in enumerate(under):
        inputs = _inputs_of(units, own)
        if inputs is None:
            raise _Unmeasurable(f"{name}, which reads it, has other numbers of inputs for each unit")
        if not inputs.numel():
            continue
        columns = (inputs.unsqueeze(2) * kernel + torch.arange(kernel)).reshape(len(own), -1)
        w, h = matrix[group].double(), products[group]
        energy = ((w @ h) * w).sum().clamp_min(SMALLEST)
        ridge = (RIDGE * h.diagonal().mean()).clamp_min(SMALLEST)
        factor, failed = torch.linalg.cholesky_ex(h + ridge * torch.eye(len(h), dtype=h.dtype))
        if bool(failed) or not bool(factor.isfinite().all()):
            raise _Unmeasurable(f"{name}, which reads it, is given values that are not finite, or too large to square")
        inverse = torch.cholesky_inverse(factor)
        found.append(Share((w * energy.rsqrt()).to(kind), inverse.to(kind), columns))
    return found


def _inputs_of(under: NDArray[np.int64], own: NDArray[np.int64]) -> Tensor | None:
    """(units, inputs of each): the inputs of a map that each of the family's units `own` has; `under` says, for each
    input, the units that it depends on.

    None where units have different numbers of inputs.
    """
    places = np.full(max(int(under.max(initial=0)), int(own.max(initial=0))) + 1, -1, dtype=np.int64)
    places[own] = np.arange(len(own))
    which, _ = np.nonzero(places[under] >= 0)
    unit = places[under][places[under] >= 0]
    counts = np.bincount(unit, minlength=len(own))
    if counts.min() != counts.max():
        return None
    order = np.lexsort((which, unit))
    return torch.from_numpy(which[order].reshape(len(own), -1))
