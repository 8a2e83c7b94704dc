"""Modules that rehearse quantisation, fake-quantisers and observers of torch.ao and torchao, are one operator each.

They round each value by itself, and zero stays zero. What they know of a channel (scale, zero point, range) goes with
it; ranges of whole tensors are over what remains, from the next forward on.
"""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from podar.graph.operators import shapes
from podar.graph.operators.computed_weights import rows_and_columns
from podar.graph.operators.register import operator
from podar.graph.operators.tracer import Tracer
from podar.model.quantizers import is_by_index, operator_of


@operator("fake_quantize", shape=shapes.same, whole=True)
@operator("observe", shape=shapes.unchanged, whole=True)
def rehearsed(tracer: Tracer, out: Any, x: Tensor, axis: int, *own: Tensor) -> None:
    """Index by index; `axis` is the one of channels, −1 where there is none, and `own` is what is known of these."""
    if tracer.mark(x).fresh:
        rows_and_columns(tracer, x)
    if 0 <= axis < x.dim():
        ids = tracer.axis(x, axis)
        for tensor in own:
            if tensor.dim() == 1 and len(tensor) == x.shape[axis] > 1:
                tracer.meet(ids, tensor, 0)
    if isinstance(out, Tensor) and out is not x:
        tracer.put(out, tracer.blocks(x), tracer.mark(x).zero)


@operator("fake_quantize_in_groups", shape=shapes.same, whole=True)
def in_groups(tracer: Tracer, out: Any, x: Tensor, axis: int, *own: Tensor) -> None:
    """Nothing goes where the borders of groups would move."""
    if tracer.mark(x).fresh:
        rows_and_columns(tracer, x)
    tracer.freeze_all(
        x,
        f"rounded in groups, or by a range that is learned, at {tracer.where}: prune first, and prepare the model for "
        "training in whole numbers afterwards",
    )


def as_a_quantizer(whole: Callable[..., Any], module: nn.Module, call: Callable[..., Any]) -> Callable[..., Any]:
    """What to call instead of a fake-quantiser or an observer; `whole(function, name, args)` runs it as one operator.

    Other modules are called as they are.
    """
    name = operator_of(type(module))
    if not name:
        return call
    if not is_by_index(module):
        name = "fake_quantize_in_groups"

    def alone(x: Tensor, *_: Any) -> Any:
        return call(x)

    def one(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return call(x)
        own = [*module.parameters(), *module.buffers()]
        return whole(alone, name, (x, int(getattr(module, "ch_axis", -1)), *own))

    return one
