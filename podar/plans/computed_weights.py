"""Weights that torch computes in each forward (weight norm, spectral norm): slices go, what remains stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import normalize

from podar.errors import PodarError
from podar.plans.plan import Computed, Cut, Plan

ITERATIONS = 30
"""Rounds of the power method that find the singular vectors of what remains."""

Carry = Callable[[Tensor, tuple[Cut, ...]], Tensor]
"""Copies a tensor without the slices that some cuts take, or with zeros in their place."""


def partners(tensors: Mapping[str, Tensor], plan: Plan, carry: Carry) -> dict[str, Tensor]:
    """New values of what makes up for norms that change: the lengths g, and the vectors u and v, by name.

    **Raises:** `PodarError`: what would remain of a weight under weight norm has no length.
    """
    found: dict[str, Tensor] = {}
    for name, computed in plan.computed.items():
        dense, cuts = tensors[name], plan.cuts.get(name, ())
        if len(computed.partners) != (1 if computed.kind == "length" else 2) or computed.dim >= dense.dim():
            raise PodarError(
                f"the plan has {name!r} made of others in a way that there is not; was it changed by hand?"
            )
        own = [(tensors[p], carry(tensors[p], plan.cuts.get(p, ()))) for p in computed.partners]
        try:
            made = _made(computed, dense, cuts, own, carry, name)
            if any(new.shape != left.shape for new, (_, left) in zip(made, own)):
                raise RuntimeError("their shapes do not fit")
        except RuntimeError as error:
            raise PodarError(
                f"the plan cuts {name!r} otherwise than what it is made of ({' '.join(str(error).split())[:100]})"
            ) from error
        found.update(zip(computed.partners, made))
    return found


def _made(
    computed: Computed,
    dense: Tensor,
    cuts: tuple[Cut, ...],
    own: list[tuple[Tensor, Tensor]],
    carry: Carry,
    name: str,
) -> list[Tensor]:
    """New values of the partners of one weight; `own` holds the partners, dense and cut."""
    if computed.kind == "length":
        rows = carry(dense, tuple(c for c in cuts if c.dim == computed.dim))
        return [own[0][1] * _quotient(rows, carry(dense, cuts), computed.dim, name)]
    before, after = (dense, own[0][0], own[1][0]), (carry(dense, cuts), own[0][1], own[1][1])
    return _singular_vectors(before, after, computed.dim)


def _quotient(rows: Tensor, left: Tensor, dim: int, name: str) -> Tensor:
    """Lengths of what is left over those of its dense rows: with it on g, g · v / |v| stays the same."""
    kind = torch.float64
    before, after = (torch.norm_except_dim(v.to(kind), 2, dim) for v in (rows, left))
    if bool(((after == 0) & (before != 0)).any()):
        raise PodarError(
            f"{name} has weight norm, and nothing but zeros would remain of a row: remove the norm first "
            "(torch.nn.utils.remove_weight_norm, or torch.nn.utils.parametrize.remove_parametrizations)"
        )
    return torch.where(before == 0, torch.ones_like(before), after / before).to(rows.dtype)


def _singular_vectors(
    dense: tuple[Tensor, Tensor, Tensor], left: tuple[Tensor, Tensor, Tensor], dim: int
) -> list[Tensor]:
    """u and v, so that w / (u · w v) stays the same for what is left of w.

    They become its first singular vectors, and u bears the quotient of both norms. The first step of training makes
    the length of u 1 again: from then on the norm of what is left counts, as spectral norm has it.
    """
    w, u, v = (t.double() for t in dense)
    norm = torch.dot(u, torch.mv(_matrix(w, dim), v))
    w, u, v = (t.double() for t in left)
    matrix = _matrix(w, dim)
    for _ in range(ITERATIONS):
        v = normalize(torch.mv(matrix.t(), u), dim=0)
        u = normalize(torch.mv(matrix, v), dim=0)
    now = torch.dot(u, torch.mv(matrix, v))
    if not float(now):  # u is orthogonal to all that is left: begin with another one
        u = normalize(matrix.sum(1), dim=0)
        v = normalize(torch.mv(matrix.t(), u), dim=0)
        now = torch.dot(u, torch.mv(matrix, v))
    u = u * (norm / now) if float(now) else u  # a weight of zeros has no norm
    return [u.to(left[1].dtype), v.to(left[2].dtype)]


def _matrix(w: Tensor, dim: int) -> Tensor:
    return w.movedim(dim, 0).flatten(1)
