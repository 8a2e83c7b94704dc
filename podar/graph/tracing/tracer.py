"""Sees every operator of a run, applies its rule, and writes down what it told."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from podar.errors import PodarError
from podar.graph.labels import Ids, Labels
from podar.graph.makers import Bits, Makers, makers
from podar.graph.operators import statistics
from podar.graph.operators.statistics import Norm, Statistic
from podar.graph.sizes import Provenance, Size
from podar.graph.tracing import hollow
from podar.graph.tracing.chance import Chance
from podar.graph.tracing.decisions import LOOKED_THROUGH, MASKED, Decision, Told, masks_of, own, with_masks
from podar.graph.tracing.twins import Again, Twin
from podar.graph.tracing.values import FLOATS, LITERAL, UNFILLED, Places, contents_of, numbers_at, places_of
from podar.plans.plan import Computed

Block = tuple[tuple[int, ...], Ids]
"""Tensor dimensions, in nesting order, and the labels over them: shape = the sizes of those dimensions."""

Blocks = tuple[Block, ...]

NOTHING: frozenset[int] = frozenset()


class Mark:
    """What a trace knows of one tensor: its labels, and whether a removed index is exactly zero in it."""

    __slots__ = (
        *("blocks", "fresh", "hollow", "makers", "needs", "normal"),
        *("statistic", "storage", "summed", "trace", "zero"),
    )

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
        self.statistic: Statistic | None = None
        self.normal: frozenset[int] = NOTHING  # by `id`: labels of the axes that it was divided by a statistic over
        self.summed: tuple[Ids, ...] = ()  # labels of the axes that it is the sum over, and nothing else
        self.fresh = False  # a parameter or buffer that no rule has looked at yet
        self.trace: object = None  # which trace made it


class Step(NamedTuple):
    """One operator of the trace: what verification compares, and what memory planning needs."""

    name: str
    module: str
    shapes: tuple[tuple[int, ...], ...]
    blocks: tuple[Blocks, ...]
    constants: tuple[float, ...]  # numbers that it computes with
    contents: tuple[float, ...]  # those in small tensors that hang on no parameter and no input
    reads: tuple[int, ...]
    writes: tuple[tuple[int, int], ...]  # (storage, bytes) allocated here


class Product(NamedTuple):
    """Multiply-accumulates of one operator: `macs` in the dense model, in proportion to each axis in `axes`."""

    module: str
    macs: int
    axes: tuple[Ids, ...]


class Training(NamedTuple):
    """A run in train mode, which met what evaluation does not use."""

    steps: list[Step]
    decisions: list[Decision]
    real: bool
    broken: str | None = None  # why it came to no end


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
    decisions: list[Decision] = field(default_factory=list)  # values it looked at
    norms: list[Norm] = field(default_factory=list)  # statistics over axes that can go
    computed: dict[str, Computed] = field(default_factory=dict)  # parameters that weights are made of
    least: list[tuple[Ids, int]] = field(default_factory=list)  # axes of which more than one index must stay
    met: set[str] = field(default_factory=set)  # parameters that some operator was given
    training: Training | None = None  # what a run in train mode told, where one was needed

    def forked(self) -> Record:
        """A record that goes on from here, while this one stays as it is."""
        fork = copy.copy(self)
        for key, value in vars(self).items():
            if isinstance(value, (list, dict, set)):
                setattr(fork, key, value.copy())
        fork.layouts = {name: dims.copy() for name, dims in self.layouts.items()}
        for held in ("labels", "sizes"):
            own = copy.copy(getattr(self, held))
            for key, value in vars(own).items():
                if isinstance(value, (list, dict, set)):
                    setattr(own, key, value.copy())
            setattr(fork, held, own)
        return fork


no_dispatch = torch._C._DisableTorchDispatch  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
"""Within it torch's own functions do not come back to the tracer."""

RULES: dict[str, Callable[..., None]] = {}


