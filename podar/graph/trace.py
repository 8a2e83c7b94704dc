"""Runs the model once and records how labels flow from operator to operator."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import functools
import gc
import operator
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from podar.graph import hollow
from podar.graph.inputs import ExampleInputs, call, example_tensors, named_tensors
from podar.graph.labels import Ids, Labels
from podar.graph.makers import Bits, Makers, makers
from podar.graph.members import Named, modules_of, once, tensors_of
from podar.graph.protect import protected
from podar.graph.sizes import Axis, Provenance, Size

Block = tuple[tuple[int, ...], Ids]
"""Tensor dimensions, in nesting order, and the labels over them: shape = the sizes of those dimensions."""

Blocks = tuple[Block, ...]


class Mark:
    """What a trace knows of one tensor: its labels, and whether a removed index is exactly zero in it."""

    __slots__ = ("blocks", "fresh", "hollow", "makers", "needs", "squared", "storage", "zero")

    def __init__(
        self,
        blocks: Blocks = (),
        zero: bool = False,
        hollow: bool = False,
        storage: int = -1,
        makers: Makers = (),
        needs: int = 0,
    ) -> None:
        self.blocks = blocks
        self.zero = zero
        self.hollow = hollow
        self.storage = storage
        self.makers = makers
        self.needs = needs
        self.squared = False
        self.fresh = False  # a parameter or buffer that no rule has looked at yet


class Step(NamedTuple):
    """One operator of the trace: what verification compares, and what memory planning needs."""

    name: str
    module: str
    shapes: tuple[tuple[int, ...], ...]
    blocks: tuple[Blocks, ...]
    constants: tuple[float, ...]
    reads: tuple[int, ...]
    writes: tuple[tuple[int, int], ...]  # (storage, bytes) allocated here


@dataclass(frozen=True)
class Product:
    """Multiply-accumulates of one operator: `count` in the dense model, in proportion to each axis in `axes`."""

    module: str
    count: int
    axes: tuple[Ids, ...]


@dataclass
class Record:
    """All that one trace learned; `podar.graph.graph` makes the Graph of it."""

    labels: Labels = field(default_factory=Labels)
    sizes: Provenance = field(default_factory=Provenance)
    layouts: dict[str, dict[int, Ids]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    scales: list[tuple[str, Ids, tuple[Makers, ...]]] = field(default_factory=list)  # (module, width, q's and k's)
    spilled: list[tuple[Makers, Blocks]] = field(default_factory=list)  # what else reads the products of these makers
    ties: list[tuple[Ids, ...]] = field(default_factory=list)
    outputs: list[tuple[str, Blocks]] = field(default_factory=list)
    real: bool = False  # whether operators had to be computed
    decisions: list[tuple[str, tuple[tuple[int, ...], ...], Any]] = field(default_factory=list)  # values it looked at


RULES: dict[str, Callable[..., None]] = {}


def rule(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a rule for ATen operators: `rule(tracer, out, *args, **kwargs)` labels `out` and records relations.

    Example:
        >>> @rule("my_ops::scale_channels")
        ... def scale_channels(tracer, out, x, factor):
        ...     tracer.put(out, tracer.blocks(x), zero=tracer.mark(x).zero)
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


WHOLE = {"linear", "batch_norm", "rms_norm", "scaled_dot_product_attention", "einsum"} | {
    "lstm",
    "gru",
    "rnn_tanh",
    "rnn_relu",
}
"""Traced as Python calls them: what they fall into depends on the machine and on sizes of 1."""

LEADING = {
    "linear": ("input", "weight", "bias"),
    "scaled_dot_product_attention": ("query", "key", "value", "attn_mask"),
    "batch_norm": ("input", "weight", "bias", "running_mean", "running_var"),
}
"""Arguments that may be given by name, in their order."""

CREATES = {"zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "rand", "randn"} | {
    "expand",
    "repeat",
}
"""Operators that label their result by the sizes that were asked for, whatever enters."""

COUNTS = {"convolution", "linear", "mm", "addmm", "bmm", "baddbmm", "scaled_dot_product_attention", "einsum"}
"""Operators whose multiplications count, even where nothing that enters has labels."""


class Tracer(TorchDispatchMode):
    """Sees every ATen call, executes it (hollow where values do not matter), and applies the operator's rule."""

    def __init__(self, modules: Named, record: Record, real: bool, rules: bool = True) -> None:
        super().__init__()
        self.rules = rules
        self.record, self.labels, self.sizes, self.real = record, record.labels, record.sizes, real
        self.modules = {id(module): name for name, module in once(modules)}
        self.stack: list[str] = [""]
        self.sizes.place = lambda: self.stack[-1] or "the model's forward"
        self.call: tuple[Any, tuple[Any, ...], dict[str, Any]] | None = None
        self.storages = 0
        self.marked: list[Tensor] = []
        self.named: dict[int, str] = {}
        self.tensors = tensors_of(modules)
        for name, tensor in self.tensors.items():
            self.named.setdefault(id(tensor), name)
        self.bits = Bits()
        self.vectors: set[tuple[str, int]] = set()
        self.decisions: list[tuple[str, tuple[tuple[int, ...], ...], Any]] | None = None
        self.operator = ""
        self.inside = False  # an operator that is traced as a whole
        self.factored: dict[int, tuple[Ids, list[Ids]]] = {}
        self.fixed: dict[int, tuple[bool, ...]] = {}
        self.rows: dict[Any, tuple[Ids, Ids]] = {}
        self._resolved: dict[Any, tuple[str, Callable[..., None] | None, Callable[..., Any] | None]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is compiled: spare every operator the wrapper that keeps the compiler out."""
        return False

    # What rules read

    @property
    def where(self) -> str:
        """The operator and module of the moment, for reasons that users read."""
        module = self.stack[-1]
        return f"{self.operator} in {module}" if module else self.operator

    def mark(self, tensor: Tensor) -> Mark:
        """What is known of a tensor."""
        mark = getattr(tensor, "_podar_mark", None)
        if mark is None:
            name, parameter = self.named.get(id(tensor)), _is_parameter(tensor)
            mark = self.attach(tensor, Mark(zero=name is not None, hollow=parameter))
            if name is not None and parameter:
                mark.makers, mark.needs = (name,), self.bits.add(name)
            mark.fresh = name is not None and self.rules
        return mark

    def layout(self, name: str, dim: int, size: int) -> Ids:
        dims = self.record.layouts.setdefault(name, {})
        if dim not in dims:
            dims[dim] = self.labels.fresh(size)
        elif dims[dim].ndim == 2:
            # A grouped convolution used this weight before: here every group has the same index.
            shared = self.labels.fresh(size)
            self.labels.equal(dims[dim], np.broadcast_to(shared, dims[dim].shape))
            return shared
        return dims[dim]

    def attach(self, tensor: Tensor, mark: Mark) -> Mark:
        tensor._podar_mark = mark  # type: ignore[attr-defined]
        self.marked.append(tensor)
        return mark

    def blocks(self, tensor: Tensor) -> Blocks:
        """Labels of a tensor; parameters and buffers get atoms on every axis when they are first looked at."""
        mark = self.mark(tensor)
        if mark.fresh:
            name = self.named[id(tensor)]
            mark.fresh = False
            mark.blocks = tuple(((d,), self.layout(name, d, n)) for d, n in enumerate(tensor.shape) if n > 1)
        return mark.blocks

    def labelled(self, *tensors: Any) -> bool:
        return any(isinstance(t, Tensor) and self.mark(t).blocks for t in tensors)

    def axis(self, tensor: Tensor, dim: int) -> Ids | None:
        """Labels along one dimension (a joint block is factored first), or None where nothing may go there."""
        dim %= tensor.dim()
        for dims, ids in self.blocks(tensor):
            if dim in dims:
                if len(dims) > 1:
                    self.split(tensor, dims)
                    return self.axis(tensor, dim)
                return ids
        return None

    def split(self, tensor: Tensor, dims: tuple[int, ...]) -> None:
        """Factor the joint block over `dims` into one block a dimension."""
        mark = self.mark(tensor)
        blocks: list[Block] = []
        for block in self.blocks(tensor):
            if block[0] != dims:
                blocks.append(block)
                continue
            blocks += self.factors(block)
        mark.blocks = tuple(sorted(blocks, key=lambda b: b[0]))

    def factors(self, block: Block) -> list[Block]:
        """A joint block as one block a dimension; the same array is factored once."""
        dims, ids = block
        if len(dims) == 1:
            return [block]
        if id(ids) not in self.factored:
            self.factored[id(ids)] = (ids, self.labels.factor(ids, self.fixed.get(id(ids))))
        return [((d,), a) for d, a in zip(dims, self.factored[id(ids)][1]) if a.any()]

    def owns_vector(self, size: int) -> bool:
        """Whether the module that runs has a vector of this length: the scale of a norm that is written by hand."""
        if not self.vectors:
            own = [(n, t) for n, t in self.tensors.items() if t.dim() == 1 and isinstance(t, nn.Parameter)]
            self.vectors = {(n.rpartition(".")[0], len(t)) for n, t in own}
        return (self.stack[-1], size) in self.vectors

    # What rules write

    def put(self, tensor: Tensor, blocks: Blocks, zero: bool = False) -> None:
        mark = self.mark(tensor)
        mark.blocks, mark.zero, mark.fresh = blocks, zero, False

    def equal(self, a: Ids | None, b: Ids | None) -> None:
        """Two axes meet: unify them; where one side has no labels the other one cannot change."""
        if a is not None and b is not None:
            self.labels.equal(a, b)
        elif a is not None or b is not None:
            self.freeze(a if a is not None else b, "meets an axis of fixed size at")

    def meet(self, ids: Ids | None, tensor: Tensor, dim: int) -> None:
        """An axis of activations meets one of a parameter: one never looked at before simply takes the same labels."""
        mark = self.mark(tensor)
        if ids is not None and mark.fresh and tensor.shape[dim] == len(ids) > 1:
            own = self.record.layouts.setdefault(self.named[id(tensor)], {}).setdefault(dim, ids)
            if own is ids and tensor.dim() == 1:
                mark.blocks, mark.fresh = (((0,), ids),), False
                return
        self.equal(ids, self.axis(tensor, dim))

    def freeze(self, ids: Ids | None, why: str) -> None:
        if ids is not None:
            self.labels.freeze(ids, f"{why} {self.where}")

    def balanced(self, ids: Ids, parts: int) -> None:
        """An axis of `parts` equal parts: each must lose equally many."""
        if parts > 1:
            self.sizes.grid(ids.reshape(parts, -1), (parts, None), self.where)

    def macs(self, count: int, *axes: Ids | None) -> None:
        self.record.products.append(Product(self.stack[-1], int(count), tuple(a for a in axes if a is not None)))

    def uniform(self, tensor: Tensor, dim: int) -> bool:
        """Whether a constant has the same values at every index of `dim`."""
        if self.mark(tensor).hollow:
            return False
        return bool((tensor == tensor.narrow(dim, 0, 1)).all())

    # Execution

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.inside:
            return func(*args, **(kwargs or {}))
        return self.observed(func, *self._resolve(func), args, kwargs or {})

    def whole(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a call of Python as one operator, whatever it is made of."""
        given = [k for k in LEADING.get(name, ())[len(args) :] if k in kwargs]
        if given:
            args, kwargs = (*args, *(kwargs[k] for k in given)), {k: v for k, v in kwargs.items() if k not in given}
        self.inside = True
        try:
            return self.observed(func, name, RULES.get(name), hollow.SHAPERS.get(name), args, kwargs)
        finally:
            self.inside = False

    def observed(
        self,
        func: Callable[..., Any],
        name: str,
        apply: Callable[..., None] | None,
        shape: Callable[..., Any] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Execute one operator, apply its rule, and write it down."""
        tensors = _tensors((*args, *kwargs.values()) if kwargs else args)
        inputs = [self.mark(t) for t in tensors]
        is_hollow = any(m.hollow for m in inputs)
        out = NotImplemented
        if name in hollow.VALUE_READERS and is_hollow:
            if not self.real:
                raise hollow.NeedsValues(name)
            out = self._decided(func, name, tensors, args, kwargs)
        elif is_hollow and not self.real and shape is not None and isinstance(args[0], (Tensor, list, tuple)):
            out = shape(*args, **kwargs)
        if out is NotImplemented:
            out = func(*args, **kwargs)
        outs = [out] if isinstance(out, Tensor) else _tensors((out,))
        if not outs:
            return out
        shapes = tuple(tuple(o.shape) for o in outs)
        constants = tuple(a for a in (*args, *kwargs.values()) if type(a) is float)
        if not self.rules:
            for o in outs:
                if is_hollow:
                    known = getattr(o, "_podar_mark", None) or self.attach(o, Mark())
                    known.hollow = True
            self.record.steps.append(Step(name, self.stack[-1], shapes, (), constants, (), ()))
            return out
        self.operator = name
        made = makers(name, args, tensors, inputs, self.bits)
        exempt = 2 if name == "scaled_dot_product_attention" else 0  # q and k: their rule writes down what makes them
        for mark in inputs[exempt:]:
            if mark.makers and mark.makers is not made and not set(mark.makers) <= set(made):
                self.record.spilled.append((mark.makers, mark.blocks))
        writes = self._settle(tensors, inputs, outs, is_hollow, made)
        self._apply(apply, tensors, inputs, out, args, kwargs)
        reads = tuple({m.storage for m in inputs if m.storage >= 0})
        blocks = tuple(self.blocks(o) for o in outs)
        self.record.steps.append(Step(name, self.stack[-1], shapes, blocks, constants, reads, tuple(writes)))
        return out

    def _decided(self, func: Any, name: str, tensors: list[Tensor], args: Any, kwargs: Any) -> Any:
        """What the model read from its activations: written down, so that a later run takes the same way."""
        shapes = tuple(tuple(t.shape) for t in tensors)
        known = self.record.decisions
        if self.decisions is not None:
            if self.decisions and self.decisions[0][:2] == (name, shapes):
                return self.decisions.pop(0)[2]
            return func(*args, **kwargs)
        out = func(*args, **kwargs)
        known.append((name, shapes, out.clone() if isinstance(out, Tensor) else out))
        return out

    def _apply(
        self,
        apply: Callable[..., None] | None,
        tensors: list[Tensor],
        inputs: list[Mark],
        out: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """Apply the operator's rule. Without one, or where it does not fit the call, what enters is frozen."""
        plain = self.operator not in CREATES and self.operator not in COUNTS
        if plain and apply is not None and not any(m.blocks or m.fresh for m in inputs):
            return  # constants among themselves
        why = "no rule for the operator"
        if apply is not None:
            try:
                apply(self, out, *args, **kwargs)
                return
            except Exception as error:
                why = f"its rule does not cover this call ({type(error).__name__}: {error}) of"
        for t in tensors:
            for _, ids in self.blocks(t):
                self.freeze(ids, why)

    def _resolve(self, func: Any) -> tuple[str, Callable[..., None] | None, Callable[..., Any] | None]:
        found = self._resolved.get(func)
        if found is None:
            namespace, _, name = func._schema.name.partition("::")
            name = name if namespace == "aten" else func._schema.name
            found = (name, RULES.get(name), hollow.SHAPERS.get(name))
            self._resolved[func] = found
        return found

    def _settle(
        self, tensors: list[Tensor], inputs: list[Mark], outs: list[Tensor], is_hollow: bool, made: Makers
    ) -> list[tuple[int, int]]:
        """Give every result a mark and a storage number; a view shares the storage of its base."""
        writes: list[tuple[int, int]] = []
        bases: dict[int, Mark] = {}
        needs = 0
        for mark in inputs:
            needs |= mark.needs
        for o in outs:
            known = getattr(o, "_podar_mark", None)
            if known is not None:
                known.hollow = known.hollow or is_hollow
                known.makers, known.needs = made, needs
                continue
            bases = bases or {_storage(t): m for t, m in zip(tensors, inputs)}
            base = bases.get(_storage(o))
            if base is None:
                self.storages += 1
                writes.append((self.storages, o.numel() * o.element_size()))
            storage = self.storages if base is None else base.storage
            self.attach(o, Mark(hollow=is_hollow, storage=storage, makers=made, needs=needs))
        return writes


class Calls(TorchFunctionMode):
    """Stands above the dispatch: shows rules the call as Python wrote it, and hands out sizes that remember."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in WHOLE:
            return self.tracer.whole(func, name, args, kwargs)
        if not self.tracer.rules:
            return func(*args, **kwargs)
        if name == "__get__":
            value = func(*args, **kwargs)
            return torch.Size(self.sizes(args[0])) if type(value) is torch.Size else value
        if name == "size":
            sizes = self.sizes(args[0])
            where = args[1] if len(args) > 1 else kwargs.get("dim")
            return torch.Size(sizes) if where is None else sizes[where]
        if name in ("numel", "nelement"):
            return functools.reduce(operator.mul, self.sizes(args[0]), 1)
        self.tracer.call = (func, args, kwargs)
        try:
            return func(*args, **kwargs)
        finally:
            self.tracer.call = None

    def sizes(self, tensor: Tensor) -> list[int]:
        values: list[int] = list(torch.Tensor.size(tensor))
        mark = getattr(tensor, "_podar_mark", None)
        if mark is None and id(tensor) in self.tracer.named:
            mark = self.tracer.mark(tensor)
        if mark is not None:
            for dims, ids in self.tracer.blocks(tensor):
                for k, d in enumerate(dims):
                    values[d] = Size(values[d], Axis(ids, k), self.tracer.sizes)
        return values


def _is_parameter(tensor: Tensor) -> bool:
    """`isinstance` asks a metaclass, which takes longer than all the rest of a small operator."""
    kind = type(tensor)
    return kind is nn.Parameter or (kind is not Tensor and isinstance(tensor, nn.Parameter))


def _storage(tensor: Tensor) -> int:
    """What two tensors share when one is a view of the other, memory allocated or not."""
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def _tensors(items: Any) -> list[Tensor]:
    """The tensors among arguments or results, in nested lists too."""
    found: list[Tensor] = []
    for item in items:
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, (list, tuple)):
            found += _tensors(item)
    return found


def observe(model: nn.Module, inputs: ExampleInputs, *, untouched: bool = True) -> Record:
    """Run the model once on `inputs` and return what its operators told.

    Operators are not computed where values do not matter; a model that looks at its activations is run for real.
    Parameters that only training uses (auxiliary heads) are met in a second run, in train mode, joined to the first.
    The model, the random state and the inputs are left as they were.
    """
    record = Record()
    try:
        _run(model, inputs, record, train=False, real=False)
    except Exception:
        # Values mattered after all, or the model itself fails: the real run tells which.
        record = Record(real=True)
        _run(model, inputs, record, train=False, real=True)
    if untouched and any(name not in record.layouts for name, _ in model.named_parameters()):
        steps, outputs = record.steps, record.outputs
        products, record.products, record.steps = record.products, [], []
        with contextlib.suppress(Exception):
            _run(model, inputs, record, train=True, real=False)
        record.steps, record.products, record.outputs = steps, products, outputs + record.outputs
    record.sizes.finish()
    return record


def replay(model: nn.Module, inputs: ExampleInputs, like: Record) -> list[Step]:
    """The operators of one forward pass, without labels. Where it looks at values, it is told those of `like`."""
    record = Record(decisions=list(like.decisions))
    _run(model, inputs, record, train=False, real=like.real, labels=False)
    return record.steps


def _run(
    model: nn.Module, inputs: ExampleInputs, record: Record, *, train: bool, real: bool, labels: bool = True
) -> None:
    modules = modules_of(model)
    tracer = Tracer(modules, record, real, labels)
    if not labels:
        tracer.decisions = record.decisions
    with (
        torch.inference_mode(False),  # a caller's would bring other operators
        protected(modules, train=train),
        torch.no_grad(),
        _module_stack(tracer),
        _transparent_functionals(),
        no_collection(),
    ):
        for tensor in example_tensors(inputs):
            # Values of floating-point inputs do not matter; token ids index tables, so theirs do.
            tracer.attach(tensor, Mark(hollow=tensor.is_floating_point()))
        if labels:
            record.sizes.attach(once(modules))
        try:
            with Calls(tracer), tracer:
                output = call(model, inputs)
            record.outputs = [(path, tracer.blocks(t)) for path, t in named_tensors(output)]
            record.spilled += [(tracer.mark(t).makers, tracer.blocks(t)) for _, t in named_tensors(output)]
        finally:
            for tensor in tracer.marked:
                vars(tensor).pop("_podar_mark", None)


@contextlib.contextmanager
def no_collection() -> Generator[None]:
    """Hold the garbage collector: a trace makes many small objects and no cycles, and a full collection costs more."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _module_stack(tracer: Tracer) -> Generator[None]:
    """Keep the name of the module that runs on top of `tracer.stack`."""

    plain, names, stack = nn.Module.__call__, tracer.modules, tracer.stack

    def entered(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        stack.append(names.get(id(module), stack[-1]))
        try:
            return plain(module, *args, **kwargs)
        finally:
            stack.pop()

    nn.Module.__call__ = entered  # global forward hooks would do the same on a much slower path
    try:
        yield
    finally:
        nn.Module.__call__ = plain


def _nothing_overridden(*_: Any) -> bool:
    return False


@contextlib.contextmanager
def _transparent_functionals() -> Generator[None]:
    """Let the Python bodies of torch.nn.functional run under the function mode, so that the sizes in them are seen.

    Each begins with `if has_torch_function(…): return handle_torch_function(…)`, which hides all that it does inside.
    """
    names = ["has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"]
    saved = {n: getattr(functional, n) for n in names}
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operator for a whole encoder layer tells nothing
    try:
        for n in names:
            setattr(functional, n, _nothing_overridden)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for n, value in saved.items():
            setattr(functional, n, value)
