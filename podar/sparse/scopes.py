"""How many weights each layer loses: the same share of each, all layers ranked together, or Erdős–Rényi."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from podar.errors import QUOTED, PodarError, UsageError, did_you_mean
from podar.sparse.layers import Weight, leave_dense
from podar.sparse.patterns import BlockPattern, Pattern

SCOPES = {
    "global": "global",
    "local": "local",
    "layer": "local",
    "per-layer": "local",
    "uniform": "uniform",
    "erdos-renyi": "er",
    "er": "er",
    "erdos-renyi-kernel": "erk",
    "erk": "erk",
    "sensitivity": "sensitivity",
}


def parse_scope(scope: str) -> str:
    """One name for each scope: global, local, uniform, er, erk, sensitivity.

    **Raises:** `UsageError`: no scope has that name.
    """
    text = (
        scope.strip().lower().replace("_", "-").replace(" ", "-").replace("ő", "o").replace("é", "e").replace("–", "-")
    )
    if text not in SCOPES:
        raise UsageError(f"there is no scope {scope!r}{did_you_mean(text, SCOPES, QUOTED, list_all=True)}")
    return SCOPES[text]


def unit_count(weight: Weight, pattern: Pattern) -> int:
    """How many weights, or blocks of them, can go."""
    return weight.parameter.numel() // (pattern.size if isinstance(pattern, BlockPattern) else 1)


def removals(
    weights: list[Weight],
    amount: float,
    scope: str,
    pattern: Pattern,
    overrides: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """Units to remove from each weight, for every scope but global and sensitivity.

    **Arguments:**

    - `amount`: fraction that goes. "local" rounds it layer by layer; "uniform" (first layer dense), "er" and "erk" meet
      it in total, to the unit.
    - `overrides`: {weight name: fraction} of weights that the scope leaves alone.

    **Raises:** `PodarError`: a layer would lose everything, or the total cannot be met.
    """
    overrides = overrides or {}
    units = {w.name: unit_count(w, pattern) for w in weights}
    fixed = {n: round(a * units[n]) for n, a in overrides.items()}
    free = [w for w in weights if w.name not in overrides]
    if scope == "local":
        counts = {w.name: round(amount * units[w.name]) for w in free}
    elif scope == "uniform":
        counts = _uniform(free, units, amount)
    else:
        counts = _erdos_renyi(free, units, amount, kernel=scope == "erk")
    counts = {w.name: {**counts, **fixed}[w.name] for w in weights}
    for name, count in counts.items():
        if count >= units[name]:
            blocks = " blocks" if isinstance(pattern, BlockPattern) else ""
            raise PodarError(
                f"{name} has so few weights ({units[name]}{blocks}) that "
                f"{overrides.get(name, amount):g} removes them all: lower the amount, or "
                f"{leave_dense(name.rpartition('.')[0] or name)}"
            )
    return counts


def _uniform(weights: list[Weight], units: Mapping[str, int], amount: float) -> dict[str, int]:
    """The first layer stays dense (Evci et al., 2020), the others lose equal fractions and meet the amount."""
    first, rest = weights[0].name, [w.name for w in weights[1:]]
    total, others = sum(units[w.name] for w in weights), sum(units[n] for n in rest)
    wanted = round(amount * total)
    if wanted >= others:
        raise PodarError(
            f"scope uniform leaves {first} dense, and the other layers have too few weights to reach {amount:g} "
            "without it: choose scope local or a lower amount"
        )
    shares = to_whole({n: wanted * units[n] / others for n in rest}, wanted, {n: units[n] for n in rest})
    return {first: 0, **shares}


def _erdos_renyi(weights: list[Weight], units: Mapping[str, int], amount: float, kernel: bool) -> dict[str, int]:
    """Densities in proportion to (in + out) / (in · out), with the kernel's sides in sum and product for "erk"
    (Mocanu et al., 2018; Evci et al., 2020). Layers whose share would pass 1 stay dense."""
    total = sum(units[w.name] for w in weights)
    keep = total - round(amount * total)
    raw = {}
    for w in weights:
        shape = w.parameter.shape
        sides = list(shape) if kernel else [shape[w.axes[0]], shape[w.axes[1]]]
        raw[w.name] = sum(sides) / float(np.prod(sides))
    dense: set[str] = set()
    while True:
        room = keep - sum(units[n] for n in dense)
        weight = sum(raw[w.name] * units[w.name] for w in weights if w.name not in dense)
        scale = room / weight if weight else 0.0
        full = {w.name for w in weights if w.name not in dense and scale * raw[w.name] > 1}
        if not full:
            break
        dense |= full
    kept = {w.name: float(units[w.name]) if w.name in dense else scale * raw[w.name] * units[w.name] for w in weights}
    whole = to_whole(kept, keep, units)
    return {n: units[n] - k for n, k in whole.items()}


def to_whole(shares: Mapping[str, float], total: int, most: Mapping[str, int]) -> dict[str, int]:
    """Whole numbers near `shares` that sum to `total`, each at most `most`: the largest remainders are rounded up."""
    whole = {n: min(int(s), most[n]) for n, s in shares.items()}
    order = sorted(shares, key=lambda n: whole[n] - shares[n])
    missing = total - sum(whole.values())
    while missing > 0:
        before = missing
        for n in order:
            if missing and whole[n] < most[n]:
                whole[n] += 1
                missing -= 1
        if missing == before:
            break
    return whole
