"""Attributes of torch.nn's own modules that repeat a parameter's shape and are not read in forward: kept truthful."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from podar.graph.members import Named

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, *INSTANCE_NORMS)


class Mirror(NamedTuple):
    """`module.attribute` is the size of dimension `dim` of `tensor`, times the module's groups where `grouped`."""

    module: str
    attribute: str
    tensor: str
    dim: int
    grouped: bool = False


def mirrors(modules: Named) -> list[Mirror]:
    """Every such attribute of these modules."""
    found: list[Mirror] = []
    for name, module in modules:
        prefix = name + "." if name else ""
        if isinstance(module, CONVOLUTIONS):
            turned = isinstance(module, TRANSPOSED)
            found.append(Mirror(name, "out_channels", prefix + "weight", 1 if turned else 0, turned))
            found.append(Mirror(name, "in_channels", prefix + "weight", 0 if turned else 1, not turned))
        elif isinstance(module, nn.Linear):
            found.append(Mirror(name, "out_features", prefix + "weight", 0))
            found.append(Mirror(name, "in_features", prefix + "weight", 1))
        elif isinstance(module, nn.Embedding):
            found.append(Mirror(name, "embedding_dim", prefix + "weight", 1))
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
