"""The order in which units go if the others are solved anew, and what each removal costs: block elimination.

Removing a unit whose columns are S, with the best repair of the others, costs tr(W_S (H⁻¹_SS)⁻¹ W_Sᵀ): the group form
of the Optimal Brain Surgeon (Hassibi and Stork 1993; ZipLM, Kurtic et al. 2023; OSSCAR, Meng et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

AT_ONCE = 32
"""In a round, one of so many of the units that are left goes, by the scores of that round."""

DENSE = 0.75
"""A share is copied without the columns that are gone once less than this part of its columns is left."""

SMALLEST = 1e-30


@dataclass
class Share:
    """What one linear map reads of a family of units.

    **Attributes:**

    - `weight`: (outputs, columns), each row scaled by the root of what an error of this output costs.
    - `inverse`: (columns, columns) inverse of the second moments with a ridge.
    - `columns`: (units, columns of a unit).
    """

    weight: Tensor
    inverse: Tensor
    columns: Tensor


@dataclass(frozen=True)
class Curve:
    """The units of a family in the order in which they go, and the error once the first k are gone (k = 0, 1, …).

    The error never falls: taking more away cannot help the best repair.
    """

    order: NDArray[np.int64]
    errors: NDArray[np.float64]


def eliminate(shares: Sequence[Share], units: int, at_once: int = AT_ONCE) -> Curve:
    """Take units away until one is left, cheapest first; weights and inverses of the shares are used up.

    **Arguments:**

    - `shares`: of every map that reads the units: what a removal costs is the sum over them.
    - `units`: how many there are.
    - `at_once`: a round takes one of this many away, at least one: those that would cost least alone.
    """
    left = torch.arange(units)
    order: list[Tensor] = []
    errors = [np.zeros(1)]
    while len(left) > 1:
        for share in shares:
            if left.numel() * share.columns.shape[1] < DENSE * len(share.inverse):
                _shrink(share, left)
        each = torch.stack([_each(s, left) for s in shares]).sum(0)
        count = max(1, len(left) // at_once)
        cheapest = each.argsort(stable=True)[:count]
        gone = left[cheapest]
        together = sum(_remove(s, gone) for s in shares)
        alone = each[cheapest].double().clamp_min(SMALLEST)
        errors.append(errors[-1][-1] + max(together, 0.0) * (alone.cumsum(0) / alone.sum()).numpy())
        order.append(gone)
        left = left[torch.ones(len(left), dtype=torch.bool).index_fill_(0, cheapest, False)]
    order.append(left)
    return Curve(torch.cat(order).numpy(), np.concatenate(errors))


def _each(share: Share, left: Tensor) -> Tensor:
    """What the removal of each unit alone would cost."""
    columns = share.columns[left]
    blocks = share.inverse[columns.unsqueeze(2), columns.unsqueeze(1)]
    weights = share.weight[:, columns].permute(1, 2, 0)  # (units, columns of a unit, outputs)
    if blocks.shape[1] == 1:
        return (weights.square().sum(2) / blocks[:, :, 0].clamp_min(SMALLEST)).squeeze(1).double()
    factor, _ = torch.linalg.cholesky_ex(_ridged(blocks))
    return torch.linalg.solve_triangular(factor, weights, upper=False).square().sum((1, 2)).double()


def _remove(share: Share, gone: Tensor) -> float:
    """Take units away: the others' weights and the inverse become those of the smaller problem."""
    columns = share.columns[gone].reshape(-1)
    across = share.inverse[columns]  # (removed, columns)
    factor, _ = torch.linalg.cholesky_ex(_ridged(across[:, columns]))
    lower = torch.linalg.solve_triangular(factor, across, upper=False)
    weights = torch.linalg.solve_triangular(factor, share.weight[:, columns].T, upper=False)
    share.weight.addmm_(weights.T, lower, alpha=-1)
    share.inverse.addmm_(lower.T, lower, alpha=-1)
    return float(weights.square().sum())


def _shrink(share: Share, left: Tensor) -> None:
    """Keep the columns of the units that are left. All other columns change nothing any more."""
    kept = share.columns[left].reshape(-1)
    share.weight, share.inverse = share.weight[:, kept].contiguous(), share.inverse[kept][:, kept]
    share.columns = torch.full_like(share.columns, -1)
    share.columns[left] = torch.arange(len(kept)).reshape(len(left), -1)


def _ridged(blocks: Tensor) -> Tensor:
    """Blocks with a slightly larger diagonal, so that they stay positive definite in spite of rounding."""
    diagonal = blocks.diagonal(dim1=-2, dim2=-1)
    tiny = 8 * torch.finfo(blocks.dtype).eps * diagonal.mean(-1, keepdim=True)
    return blocks + torch.diag_embed(tiny.expand_as(diagonal))
