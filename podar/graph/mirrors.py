"""Attributes of torch.nn's own modules that repeat a parameter's shape and are not read in forward: kept truthful."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import NamedTuple

from torch import nn

from podar.graph.labels import Ids
from podar.graph.sizes import (
    CONVOLUTIONS,
    TRANSPOSED,
    Attribute,
    Axis,
    Equality,
    Provenance,
    Term,
    attributes_in,
    attributes_of,
)
from podar.model.members import Named

INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
WEIGHTED = (*CONVOLUTIONS, nn.Linear, nn.Embedding)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, *INSTANCE_NORMS)


MIRRORING = (*WEIGHTED, *NORMS, nn.GroupNorm, nn.RNNBase, nn.RNNCellBase)


class Mirror(NamedTuple):
    """`module.attribute` is the size of dimension `dim` of `tensor`, times the module's groups where `grouped`."""

    module: str
    attribute: str
    tensor: str
    dim: int
    grouped: bool = False


STORED = ("weight", "weight_orig", "weight_v", "parametrizations.weight.original", "parametrizations.weight.original1")
"""Where a layer has its weight: masks, weight norm, spectral norm and other parametrizations keep it elsewhere."""


def mirrors(modules: Named, tensors: Container[str]) -> list[Mirror]:
    """Every such attribute of these modules; `tensors` are the names of parameters and buffers."""
    found: list[Mirror] = []
    with_some = {kind for kind in {type(module) for _, module in modules} if issubclass(kind, MIRRORING)}
    for name, module in modules:
        if type(module) not in with_some:
            continue
        prefix = name + "." if name else ""
        if isinstance(module, WEIGHTED):
            found += _of_a_weight(name, module, next((w for w in (prefix + s for s in STORED) if w in tensors), ""))
        elif isinstance(module, NORMS):
            source = "weight" if module.affine else "running_mean"
            found.append(Mirror(name, "num_features", prefix + source, 0))
        elif isinstance(module, nn.GroupNorm):
            found.append(Mirror(name, "num_channels", prefix + "weight", 0))
        elif isinstance(module, nn.RNNBase):
            projected = bool(module.proj_size)
            found.append(Mirror(name, "input_size", prefix + "weight_ih_l0", 1))
            found.append(Mirror(name, "hidden_size", prefix + ("weight_hr_l0" if projected else "weight_hh_l0"), 1))
            if projected:
                found.append(Mirror(name, "proj_size", prefix + "weight_hr_l0", 0))
        elif isinstance(module, nn.RNNCellBase):
            found.append(Mirror(name, "input_size", prefix + "weight_ih", 1))
            found.append(Mirror(name, "hidden_size", prefix + "weight_hh", 1))
    return found


def _of_a_weight(name: str, module: nn.Module, weight: str) -> list[Mirror]:
    if isinstance(module, nn.Embedding):
        return [Mirror(name, "embedding_dim", weight, 1)]
    if isinstance(module, nn.Linear):
        return [Mirror(name, "out_features", weight, 0), Mirror(name, "in_features", weight, 1)]
    turned = isinstance(module, TRANSPOSED)
    out, into = (1, 0) if turned else (0, 1)
    return [
        Mirror(name, "out_channels", weight, out, turned),
        Mirror(name, "in_channels", weight, into, not turned),
    ]


def tie(found: list[Mirror], layouts: Mapping[str, Mapping[int, Ids]], sizes: Provenance) -> None:
    """Where the model itself computes with such an attribute, it is the size of that axis and nothing else."""
    named = set[Attribute]().union(*(attributes_in(c) for c in sizes.constraints))
    named.update(*(attributes_of(size.expr) for pair in sizes.differences for size in pair))
    for mirror in found:
        attribute = Attribute(mirror.module, mirror.attribute)
        if attribute not in named:
            continue
        where = f"{mirror.attribute} of {mirror.module}"
        ids, groups = layouts.get(mirror.tensor, {}).get(mirror.dim), Attribute(mirror.module, "groups")
        if ids is not None and (ids.ndim == 2 or not mirror.grouped or sizes.dense[groups] == 1):
            sizes.grid(ids.ravel(), (attribute,), where)
        elif mirror.grouped:
            each = 1 if ids is None else Axis(ids)
            sizes.constraints.append(Equality(attribute, Term("*", each, groups), where))
