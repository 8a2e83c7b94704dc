"""Rules for complex numbers: pairs (real, imaginary) in a last axis of 2, as rotary positions use."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

from torch import Tensor

from podar.graph.operators.arithmetic import join
from podar.graph.tracing.tracer import Tracer, rule


@rule("view_as_complex", "view_as_complex_copy")
def view_as_complex(tracer: Tracer, out: Tensor, x: Tensor) -> None:
    """The last axis, of size 2, becomes one number: both halves stay."""
    last = x.dim() - 1
    tracer.freeze(tracer.axis(x, last), "real and imaginary parts of")
    tracer.put(out, tuple(b for b in tracer.blocks(x) if last not in b[0]), tracer.mark(x).zero)


@rule("view_as_real", "view_as_real_copy")
def view_as_real(tracer: Tracer, out: Tensor, x: Tensor) -> None:
    """One number becomes a pair, in a new last axis without labels."""
    tracer.put(out, tracer.blocks(x), tracer.mark(x).zero)


@rule("complex", "polar")
def pair(tracer: Tracer, out: Tensor, a: Tensor, b: Tensor) -> None:
    zero = tracer.mark(a).zero and (tracer.operator == "polar" or tracer.mark(b).zero)
    tracer.put(out, join(tracer, out, [a, b]), zero)


@rule("_conj", "conj", "_conj_physical", "conj_physical", "resolve_conj", "resolve_neg", "real", "imag", "angle",
      "_neg_view")  # fmt: skip
def part(tracer: Tracer, out: Tensor, x: Tensor, *_: Any) -> None:
    tracer.put(out, tracer.blocks(x), tracer.mark(x).zero)
