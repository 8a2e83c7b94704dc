"""The verb sparsify: score every weight, choose which go, and mask them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from podar.criteria import Scorer, score
from podar.errors import PodarError, UsageError
from podar.sparse.layers import Weight, check_finite_weights, leave_dense, per_weight, weights_of
from podar.sparse.masks import Sparsity, attach, detach, sparsity
from podar.sparse.patterns import (
    NofM,
    Pattern,
    Unstructured,
    check_divides,
    mask_of_units,
    n_of_m_mask,
    parse_pattern,
    units_of,
)
from podar.sparse.scopes import parse_scope, removals, unit_count
from podar.sparse.selection import cut_at, keep_largest, kept_above
from podar.sparse.sensitivity import even_rise, sensitivities

ROUNDS = {"synflow": 100}
"""Criteria that need many small steps, each scored anew, to avoid emptying a layer (Tanaka et al., 2020)."""

WITHIN_LAYERS = {"wanda"}
"""Criteria whose scores compare the weights of one layer and say nothing about layers among themselves: Wanda's grow
with the size of a layer's inputs, whatever it is worth. Ranked globally they are scaled to the layer's weights."""


def sparsify(
    model: nn.Module,
    amount: float | None = None,
    pattern: str | Pattern = "unstructured",
    scope: str = "global",
    importance: str | Scorer = "magnitude",
    data: Any = None,
    loss: Any = None,
    amounts: Mapping[str, float] | None = None,
    protect: str | Iterable[str] = (),
    rounds: int | None = None,
) -> Sparsity:
    """Mask the least important weights, in place and in the format of torch.nn.utils.prune.

    The weights stay under the masks (`weight_orig`) until `podar.bake`. Masks that are there already, podar's or
    torch's, are continued: their weights stay out, and `amount` counts them.

    **Arguments:**

    - `model`: any module with convolution, linear, embedding, recurrent or attention weights; a lone layer too.
    - `amount`: fraction of the weights that is zero afterwards, above 0 and below 1. With an N:M pattern it follows
      from the pattern and may be left out.
    - `pattern`: "unstructured"; "2:4" keeps 2 of every 4 consecutive inputs; "4x1" keeps or removes blocks of 4 outputs
      × 1 input.
    - `scope`: "global" ranks all weights together and leaves each layer at least one; "local" takes the amount from
      every layer; "uniform" does so but leaves the first layer dense; "er" and "erk" follow Erdős–Rényi (-kernel)
      densities; "sensitivity" measures on `data` how each layer's sparsity raises the loss and spreads the rise evenly.
    - `importance`: a criterion by name (podar.criteria.CRITERIA) or a callable `score(model, data, loss) → {parameter
      name: elementwise tensor}`.
    - `data`: batches for criteria (and the scope "sensitivity") that need them.
    - `loss`: `loss(outputs, targets)` for those; cross entropy when None.
    - `amounts`: {pattern of layers: fraction}: these layers lose exactly that; scope and amount rule the others.
    - `protect`: patterns of layers that stay dense. They are not counted in the amount.
    - `rounds`: score and mask in this many steps of equal density ratio; 1, but 100 for "synflow".

    **Returns:** Sparsity: zeros per layer and in total, of the whole model.

    **Raises:**

    - `UsageError`: an amount, pattern, scope or name that makes no sense.
    - `PodarError`: weights that are not finite or all zero, a size that the pattern does not divide, a layer that would
      lose everything, data that do not fit. The model is unchanged then.

    ```python
    podar.sparsify(model, 0.9)
    podar.sparsify(model, pattern="2:4", importance="wanda", data=images, protect=["conv1", "fc"])
    ```
    """
    parsed, kind = parse_pattern(pattern), parse_scope(scope)
    amount = check_amount(amount, parsed)
    weights = weights_of(model, protect)
    if not weights:
        raise PodarError(
            "nothing to sparsify: the model has no unprotected convolution, linear, embedding or recurrent weight"
        )
    overrides = per_weight(amounts or {}, weights, "amounts")
    for name, value in overrides.items():
        if not 0 <= value < 1:
            raise UsageError(f"amounts: {value!r} for {name} is no fraction: write 0 to below 1")
    if overrides and isinstance(parsed, NofM):
        raise UsageError(f"pattern {parsed} fixes the amount of every layer; leave amounts out or protect layers")
    check_weights(weights, parsed)
    steps = rounds if rounds is not None else ROUNDS.get(importance if isinstance(importance, str) else "", 1)
    if isinstance(parsed, NofM):
        steps = 1
    if steps < 1:
        raise UsageError(f"rounds={rounds}: at least one round is needed")

    before = {w.name: None if w.mask is None else w.mask.clone() for w in weights}
    try:
        start = _zeros(weights) / sum(w.parameter.numel() for w in weights)
        for step in range(1, steps + 1):
            # Equal ratios of what stays, from what there is to what is wanted.
            part = 1 - (1 - start) * ((1 - amount) / (1 - start)) ** (step / steps) if steps > 1 else amount
            part = amount if step == steps else part
            shares = {n: a * part / amount for n, a in overrides.items()}
            masks = choose_masks(model, weights, part, parsed, kind, importance, data, loss, shares)
            for weight in weights:
                attach(model, weight, masks.pop(weight.name))
    except BaseException:
        for weight in weights:
            old = before[weight.name]
            if old is not None:
                attach(model, weight, old.bool())
            elif weight.mask is not None:
                detach(weight)
        raise
    return sparsity(model)


def check_amount(amount: float | None, pattern: Pattern) -> float:
    """The fraction to remove, checked.

    **Raises:** `UsageError`: missing, no number, not above 0 and below 1, or at odds with an N:M pattern.
    """
    if isinstance(pattern, NofM):
        if amount is not None and abs(amount - pattern.amount) > 1e-9:
            raise UsageError(
                f"pattern {pattern} makes {pattern.amount:g} of the weights zero, not {amount:g}: leave the amount out"
            )
        return pattern.amount
    if amount is None:
        raise UsageError(f"pattern {pattern} needs an amount: the fraction of weights that goes, such as 0.9")
    if isinstance(amount, bool) or not isinstance(amount, Real) or not 0 < amount < 1:
        raise UsageError(
            f"amount={amount!r} is out of range: it is the fraction of weights that becomes zero, above 0 and below 1, "
            "such as 0.9"
        )
    return float(amount)


def check_weights(weights: list[Weight], pattern: Pattern) -> None:
    """Refuse weights that cannot be ranked or do not fit the pattern.

    **Raises:** `PodarError`: NaN or infinite values, a layer of zeros only, sizes that the pattern does not divide.
    """
    check_finite_weights(weights)
    for weight in weights:
        if not bool(weight.values.any()):
            raise PodarError(
                f"{weight.name} holds only zeros, so nothing in it can be ranked: load trained weights, or "
                f"{leave_dense(weight.layer or weight.name)}"
            )
    check_divides(weights, pattern)


def choose_masks(
    model: nn.Module,
    weights: list[Weight],
    amount: float,
    pattern: Pattern,
    scope: str,
    importance: str | Scorer,
    data: Any = None,
    loss: Any = None,
    overrides: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """Boolean masks by weight name; nothing is changed. What is zero already goes first and always goes.

    **Raises:** `PodarError`: the amount is less than what is zero already, or a layer would lose everything.
    """
    overrides = overrides or {}
    scores = _scores(model, weights, pattern, importance, data, loss)
    if isinstance(pattern, NofM):
        return {
            w.name: _within(w, w.unmatrix(n_of_m_mask(w.matrix(scores[w.name]().view(w.parameter.shape)), pattern)))
            for w in weights
        }
    counts: dict[str, int] = {}
    pool: list[Weight] = []
    if scope == "global":
        pool = [w for w in weights if w.name not in overrides]
        fixed = [w for w in weights if w.name in overrides]
        counts = removals(fixed, amount, "local", pattern, overrides) if fixed else {}
        if isinstance(importance, str) and importance in WITHIN_LAYERS:
            scores |= {w.name: _as_large_as_weights(w, scores[w.name]) for w in pool}
    elif scope == "sensitivity":
        free = [w for w in weights if w.name not in overrides]
        rises = sensitivities(model, free, {w.name: scores[w.name]() for w in free}, pattern, data, loss)
        fixed = [w for w in weights if w.name in overrides]
        counts = even_rise(rises, free, amount, pattern)
        counts |= removals(fixed, amount, "local", pattern, overrides) if fixed else {}
    else:
        counts = removals(weights, amount, scope, pattern, overrides)
    masks = {}
    for weight in weights:
        if weight.name in counts:
            count = counts[weight.name]
            _check_zeros([weight], count, unit_count(weight, pattern), weight.name, pattern)
            masks[weight.name] = _within(
                weight, mask_of_units(weight, keep_largest(scores[weight.name](), count), pattern)
            )
    if pool:
        masks |= _global(pool, scores, amount, pattern)
    return masks


def _global(
    weights: list[Weight], scores: Mapping[str, Callable[[], Tensor]], amount: float, pattern: Pattern
) -> dict[str, Tensor]:
    """Rank all weights together, to the exact count; a layer that would go whole keeps its best unit."""
    total = sum(unit_count(w, pattern) for w in weights)
    remove = round(amount * total)
    if remove > total - len(weights):
        raise PodarError(
            f"amount={amount:g} would remove {remove} of {total} "
            f"{'weights' if isinstance(pattern, Unstructured) else 'blocks'} and leave {len(weights)} layers without "
            "even one each: lower the amount"
        )
    _check_zeros(weights, remove, total, "the model", pattern)
    best: dict[str, int] = {}

    def part(weight: Weight) -> Callable[[], Tensor]:
        def values() -> Tensor:
            found = scores[weight.name]()
            if weight.name in best:
                found = found.clone()
                found[best[weight.name]] = torch.inf
            return found

        return values

    while True:
        cut = cut_at([part(w) for w in weights], remove)
        masks, empty = {}, []
        for weight in weights:
            kept, cut = kept_above(part(weight)(), cut)
            if not bool(kept.any()):
                empty.append(weight)
            masks[weight.name] = _within(weight, mask_of_units(weight, kept, pattern))
        if not empty:
            return masks
        for weight in empty:
            best[weight.name] = int(scores[weight.name]().argmax())


def _scores(
    model: nn.Module, weights: list[Weight], pattern: Pattern, importance: str | Scorer, data: Any, loss: Any
) -> dict[str, Callable[[], Tensor]]:
    """For each weight a function that gives its units' scores, flat; units that are zero already come out lowest."""
    dtype = torch.float64 if any(w.parameter.dtype == torch.float64 for w in weights) else torch.float32
    if importance == "magnitude":
        # Computed when asked for and never held: absolute values rank weights as squares do and never underflow.
        if isinstance(pattern, (Unstructured, NofM)):
            return {w.name: lambda w=w: w.values.abs().to(dtype).flatten() for w in weights}
        return {w.name: lambda w=w: units_of(w, w.values.to(dtype).square(), pattern) for w in weights}
    given = score(importance, model, data, loss)
    found = {}
    for weight in weights:
        values = given.get(weight.key)
        if values is None:
            raise PodarError(
                f"importance {importance!r} has no score for {weight.name}: choose another criterion, or "
                f"{leave_dense(weight.layer or weight.name)}"
            )
        if bool(torch.isnan(values).any()):
            raise PodarError(f"importance {importance!r} gives NaN for {weight.name}: check the data and the loss")
        zero = weight.values == 0
        if isinstance(pattern, (Unstructured, NofM)):
            units = values.detach().to(dtype).masked_fill(zero, -torch.inf).flatten()
        else:
            gone = units_of(weight, (~zero).to(dtype), pattern) == 0
            units = units_of(weight, values.detach().to(dtype), pattern).masked_fill(gone, -torch.inf)
        found[weight.name] = lambda units=units: units
    return found


