"""Shows the tracer each call as Python wrote it, and hands out sizes that remember where they come from."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import functools
import operator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from podar.graph.operators.statistics import means_among
from podar.graph.sizes import Axis, Size
from podar.graph.tracing.chance import is_dropping
from podar.graph.tracing.decisions import CONVERSIONS
from podar.graph.tracing.functionals import bodies
from podar.graph.tracing.shapes import Shape, product, sizes_among, strides
from podar.graph.tracing.tracer import Tracer

_RECURRENT = """lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell _pack_padded_sequence
_pad_packed_sequence""".split()
WHOLE = {
    "linear",
    "batch_norm",
    "rms_norm",
    "scaled_dot_product_attention",
    "einsum",
    "_weight_norm_interface",
    "_sparse_mm",
    *_RECURRENT,
}
"""Traced as Python calls them: what they fall into depends on the machine and on sizes of 1."""

NAMES = {"_weight_norm": "_weight_norm_interface"}
"""Calls that are one operator, by whatever others torch computes it."""

_SAME = "relu leaky_relu elu sigmoid tanh silu gelu mish hardswish hardsigmoid add mul".split()
SAME = {*_SAME, *(f"{name}_" for name in _SAME)}
"""With tensors alone, these are operators of the same name and arguments: there is no need to wait for them."""

CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
DEFAULTS = (None, None, None, 1, 0, 1, 1)
"""Of their arguments: input, weight, bias, stride, padding, dilation, groups."""

ASKED = {"__get__", "size", "numel", "nelement", "stride", "__len__"}
"""Questions about a tensor's shape."""

FILLED = {"full": 1, "new_full": 2}
"""The place of a value beside sizes that are one's own: the same size may stand for both."""

DIVISIONS = {"div", "div_", "true_divide", "__truediv__", "__itruediv__"}
"""A sum divided by the size of its axis is a mean."""

LIBRARIES = (torch._ops.OpOverload, torch._ops.OpOverloadPacket)  # pyright: ignore[reportPrivateUsage]
"""Operators called by `torch.ops.library.name`: one may have the name of one of torch's own and mean something else."""

LEADING = {
    "linear": ("input", "weight", "bias"),
    "scaled_dot_product_attention": ("query", "key", "value", "attn_mask"),
    "batch_norm": ("input", "weight", "bias", "running_mean", "running_var"),
}
"""Arguments that may be given by name, in their order."""


push = torch._C._push_on_torch_function_stack  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
pop = torch._C._pop_torch_function_stack  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


