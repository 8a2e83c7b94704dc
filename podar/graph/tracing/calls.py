"""Shows the tracer each call as Python wrote it, and hands out sizes that remember where they come from."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import functools
import operator as operators
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from podar.graph.operators.register import OPERATORS, Operator
from podar.graph.operators.statistics import means_among
from podar.graph.operators.tracer import Tracer
from podar.graph.sizes import Axis, Size
from podar.graph.tracing.chance import DROPPED, is_dropping
from podar.graph.tracing.decisions import CONVERSIONS
from podar.graph.tracing.dispatch import Dispatch
from podar.graph.tracing.functionals import bodies
from podar.graph.tracing.shapes import Shape, product, sizes_among, strides

NAMES = {"_weight_norm": "_weight_norm_interface"}
"""Calls that are traced as one operator, whichever operators torch computes them with: their name in the trace."""

CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
DEFAULTS = (None, None, None, 1, 0, 1, 1)
"""The defaults of their arguments: input, weight, bias, stride, padding, dilation, groups."""

ASKED = {"__get__", "size", "numel", "nelement", "stride", "__len__"}
"""Questions about a tensor's shape."""

FILLED = {"full": 1, "new_full": 2}
"""Functions that fill a new tensor, and at which place they take the value. What stands before it is a shape; the value
is a number that the model computes with, even where it is the same size."""

DIVISIONS = {"div", "div_", "true_divide", "__truediv__", "__itruediv__"}
"""Functions that may turn a sum into a mean: a sum that is divided by the size of its axis is a mean."""

TENSORS = frozenset((Tensor, nn.Parameter))

LIBRARIES = (torch._ops.OpOverload, torch._ops.OpOverloadPacket)  # pyright: ignore[reportPrivateUsage]
"""Operators called by `torch.ops.library.name`: one may have the name of one of torch's own and mean something else."""

push = torch._C._push_on_torch_function_stack  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
pop = torch._C._pop_torch_function_stack  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


class Known(NamedTuple):
    """What is known of a function before it is called.

    **Attributes:**

    - `name`: its name, by which rules are found; none for operators of other libraries.
    - `body`: what runs in its place, so that the calls inside it are seen.
    - `operator`: what is declared of that name.
    - `asks`, `divides`, `convolves`, `drops`, `converts`: what kind of call it is.
    """

    name: str
    body: Callable[..., Any] | None
    operator: Operator | None
    asks: bool
    divides: bool
    convolves: bool
    drops: bool
    converts: bool


