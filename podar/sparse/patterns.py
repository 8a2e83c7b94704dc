"""Sparsity patterns: single weights, N of every M inputs, blocks of outputs × inputs."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from podar.errors import PodarError, UsageError
from podar.sparse.layers import Weight, leave_dense


@dataclass(frozen=True)
class Unstructured:
    """Every weight for itself."""

    def __str__(self) -> str:
        return "unstructured"


@dataclass(frozen=True)
class NofM:
    """`kept` of every `of` consecutive inputs stay, for each output and kernel position."""

    kept: int
    of: int

    def __str__(self) -> str:
        return f"{self.kept}:{self.of}"

    @property
    def amount(self) -> float:
        """The fraction that goes."""
        return 1 - self.kept / self.of


@dataclass(frozen=True)
class BlockPattern:
    """`outputs` × `inputs` weights at one kernel position stay or go together."""

    outputs: int
    inputs: int

    def __str__(self) -> str:
        return f"{self.outputs}x{self.inputs}"

    @property
    def size(self) -> int:
        """Weights in a block."""
        return self.outputs * self.inputs


Pattern = Unstructured | NofM | BlockPattern


def parse_pattern(pattern: str | Pattern) -> Pattern:
    """Read "unstructured", "2:4" (2 of 4 inputs stay) or "4x1" (blocks of 4 outputs × 1 input; "4×1" too).

    **Raises:** `UsageError`: anything else, or an N:M without 0 < N < M.

    ```python
    parse_pattern("2:4")
    NofM(kept=2, of=4)
    ```
    """
    if not isinstance(pattern, str):
        return pattern
    text = pattern.strip().lower()
    if text == "unstructured":
        return Unstructured()
    if found := re.fullmatch(r"(\d+):(\d+)", text):
        kept, of = int(found[1]), int(found[2])
        if not 0 < kept < of:
            raise UsageError(f"pattern {pattern!r}: N:M keeps N of every M weights, so it needs 0 < N < M, as in 2:4")
        return NofM(kept, of)
    if found := re.fullmatch(r"(\d+)[x×](\d+)", text):
        block = BlockPattern(int(found[1]), int(found[2]))
        if not block.outputs or not block.inputs:
            raise UsageError(f"pattern {pattern!r}: a block has at least one output and one input, as in 4x1")
        return block if block.size > 1 else Unstructured()
    raise UsageError(
        f"there is no sparsity pattern {pattern!r}: write unstructured, N:M such as 2:4 (2 of 4 inputs stay), "
        "or a block of outputs x inputs such as 4x1"
    )


def check_divides(weights: list[Weight], pattern: Pattern) -> None:
    """Refuse a pattern that does not fit some weight, and name the layers to protect.

    **Raises:** `PodarError`: the first size that clashes and every layer where one does.
    """
    clashes: list[tuple[Weight, str]] = []
    for weight in weights:
        if isinstance(pattern, NofM) and weight.inputs % pattern.of:
            clashes.append((weight, f"{weight.inputs} inputs, which {pattern.of} does not divide"))
        elif isinstance(pattern, BlockPattern):
            outputs = weight.parameter.shape[weight.axes[0]]
            if weight.inputs % pattern.inputs:
                clashes.append((weight, f"{weight.inputs} inputs, which {pattern.inputs} does not divide"))
            elif outputs % pattern.outputs:
                clashes.append((weight, f"{outputs} outputs, which {pattern.outputs} does not divide"))
    if clashes:
        weight, why = clashes[0]
        layers = list(dict.fromkeys(w.layer or w.name for w, _ in clashes))
        raise PodarError(f"pattern {pattern} does not fit {weight.name}: it has {why}; {leave_dense(*layers)}")


def units_of(weight: Weight, scores: Tensor, pattern: Pattern) -> Tensor:
    """Scores of what is removed together, flat: each weight's, or each block's sum."""
    if not isinstance(pattern, BlockPattern):
        return scores.flatten()
    return block_sums(weight.matrix(scores), pattern).flatten()


def block_sums(matrix: Tensor, pattern: BlockPattern) -> Tensor:
    """Sums over the blocks of a matrix (outputs, columns): (outputs / block.outputs, columns / block.inputs)."""
    rows, columns = matrix.shape
    return matrix.view(rows // pattern.outputs, pattern.outputs, columns // pattern.inputs, pattern.inputs).sum(
        dim=(1, 3)
    )


def mask_of_units(weight: Weight, kept: Tensor, pattern: Pattern) -> Tensor:
    """A boolean mask of the weight's shape from flat booleans, one a unit."""
    shape = weight.parameter.shape
    if not isinstance(pattern, BlockPattern):
        return kept.view(shape)
    rows = shape[weight.axes[0]]
    blocks = kept.view(rows // pattern.outputs, -1)
    return weight.unmatrix(blocks.repeat_interleave(pattern.outputs, 0).repeat_interleave(pattern.inputs, 1))


def n_of_m_mask(matrix: Tensor, pattern: NofM) -> Tensor:
    """Keep the `kept` largest of every `of` consecutive columns, the first ones among equals: boolean, same shape."""
    groups = matrix.reshape(-1, pattern.of)
    order = groups.sort(dim=1, descending=True, stable=True).indices[:, : pattern.kept]
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order, True)
    return mask.view(matrix.shape)


def follows(weight: Weight, mask: Tensor, pattern: Pattern) -> bool:
    """Whether a mask keeps to a pattern: at most N of each M inputs, or whole blocks only."""
    matrix = weight.matrix(mask.bool())
    if isinstance(pattern, NofM):
        return bool((matrix.reshape(-1, pattern.of).sum(dim=1) <= pattern.kept).all())
    if isinstance(pattern, BlockPattern):
        sums = block_sums(matrix.long(), pattern)
        return bool(((sums == 0) | (sums == pattern.size)).all())
    return True
