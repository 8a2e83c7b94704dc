"""Layers left out by sensitivity: one at a time back to float, ranked by what each gives, until the budget holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from podar.quantization.result import Row

_MOST = 64  # layers that are tried one by one; of longer networks, ever so many neighbours at a time


def left_out_until(
    layers: Sequence[str], judged: Callable[[Sequence[str], bool], Row], told: Callable[[int, int], None]
) -> tuple[str, ...] | None:
    """Find layers whose return to float lets an encoding keep the budget.

    Each layer alone is put back first; those whose return leaves the smallest error then go back together, the best
    first, one more each time; what turns out not to be needed returns.

    **Arguments:** `judged(left_out, ranking)`: builds the encoding without these layers; while layers are ranked their
    error is all that must be known. `told(done, total)`: progress.

    **Returns:** The layers, or None where nothing helps before all are float.
    """
    pieces = _pieces(layers)
    errors: list[float] = []
    for at, piece in enumerate(pieces):
        told(at, len(pieces))
        row = judged(piece, True)
        if row.keeps:
            return tuple(piece)
        errors.append(float("inf") if row.error is None else row.error)
    ranked = [pieces[at] for at in sorted(range(len(pieces)), key=errors.__getitem__)]
    gone: list[Sequence[str]] = []
    for at, piece in enumerate(ranked[:-1]):
        told(at, len(ranked))
        gone.append(piece)
        if judged(_joined(gone), False).keeps:
            return _needed(gone, judged)
    return None


def _needed(gone: list[Sequence[str]], judged: Callable[[Sequence[str], bool], Row]) -> tuple[str, ...]:
    """Those without which the budget breaks: one may have helped only together with another that came later."""
    for piece in list(gone):
        fewer = [other for other in gone if other is not piece]
        if fewer and judged(_joined(fewer), False).keeps:
            gone = fewer
    return _joined(gone)


def _joined(pieces: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(name for piece in pieces for name in piece)


def _pieces(layers: Sequence[str]) -> list[Sequence[str]]:
    """Neighbouring layers together, so that there are not too many to try."""
    several = -(-len(layers) // _MOST)
    return [layers[k : k + several] for k in range(0, len(layers), several)] if layers else []
