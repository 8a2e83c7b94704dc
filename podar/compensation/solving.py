"""Least squares with a ridge: the weights that give wanted outputs on given inputs, judged on rows held back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Ridges that are tried, as shares of the mean of the second moments' diagonal."""

ROUNDS = 8
"""How often the targets are set anew for outputs that a ReLU cuts off."""

ENOUGH = 1e-3
"""The rounds end where the next one changes the weights by less than this share."""

PRECISE = 1024
"""Up to this many columns everything is computed in double precision; above, single precision is ten times faster."""


@dataclass(frozen=True)
class Cutoff:
    """A ReLU behind the outputs: what lies beyond its zero does not matter.

    **Attributes:**

    - `zero`: (groups, rows, outputs) outputs at which the ReLU's input is zero.
    - `sign`: (groups, 1, outputs) 1 where larger outputs pass, −1 where smaller ones do.
    """

    zero: Tensor
    sign: Tensor

    def passed(self, outputs: Tensor) -> Tensor:
        """What the ReLU lets through, in units of the outputs."""
        return ((outputs - self.zero) * self.sign).clamp_min(0)

    def at(self, rows: Tensor) -> Cutoff:
        """The same for some of the rows."""
        return Cutoff(self.zero[:, rows], self.sign)

    def aims(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """Targets whose squared error is an upper bound of the error behind the ReLU, and equal to it at `outputs`.

        Where nothing is to pass, an output that does not pass stays as it is, and one that does is to go back to zero.
        """
        blocked = (wanted - self.zero) * self.sign <= 0
        fine = (outputs - self.zero) * self.sign <= 0
        return torch.where(blocked, torch.where(fine, outputs, self.zero), wanted)


@dataclass(frozen=True)
class SolvedWeights:
    """New weights of one linear map, and how far off its outputs were and are on the rows held back.

    **Attributes:**

    - `matrix`: (groups, outputs, columns).
    - `shift`: (groups, outputs) that is added to the outputs; zeros where nothing can take one.
    - `before`, `after`: squared error, as a share of the wanted outputs' squared spread; where a ReLU follows, behind
      it.
    - `ridge`: the share that won; None where the old weights are at least as good, and stay.
    """

    matrix: Tensor
    shift: Tensor
    before: float
    after: float
    ridge: float | None


def solve(
    rows: Tensor,
    wanted: Tensor,
    old: Tensor,
    old_shift: Tensor,
    held: Tensor,
    *,
    weights: Tensor | None = None,
    shifts: bool = True,
    cutoff: Cutoff | None = None,
) -> SolvedWeights:
    """Minimise |rows · Wᵀ + shift − wanted|² + λ |W − old|² over W and the shift.

    **Arguments:**

    - `rows`: (groups, rows, columns) inputs.
    - `wanted`: (groups, rows, outputs) what they are to give, the shift included.
    - `old`: (groups, outputs, columns) the weights now, towards which the ridge pulls.
    - `old_shift`: (groups, outputs) the shift now.
    - `held`: (rows,) bool: these rows only choose λ and judge the solution.
    - `weights`: (rows,) how much the squared error of each row counts; None: all alike.
    - `shifts`: whether something can take a new shift; if not, the old one stays.
    - `cutoff`: a ReLU behind the outputs.

    **Returns:** The best solution, or the old weights where none is better on the rows held back.
    """
    kind = torch.float64 if rows.shape[-1] <= PRECISE else torch.float32
    rows, wanted, old, old_shift = (t.to(kind) for t in (rows, wanted, old, old_shift))
    if cutoff is not None:
        cutoff = Cutoff(cutoff.zero.to(kind), cutoff.sign.to(kind))
    weights = (torch.ones(len(held)) if weights is None else weights).to(rows).unsqueeze(1)
    judge = _Judge(rows[:, held], wanted[:, held], weights[held], None if cutoff is None else cutoff.at(held))
    problem = _Problem(rows[:, ~held], wanted[:, ~held], weights[~held], old, old_shift, shifts)
    before = judge.error(old, old_shift)
    best = SolvedWeights(old, old_shift, before, before, None)
    for ridge in RIDGES:
        factor = problem.factor(ridge)
        if factor is None:
            continue
        matrix, shift = problem.towards(problem.wanted, factor)
        after = judge.error(matrix, shift)
        if after < best.after:
            best = SolvedWeights(matrix, shift, before, after, ridge)
    if cutoff is None or best.ridge is None:
        return best
    factor = problem.factor(best.ridge)
    assert factor is not None  # the same ridge gave one a moment ago
    matrix, shift = problem.behind(cutoff.at(~held), best.matrix, best.shift, factor)
    after = judge.error(matrix, shift)
    return SolvedWeights(matrix, shift, before, after, best.ridge) if after < best.after else best


class _Judge:
    """The error on rows that no solution has seen, as a share of the wanted outputs' spread."""

    def __init__(self, rows: Tensor, wanted: Tensor, weights: Tensor, cutoff: Cutoff | None) -> None:
        self.rows, self.cutoff, self.weights = rows, cutoff, weights
        self.wanted = wanted if cutoff is None else cutoff.passed(wanted)
        spread = ((self.wanted - _mean(self.wanted, weights)).square() * weights).sum()
        self.spread = float(spread.clamp_min(torch.finfo(spread.dtype).tiny))

    def error(self, matrix: Tensor, shift: Tensor) -> float:
        got = self.rows @ matrix.mT + shift.unsqueeze(1)
        got = got if self.cutoff is None else self.cutoff.passed(got)
        return float(((got - self.wanted).square() * self.weights).sum()) / self.spread


class _Problem:
    """The normal equations of the rows that are solved for, about their mean where a shift makes up for it."""

    def __init__(
        self, rows: Tensor, wanted: Tensor, weights: Tensor, old: Tensor, old_shift: Tensor, shifts: bool
    ) -> None:
        self.wanted, self.weights, self.old, self.old_shift, self.shifts = wanted, weights, old, old_shift, shifts
        self.mean = _mean(rows, weights) if shifts else torch.zeros_like(rows[:, :1])
        self.rows = rows - self.mean
        self.products = (self.rows * weights).mT @ self.rows
        self.start = self.rows @ old.mT
        self.scale = self.products.diagonal(dim1=1, dim2=2).mean(1)

    def factor(self, ridge: float) -> Tensor | None:
        """The Cholesky factor of the second moments with a ridge; None where rounding leaves none."""
        tiny = torch.finfo(self.scale.dtype).tiny
        diagonal = (ridge * self.scale).clamp_min(tiny).view(-1, 1, 1) * torch.eye(self.products.shape[-1])
        found, failed = torch.linalg.cholesky_ex(self.products + diagonal.to(self.products))
        return None if bool(failed.any()) or not bool(found.isfinite().all()) else found

    def towards(self, wanted: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """The weights and the shift that come nearest to these outputs."""
        middle = _mean(wanted, self.weights) if self.shifts else self.old_shift.unsqueeze(1)
        cross = (self.rows * self.weights).mT @ (wanted - middle - self.start)
        matrix = self.old + torch.cholesky_solve(cross, factor).mT
        shift = middle - self.mean @ matrix.mT
        return matrix, shift.squeeze(1)

    def behind(self, cutoff: Cutoff, matrix: Tensor, shift: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Go on from a solution to one for what passes a ReLU: a few rounds, none of which makes it worse."""
        for _ in range(ROUNDS):
            outputs = (self.rows + self.mean) @ matrix.mT + shift.unsqueeze(1)
            before = matrix
            matrix, shift = self.towards(cutoff.aims(outputs, self.wanted), factor)
            if float((matrix - before).norm()) <= ENOUGH * float(before.norm()):
                break
        return matrix, shift


def _mean(rows: Tensor, weights: Tensor) -> Tensor:
    """(groups, 1, n): the weighted mean of (groups, rows, n)."""
    return (rows * weights).sum(1, keepdim=True) / weights.sum()
