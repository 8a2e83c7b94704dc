"""Complex numbers: pairs (real, imaginary) in a last axis of 2, as rotary positions use."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

from torch import Tensor

from podar.graph.operators.elementwise import join
from podar.graph.operators.register import ALL, FIRST, operator
from podar.graph.operators.tracer import Tracer


@operator("view_as_complex view_as_complex_copy", zero=FIRST, scales=FIRST)
def view_as_complex(tracer: Tracer, out: Tensor, x: Tensor) -> None:
    """The last axis, of size 2, becomes one number: both halves stay."""
    last = x.dim() - 1
    tracer.freeze(tracer.axis(x, last), "real and imaginary parts of")
    tracer.put(out, tuple(b for b in tracer.blocks(x) if last not in b[0]), tracer.mark(x).zero)


@operator("view_as_real view_as_real_copy", zero=FIRST, scales=FIRST)
def view_as_real(tracer: Tracer, out: Tensor, x: Tensor) -> None:
    """One number becomes a pair, in a new last axis without labels."""
    tracer.put(out, tracer.blocks(x), tracer.mark(x).zero)


@operator("complex", zero=ALL)
@operator("polar", zero=FIRST)
def pair(tracer: Tracer, out: Tensor, a: Tensor, b: Tensor) -> None:
    """Real and imaginary part, or length and angle, meet index by index."""
    tracer.put(out, join(tracer, out, [a, b]), tracer.zero(a, b))


@operator(
    "_conj conj _conj_physical conj_physical resolve_conj resolve_neg real imag _neg_view", zero=FIRST, scales=FIRST
)
@operator("angle", zero=FIRST)
def part(tracer: Tracer, out: Tensor, x: Tensor, *_: Any) -> None:
    """Each number by itself; zero stays zero."""
    tracer.put(out, tracer.blocks(x), tracer.mark(x).zero)