def rule(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a rule for ATen operators: `rule(tracer, out, *args, **kwargs)` labels `out` and records relations.

    ```python
    @rule("my_ops::scale_channels")
    def scale_channels(tracer, out, x, factor):
        tracer.put(out, tracer.blocks(x), zero=tracer.mark(x).zero)
    ```
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


INPUTS = "the inputs of the model"
"""Beside the names of parameters: what a value may hang on."""

CREATED = set(
    """zeros ones full empty new_zeros new_ones new_full new_empty rand randn
    randint normal empty_strided new_empty_strided empty_permuted""".split()
)
"""Operators that make a tensor out of nothing but the sizes that are asked for."""

CREATES = CREATED | {"expand", "repeat"}
"""Operators that label their result by the sizes that were asked for, whatever enters."""

COUNTS = {"convolution", "linear", "mm", "addmm", "bmm", "baddbmm", "scaled_dot_product_attention", "einsum"}
"""Operators whose multiplications count, even where nothing that enters has labels."""


class Operator(NamedTuple):
    """An operator's name, its rule, what tells the shape of its result, and where its numbers stand."""

    name: str
    rule: Callable[..., None] | None
    shape: Callable[..., Any] | None
    places: Places


class Tracer(TorchDispatchMode):
    """Sees every ATen call, executes it (hollow where values do not matter), and applies the operator's rule."""

    def __init__(self, twin: Twin, record: Record, real: bool, rules: bool = True) -> None:
        super().__init__()
        self.twin, self.chance = twin, Chance()
        self.rules = rules
        self.record, self.labels, self.sizes, self.real = record, record.labels, record.sizes, real
        self.stack: list[str] = [""]
        self.sizes.place = lambda: self.stack[-1] or "the model's forward"
        self.call: tuple[Any, tuple[Any, ...], dict[str, Any]] | None = None
        self.storages = 0
        self.token = object()
        self.foreign: dict[int, tuple[Tensor, Mark]] = {}
        self.met = 0  # the bits of parameters that operators were given
        self.named: dict[int, str] = {}
        self.tensors = twin.members.tensors
        self.bits = Bits()
        self.given = self.bits.add(INPUTS)
        self.knows_inputs = False
        self.statistics = False  # whether there was one yet
        self.told: Told | None = None
        self.operator = ""
        self.inside = False  # an operator that is traced as a whole
        self.factored: dict[int, tuple[Ids, list[Ids]]] = {}
        self.fixed: dict[int, tuple[bool, ...]] = {}
        self.rows: dict[Any, tuple[Ids, Ids]] = {}
        self.drawn = False  # whether random numbers were
        self.unfilled: set[int] = set()  # memory that was given out as it was
        self._resolved: dict[Any, Operator] = {}  # by torch's own object, or by name
        self._ways: dict[Any, Callable[..., Any]] = {}

    def begin(self) -> None:
        """Give every parameter and buffer its mark: nearly all will be asked for it."""
        shared = set(map(id, self.twin.shared))
        for name, tensor in self.tensors.items():
            if self.named.setdefault(id(tensor), name) is not name or not self.rules:
                continue
            mark = self.attach(tensor, Mark(zero=True), own=id(tensor) not in shared)
            mark.fresh = True
            if _is_parameter(tensor):
                mark.hollow, mark.makers, mark.needs = True, (name,), self.bits.add(name)

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
        known = self.known(tensor)
        if known is not None:
            return known
        if self.twin.is_original(tensor):
            raise PodarError(
                f"{self.stack[-1] or 'the forward, or the callable given as example_inputs,'} uses the model's weights "
                "by another way than through it (a global variable, say): use `self`, or the argument of the callable"
            )
        return self.attach(tensor, Mark(hollow=_is_parameter(tensor)))

    def known(self, tensor: Tensor) -> Mark | None:
        """The mark that this trace gave a tensor (one kept in a cache may carry that of an earlier trace), if any."""
        mark = getattr(tensor, "_podar_mark", None)
        if mark is not None and mark.trace is self.token:
            return mark
        known = self.foreign.get(id(tensor))
        return None if known is None else known[1]

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

    def is_hollow(self, tensor: Tensor) -> bool:
        """The same as `mark(tensor).hollow`, and parameters carry nothing away."""
        known = self.known(tensor)
        return known.hollow if known is not None else self.mark(tensor).hollow

    def attach(self, tensor: Tensor, mark: Mark, own: bool = False) -> Mark:
        """Let a tensor have a mark. What the run or its twin has made (`own`) carries it and is left to die in peace: a
        list that kept results alive would also keep their memory from being used again, which doubles the time.
        """
        mark.trace = self.token
        if own:
            tensor._podar_mark = mark  # type: ignore[attr-defined]
        else:
            self.foreign[id(tensor)] = (tensor, mark)
        return mark

    def clear(self) -> None:
        """Write down what was met, and let go of the twin."""
        self.record.met.update([name for name, bit in self.bits.of.items() if bit & self.met])
        self.foreign.clear()
        self._ways.clear()
        self.tensors, self.named = {}, {}
        self.sizes.place = str

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

    def is_computed_weight(self, mark: Mark) -> bool:
        """Whether a value hangs on parameters alone, as a standardised weight does. Of a callable nothing is known."""
        return not mark.needs & self.given if self.knows_inputs else mark.storage < 0

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

    def freeze_from(self, tensor: Tensor, first: int, why: str) -> None:
        """Freeze dimension `first` and those after it."""
        if max([max(dims) for dims, _ in self.blocks(tensor)], default=-1) >= first:
            for d in range(first, tensor.dim()):
                self.freeze(self.axis(tensor, d), why)

    def used_as_numbers(self, sizes: Iterable[Size], name: str) -> None:
        """Sizes that reached a value, or that no rule follows where they went: they must stay."""
        for size in sizes:
            if size.owner is self.sizes:
                module = self.stack[-1]
                own = name.strip("_")
                self.sizes.number(size.expr, size, f"{own} in {module}" if module else own)

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
            return self._way(func)(*args, **(kwargs or {}))
        return self.observed(func, self._resolved.get(func) or self._resolve(func), args, kwargs or {})

    def whole(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a call of Python as one operator, whatever it is made of."""
        self.inside = True
        try:
            operator = self._resolved.get(name)
            if operator is None:
                operator = self._resolved[name] = Operator(name, RULES.get(name), hollow.SHAPERS.get(name), FLOATS)
            return self.observed(func, operator, args, kwargs)
        finally:
            self.inside = False

    def observed(
        self,
        func: Callable[..., Any],
        operator: Operator,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Execute one operator, apply its rule, and write it down."""
        name, apply, shape, places = operator
        tensors = tensors_in((*args, *kwargs.values()) if kwargs else args)
        inputs = [self.mark(t) for t in tensors] if self.rules else []
        empty = [m.hollow for m in inputs] if self.rules else [self.is_hollow(t) for t in tensors]
        is_hollow = any(empty)
        out = NotImplemented
        if is_hollow and (name in LOOKED_THROUGH or (apply is None and "::" in name)):
            out, args = self._looked_through(func, name, tensors, args, kwargs)
        elif is_hollow and not self.real and shape is not None and hollow.may_be_empty(args[0], tensors):
            if self.inside:
                with no_dispatch():
                    out = shape(*args, **kwargs)
            else:
                out = shape(*args, **kwargs)
        new = out is not NotImplemented
        if not new:
            out = self._way(func)(*args, **kwargs)
        outs = [out] if isinstance(out, Tensor) else tensors_in((out,))
        if not outs:
            return out
        shapes = tuple([o.shape for o in outs])
        constants = numbers_at(places, args, kwargs)
        contents: tuple[float, ...] = ()
        if not is_hollow:
            self.drawn = self.drawn or places.draws
            if name.startswith(UNFILLED):
                self.unfilled.update(map(storage, outs))
            elif not self.drawn:
                contents = contents_of(self.filled(outs), LITERAL if name == "lift_fresh" else 1)
        elif not all(empty):
            written = {id(o) for o in outs}  # it holds what came of the others now
            known = [t for t, no in zip(tensors, empty) if not no and id(t) not in self.named and id(t) not in written]
            contents = contents_of(self.filled(known), LITERAL) if known and not self.drawn else ()
        if not self.rules:
            if is_hollow:
                for o in outs:
                    known = self.known(o) or self.attach(o, Mark(), own=not any(o is t for t in tensors))
                    known.hollow = True
            self.record.steps.append(Step(name, self.stack[-1], shapes, (), constants, contents, (), ()))
            return out
        self.operator = name
        made = makers(name, args, tensors, inputs, self.bits)
        exempt = 2 if name == "scaled_dot_product_attention" else 0  # q and k: their rule writes down what makes them
        for mark in inputs[exempt:]:
            if mark.makers and mark.makers is not made and not set(mark.makers).issubset(made):
                self.record.spilled.append((mark.makers, mark.blocks))
        writes = self._settle([] if new else tensors, inputs, outs, is_hollow, made)
        self._apply(apply, tensors, inputs, out, args, kwargs)
        if self.statistics:
            statistics.follow(self, name, args, tensors, inputs, outs)
        reads = tuple({m.storage for m in inputs if m.storage >= 0})
        blocks = tuple([self.blocks(o) for o in outs])
        self.record.steps.append(Step(name, self.stack[-1], shapes, blocks, constants, contents, reads, tuple(writes)))
        return out

    def filled(self, tensors: list[Tensor]) -> list[Tensor]:
        """Without views of memory that may hold anything."""
        return [t for t in tensors if storage(t) not in self.unfilled] if self.unfilled else tensors

    def _looked_through(
        self, func: Any, name: str, tensors: list[Tensor], args: Any, kwargs: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        """The result of an operator that may look at values, unless only its masks are read: then other arguments."""
        if any(map(self.is_hollow, masks_of(name, args))):
            args = with_masks(name, args, self._told_mask)
        if name in MASKED or (hasattr(func, "_schema") and func._schema.is_mutable):
            return NotImplemented, args
        return self.decided(name, tensors, lambda: func(*args, **kwargs)), args

    def _told_mask(self, mask: Tensor) -> Tensor:
        return self.decided("a mask", [mask], lambda: mask) if self.is_hollow(mask) else mask

    def decided(self, operator: str, tensors: list[Tensor], read: Callable[[], Any]) -> Any:
        """What the model reads from its activations: written down, so that a later run takes the same way."""
        shapes = tuple([tuple(t.shape) for t in tensors])
        if self.told is not None:
            known = self.told.next(operator, self.stack[-1], shapes)
            if known is not None:
                return own(known.value)
        if not self.real:
            raise hollow.NeedsValues(operator)
        value = read()
        if self.told is None:
            self.record.decisions.append(Decision(operator, self.stack[-1], shapes, own(value)))
        if self.rules and not tensors_in((value,)):
            self._left(operator, tensors)
        return value

    def _left(self, operator: str, tensors: list[Tensor]) -> None:
        """Nobody can say what becomes of numbers that were taken out of tensors: axes that show in them stay."""
        self.operator = operator
        for t in tensors:
            statistic = self.mark(t).statistic
            if statistic is not None:
                statistics.refuse(self, [statistic])
            for _, ids in self.blocks(t):
                self.freeze(ids, "read as numbers at")

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

    def _way(self, func: Any) -> Callable[..., Any]:
        """How an operator is run: as it is, unless it draws random numbers or writes to what it is given."""
        way = self._ways.get(func)
        if way is None:
            way = func
            if isinstance(func, LIBRARY_OPERATOR):
                operator: Any = func
                way = self.chance.way(operator) or func
                written = _written(operator)
                if written:
                    way = self._guarded(way, written, operator._schema.name in STATISTICS)
            self._ways[func] = way
        return way

    def _guarded(
        self, way: Callable[..., Any], written: list[tuple[int, str]], in_training: bool
    ) -> Callable[..., Any]:
        """Write to nothing that is the user's."""

        def guarded(*args: Any, **kwargs: Any) -> Any:
            if not in_training or args[5]:
                targets = tensors_in([args[k] if k < len(args) else kwargs.get(n) for k, n in written])
                hit = {storage(t) for t in targets if t.layout is torch.strided} & self.twin.borrowed
                if hit:
                    raise Again(frozenset(hit))
            return way(*args, **kwargs)

        return guarded

    def _resolve(self, func: Any) -> Operator:
        namespace, _, name = func._schema.name.partition("::")
        name = name if namespace == "aten" else func._schema.name
        found = self._resolved[func] = Operator(name, RULES.get(name), hollow.SHAPERS.get(name), places_of(func))
        return found

    def _settle(
        self, tensors: list[Tensor], inputs: list[Mark], outs: list[Tensor], is_hollow: bool, made: Makers
    ) -> list[tuple[int, int]]:
        """Give every result a mark and a storage number; a view shares the storage of its base, one of `tensors`."""
        writes: list[tuple[int, int]] = []
        bases: dict[int, Mark] = {}
        needs = 0
        for mark in inputs:
            needs |= mark.needs
        self.met |= needs
        for o in outs:
            known = self.known(o)
            if known is not None:
                known.hollow = known.hollow or is_hollow
                known.makers, known.needs, known.summed = made, needs, ()
                continue
            bases = bases or {storage(t): m for t, m in zip(tensors, inputs)}
            base = bases.get(storage(o)) if bases else None
            if base is None:
                self.storages += 1
                writes.append((self.storages, o.numel() * o.element_size()))
            number = self.storages if base is None else base.storage
            self.attach(o, Mark(hollow=is_hollow, storage=number, makers=made, needs=needs), own=True)
        return writes


STATISTICS = {"aten::native_batch_norm", "aten::cudnn_batch_norm", "aten::miopen_batch_norm"}
"""They write to their fourth and fifth arguments where the sixth says so, which their schemas do not tell."""


LIBRARY_OPERATOR: Any = torch._ops.OpOverload  # pyright: ignore[reportPrivateUsage]


def _written(func: Any) -> list[tuple[int, str]]:
    """Place and name of every argument that an operator writes to."""
    if func._schema.name in STATISTICS:
        return [(3, "running_mean"), (4, "running_var")]
    arguments = enumerate(func._schema.arguments)
    return [(k, a.name) for k, a in arguments if a.alias_info is not None and a.alias_info.is_write]


def _is_parameter(tensor: Tensor) -> bool:
    """`isinstance` asks a metaclass, which takes longer than all the rest of a small operator."""
    kind = type(tensor)
    return kind is nn.Parameter or (kind is not Tensor and isinstance(tensor, nn.Parameter))


def storage(tensor: Tensor) -> int:
    """What two tensors share when one is a view of the other, memory allocated or not."""
    if tensor.layout is not torch.strided:  # a sparse one shares nothing
        return -id(tensor)
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


PLAIN = frozenset((int, float, bool, type(None), str))
"""Types of most arguments that are no tensors."""


def tensors_in(items: Any) -> list[Tensor]:
    """The tensors among arguments or results, in nested lists too."""
    found: list[Tensor] = []
    for item in items:
        if type(item) in PLAIN:
            continue
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, (list, tuple)) and item and type(item[0]) is not int:  # sizes are all ints
            found += tensors_in(item)
    return found