def _as_large_as_weights(weight: Weight, scores: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A layer's scores times one number, with which they are as large as its weights in the root of mean squares."""
    units = scores()
    finite = units.isfinite()
    size = units[finite].double().square().mean().sqrt()
    if not bool(size > 0):
        return scores
    scale = float(weight.values.double().square().mean().sqrt() / size)
    scaled = torch.where(finite, units * scale, units)
    return lambda: scaled


def _check_zeros(weights: list[Weight], remove: int, total: int, where: str, pattern: Pattern) -> None:
    """What a mask took out must not come back because the amount asks for less."""
    gone = 0
    for weight in weights:
        if weight.mask is not None:
            gone += int(torch.count_nonzero(units_of(weight, weight.mask.float(), pattern) == 0))
    if gone > remove:
        raise PodarError(
            f"{100 * gone / total:.2f} % of {where} is masked already, more than the {100 * remove / total:.2f} % "
            "asked for: choose a larger amount, or a fresh model"
        )


def _within(weight: Weight, mask: Tensor) -> Tensor:
    """No weight comes back that an earlier mask of another pattern took from a unit that stays."""
    return mask if weight.mask is None else mask & weight.mask.bool()


def _zeros(weights: list[Weight]) -> int:
    return sum(w.parameter.numel() - int(torch.count_nonzero(w.values)) for w in weights)