class Calls(TorchFunctionMode):
    """Stands above the dispatch: shows rules the call as Python wrote it, and hands out sizes that remember.

    While it is active, torch.nn takes no fused path: one operator for a whole encoder layer would tell nothing.
    """

    shows_calls_to_a_trace = True
    """By this a trace inside this one knows the mode (podar/model/nested_traces.py)."""

    def __init__(self, run: Dispatch, train: bool = False) -> None:
        super().__init__()
        self.run, self.tracer = run, run.tracer
        self.functions: dict[Any, Known] = {}
        self.bodies = bodies(train)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = self.functions.get(func) or self.known(func)
        if known.body is None:
            return self.called(func, known, args, kwargs)
        push(self)  # the calls inside the body come here again
        try:
            return known.body(*args, **kwargs)
        finally:
            pop()

    def known(self, func: Any) -> Known:
        """What is known of a function."""
        found = self.functions.get(func)
        if found is None:
            name = "" if isinstance(func, LIBRARIES) else getattr(func, "__name__", "")
            name = NAMES.get(name, name)
            kinds = [name in kind for kind in (ASKED, DIVISIONS, CONVOLUTIONS)]
            kinds += [name.removesuffix("_") in DROPPED, name in CONVERSIONS]
            found = self.functions[func] = Known(name, self.bodies.get(func), OPERATORS.get(name), *kinds)
        return found

    def called(self, func: Any, known: Known, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Carry out one call that has no body in Python. Sizes among the numbers that it is given are noted."""
        tracer, name = self.tracer, known.name
        if tracer is None:
            return self.handled(func, known, args, kwargs)
        if known.asks:
            return self.asked(tracer, func, name, args, kwargs)
        found = sizes_among(args)
        if kwargs:
            found += sizes_among(kwargs.values())
        if not found:
            return self.handled(func, known, args, kwargs)
        understood = tracer.sizes.understood
        understood.clear()
        divided = known.divides and isinstance(args[0], Tensor) and not kwargs
        summed = tracer.mark(args[0]).summed if divided else ()
        result = self.handled(func, known, args, kwargs)
        if name == "__getitem__":
            found = _indices(tracer, *args)
        numbers = [s for s in found if id(s) not in understood]
        if name in FILLED:
            numbers += sizes_among([kwargs.get("fill_value"), *args[FILLED[name] :]])
        if summed:
            numbers = means_among(tracer, summed, result, numbers)
        if numbers:
            tracer.used_as_numbers(numbers, name)
        return result

    def asked(self, tracer: Tracer, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The answer to a question about a tensor's shape, with sizes that remember where they come from."""
        value = func(*args, **kwargs)
        if name == "__get__":
            if type(value) is torch.Size:
                return Shape(_sizes(tracer, args[0]))
            if type(value) is int and getattr(getattr(func, "__self__", None), "__name__", "") == "nbytes":
                return product(_sizes(tracer, args[0])) * args[0].element_size()
            return value
        sizes = _sizes(tracer, args[0])
        if name == "__len__":  # Python makes a plain int of it, which cannot follow a cut, so the size has to stay
            if isinstance(sizes[0], Size):
                sizes[0].forgotten()
            return value
        if name in ("numel", "nelement"):
            return product(sizes)
        found = Shape(sizes) if name == "size" else strides(args[0], sizes)
        where = args[1] if len(args) > 1 else kwargs.get("dim")
        return found if where is None else found[where]

    def handled(self, func: Any, known: Known, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call as the tracer sees it: whole, or by the operators that it falls into."""
        operator, run = known.operator, self.run
        if operator is not None:
            if operator.whole:
                args, kwargs = _in_order(operator, args, kwargs)
                return run.whole(func, known.name, args, kwargs)
            if operator.direct and not kwargs and TENSORS.issuperset(map(type, args)):
                return run.whole(func, known.name, args, kwargs)
        if known.drops and is_dropping(args, kwargs):
            undropped = _undropped_in_place if known.name.endswith("_") else _undropped
            return run.whole(undropped, known.name, args[:1], {})
        if known.converts and run.is_hollow(args[0]):
            return run.decided(Operator(known.name), [args[0]], functools.partial(func, *args, **kwargs))
        given = _convolution(args, kwargs) if known.convolves else None
        if self.tracer is None:
            return func(*args, **kwargs) if given is None else run.whole(torch.convolution, "convolution", given, {})
        self.tracer.call = (func, args, kwargs)  # rules can look at the call while it runs
        try:
            return func(*args, **kwargs) if given is None else run.whole(torch.convolution, "convolution", given, {})
        finally:
            self.tracer.call = None


def _in_order(
    operator: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a whole call; those that were given by name follow the others in their order."""
    given = [k for k in operator.arguments[len(args) :] if k in kwargs] if kwargs else ()
    if not given:
        return args, kwargs
    return (*args, *(kwargs[k] for k in given)), {k: v for k, v in kwargs.items() if k not in given}


def _indices(tracer: Tracer, x: Tensor, index: Any) -> list[Size]:
    """Sizes in an index that no rule looks at. (The rule for slices looks at indices of tensors that have labels.)"""
    mark = tracer.mark(x)
    plain = [i for i in (index if isinstance(index, tuple) else (index,)) if not isinstance(i, Tensor)]
    if mark.blocks or mark.fresh:
        plain = [i.step if type(i) is slice else i for i in plain]
    return sizes_among(plain)


def _sizes(tracer: Tracer, tensor: Tensor) -> list[int]:
    """The sizes of a tensor; those that can change remember where they come from."""
    values: list[int] = list(torch.Tensor.size(tensor))
    if tracer.is_known(tensor):
        for dims, ids in tracer.blocks(tensor):
            for k, d in enumerate(dims):
                values[d] = Size(values[d], Axis(ids, k), tracer.sizes)
    return values


def _convolution(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    """The arguments of the one operator behind all convolutions; None where torch computes more than that."""
    if kwargs or len(args) < 2:
        return None
    given: tuple[Any, ...] = (*args, *DEFAULTS[len(args) :])
    x, w, bias, stride, padding, dilation, groups = given
    if x.dim() != w.dim() or isinstance(padding, str):  # no batch axis, or padding given by name
        return None
    stride = [stride] if isinstance(stride, int) else stride
    padding = [padding] if isinstance(padding, int) else padding
    dilation = [dilation] if isinstance(dilation, int) else dilation
    return x, w, bias, stride, padding, dilation, False, [0], operators.index(groups)


def _undropped(x: Tensor) -> Tensor:
    return x.clone()


def _undropped_in_place(x: Tensor) -> Tensor:
    return x