class Calls(TorchFunctionMode):
    """Stands above the dispatch: shows rules the call as Python wrote it, and hands out sizes that remember.

    While it does, torch.nn takes none of its fused paths (one operator for a whole encoder layer would tell nothing).
    """

    shows_calls_to_a_trace = True
    """By this a trace inside this one knows the mode (podar/model/nested_traces.py)."""

    def __init__(self, tracer: Tracer, train: bool = False) -> None:
        super().__init__()
        self.tracer = tracer
        self.names: dict[Any, str] = {}
        self.bodies = bodies(train)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        body = self.bodies.get(func)
        if body is not None:
            push(self)  # what the body calls comes here again
            try:
                return body(*args, **kwargs)
            finally:
                pop()
        name = self.names.get(func)
        if name is None:
            name = "" if isinstance(func, LIBRARIES) else getattr(func, "__name__", "")
            self.names[func] = name = NAMES.get(name, name)
        if not self.tracer.rules:
            return self.handled(func, name, args, kwargs)
        if name in ASKED:
            return self.asked(func, name, args, kwargs)
        found = sizes_among(args)
        if kwargs:
            found += sizes_among(kwargs.values())
        if not found:
            return self.handled(func, name, args, kwargs)
        understood = self.tracer.sizes.understood
        understood.clear()
        divided = name in DIVISIONS and isinstance(args[0], Tensor) and not kwargs
        summed = self.tracer.mark(args[0]).summed if divided else ()
        result = self.handled(func, name, args, kwargs)
        if name == "__getitem__":
            found = self.indices(*args)
        numbers = [s for s in found if id(s) not in understood]
        if name in FILLED:
            numbers += sizes_among([kwargs.get("fill_value"), *args[FILLED[name] :]])
        if summed:
            numbers = means_among(self.tracer, summed, result, numbers)
        self.tracer.used_as_numbers(numbers, name)
        return result

    def indices(self, x: Tensor, index: Any) -> list[Size]:
        """Sizes in an index that no rule looks at: the rule for slices knows those of what has labels."""
        mark = self.tracer.mark(x)
        plain = [i for i in (index if isinstance(index, tuple) else (index,)) if not isinstance(i, Tensor)]
        if mark.blocks or mark.fresh:
            plain = [i.step if type(i) is slice else i for i in plain]
        return sizes_among(plain)

    def asked(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a tensor says of its shape."""
        value = func(*args, **kwargs)
        if name == "__get__":
            if type(value) is torch.Size:
                return Shape(self.sizes(args[0]))
            if type(value) is int and getattr(getattr(func, "__self__", None), "__name__", "") == "nbytes":
                return product(self.sizes(args[0])) * args[0].element_size()
            return value
        sizes = self.sizes(args[0])
        if name == "__len__":  # Python makes it a plain int: as a size it would have to stay
            if isinstance(sizes[0], Size):
                sizes[0].forgotten()
            return value
        if name in ("numel", "nelement"):
            return product(sizes)
        found = Shape(sizes) if name == "size" else strides(args[0], sizes)
        where = args[1] if len(args) > 1 else kwargs.get("dim")
        return found if where is None else found[where]

    def handled(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call as the tracer sees it: whole, or by the operators that it falls into."""
        if name in WHOLE:
            given = [k for k in LEADING.get(name, ())[len(args) :] if k in kwargs]
            if given:
                args, kwargs = (*args, *(kwargs[k] for k in given)), {k: v for k, v in kwargs.items() if k not in given}
            return self.tracer.whole(func, name, args, kwargs)
        if is_dropping(name, args, kwargs):
            return self.tracer.whole(_undropped_in_place if name.endswith("_") else _undropped, name, args[:1], {})
        if name in SAME and not kwargs and all(isinstance(a, Tensor) for a in args):
            return self.tracer.whole(func, name, args, kwargs)
        if name in CONVOLUTIONS:
            given = _convolution(args, kwargs)
            if given is not None:
                self.tracer.call = (func, args, kwargs)
                try:
                    return self.tracer.whole(torch.convolution, "convolution", given, {})
                finally:
                    self.tracer.call = None
        if name in CONVERSIONS and self.tracer.is_hollow(args[0]):
            return self.tracer.decided(name, [args[0]], functools.partial(func, *args, **kwargs))
        if not self.tracer.rules:
            return func(*args, **kwargs)
        self.tracer.call = (func, args, kwargs)
        try:
            return func(*args, **kwargs)
        finally:
            self.tracer.call = None

    def sizes(self, tensor: Tensor) -> list[int]:
        values: list[int] = list(torch.Tensor.size(tensor))
        mark = self.tracer.known(tensor)
        if mark is None and id(tensor) in self.tracer.named:
            mark = self.tracer.mark(tensor)
        if mark is not None:
            for dims, ids in self.tracer.blocks(tensor):
                for k, d in enumerate(dims):
                    values[d] = Size(values[d], Axis(ids, k), self.tracer.sizes)
        return values


def _convolution(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    """The arguments of the one operator behind all convolutions; None where torch computes more than that."""
    if kwargs or len(args) < 2:
        return None
    given: tuple[Any, ...] = (*args, *DEFAULTS[len(args) :])
    x, w, bias, stride, padding, dilation, groups = given
    if x.dim() != w.dim() or isinstance(padding, str):  # a picture without a batch; sides that are padded apart
        return None
    stride, padding, dilation = ([v] if isinstance(v, int) else v for v in (stride, padding, dilation))
    return x, w, bias, stride, padding, dilation, False, [0], operator.index(groups)


def _undropped(x: Tensor) -> Tensor:
    return x.clone()


def _undropped_in_place(x: Tensor) -> Tensor:
    return x
