"""Sees every operator of a run: runs it, with values or without, has its rule applied, and writes down what it saw."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from podar.graph.makers import makers
from podar.graph.operators import statistics
from podar.graph.operators.marks import Mark, Marks, is_parameter, storage, tensors_in
from podar.graph.operators.register import OPERATORS, Operator
from podar.graph.operators.tracer import Tracer
from podar.graph.operators.views import LIKE
from podar.graph.record import Decision, Makers, Record, Step
from podar.graph.tracing import hollow
from podar.graph.tracing.decisions import Told, masks_of, own, with_masks
from podar.graph.tracing.twins import Twin
from podar.graph.tracing.values import FLOATS, LITERAL, Places, contents_of, numbers_at, places_of
from podar.graph.tracing.writing import Ways

no_dispatch = torch._C._DisableTorchDispatch  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
"""Within it torch's own functions do not come back to the dispatch mode."""

STRICT = "PODAR_STRICT"
"""Where it is 1 (as in podar's tests), a defect in a rule is raised; else the rule is left out, with a reason."""


class Defect(BaseException):
    """A rule, or the function of a shape, is wrong. No `except Exception` on the way may hide it."""


class Seen(NamedTuple):
    """An operator as the run met it, and where numbers stand among its arguments."""

    operator: Operator
    places: Places


class Dispatch(TorchDispatchMode):
    """Sees every ATen call of a run.

    **Attributes:**

    - `tracer`: what rules are given; None in a run that is only compared with an earlier one.
    - `marks`: what is known of tensors.
    - `stack`: names of the modules that run, the innermost one last.
    """

    def __init__(self, twin: Twin, record: Record, real: bool, rules: bool = True) -> None:
        """`real`: operators are computed, also where values do not matter; `rules`: they are applied."""
        super().__init__()
        self.twin, self.record, self.real = twin, record, real
        self.stack: list[str] = [""]
        self.tensors = twin.tensors
        self.marks = Marks(twin.is_original, lambda: self.stack[-1])
        self.tracer = Tracer(record, self.marks, self.stack) if rules else None
        self.told: Told | None = None if rules else Told(record.decisions)
        self._ways = Ways(lambda: twin.borrowed)
        self._storages = 0
        self._inside = False  # whether an operator that is traced as a whole is running
        self._drawn = False  # whether random numbers were drawn
        self._unfilled: set[int] = set()  # storages that were given out without values
        self._seen: dict[Any, Seen] = {}  # by torch's object for the operator, or by name
        self._strict = os.environ.get(STRICT) == "1"
        self._empty = Mark(hollow=True)  # the mark of every hollow tensor in a run without rules

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Tells torch that nothing here is compiled, so that no operator is wrapped to keep the compiler out."""
        return False

    def begin(self, inputs: list[Tensor]) -> None:
        """Give parameters, buffers and inputs their names and marks."""
        self.marks.named = {id(tensor): name for name, tensor in reversed(self.tensors.items())}  # by the first name
        needs = 0
        if self.tracer is not None:
            self.tracer.begin(self.tensors, set(map(id, self.twin.shared)))
            self.tracer.knows_inputs = bool(inputs)
            needs = self.tracer.given
        for tensor in inputs:
            # Values of floating-point inputs do not matter; token ids index tables, so theirs do.
            self.marks.attach(tensor, Mark(hollow=tensor.is_floating_point(), needs=needs))

    def clear(self) -> None:
        """Write down what was met, and let go of the twin."""
        if self.tracer is not None:
            self.tracer.finish()
        self.marks.clear()
        self._ways.clear()
        self.tensors = {}

    def is_hollow(self, tensor: Tensor) -> bool:
        """Whether a tensor was never computed."""
        known = self.marks.known(tensor)
        if known is not None:
            return known.hollow
        return is_parameter(tensor) if id(tensor) in self.marks.named else self.marks.of(tensor).hollow

    # Execution

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._inside:
            return self._ways.of(func)(*args, **(kwargs or {}))
        return self.observed(func, self._seen.get(func) or self._meet(func), args, kwargs or {})

    def whole(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a call of Python as one operator, whatever it is made of."""
        self._inside = True
        try:
            seen = self._seen.get(name)
            if seen is None:
                seen = self._seen[name] = Seen(OPERATORS.get(name) or Operator(name, base=name), FLOATS)
            return self.observed(func, seen, args, kwargs)
        finally:
            self._inside = False

    def _meet(self, func: Any) -> Seen:
        namespace, _, name = func._schema.name.partition("::")
        name = name if namespace == "aten" else func._schema.name
        operator = OPERATORS.get(name) or Operator(name, base=name)
        found = self._seen[func] = Seen(operator, places_of(func, operator.position))
        return found

    def observed(self, func: Callable[..., Any], seen: Seen, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Execute one operator, apply its rule, and write it down."""
        operator, places = seen
        tracer = self.tracer
        tensors = tensors_in((*args, *kwargs.values()) if kwargs else args)
        if tracer is None:
            inputs: list[Mark] = []
            empty = [self.is_hollow(t) for t in tensors]
        else:
            inputs = [tracer.mark(t) for t in tensors]
            empty = [m.hollow for m in inputs]
        is_hollow = True in empty
        out = NotImplemented
        if is_hollow:
            out, args = self._hollow(func, operator, tensors, args, kwargs)
        new = out is not NotImplemented
        if not new:
            out = self._ways.of(func)(*args, **kwargs)
        outs = [out] if isinstance(out, Tensor) else tensors_in((out,))
        if not outs:
            return out
        shapes = tuple([o.shape for o in outs])
        constants = numbers_at(places, args, kwargs)
        contents = self._contents(seen, tensors, empty, outs) if False in empty or not empty else ()
        if tracer is None:
            if is_hollow:
                self._left_hollow(tensors, outs)
            self.record.steps.append(Step(operator.name, self.stack[-1], shapes, (), constants, contents, (), ()))
            return out
        tracer.operator = operator
        made = makers(operator, args, tensors, inputs, tracer.bits)
        for mark in inputs[operator.queries :]:
            if mark.makers and mark.makers is not made and not set(mark.makers).issubset(made):
                self.record.spilled.append((mark.makers, mark.blocks))
        writes = self._settle(tracer, [] if new else tensors, inputs, outs, is_hollow, made)
        self._apply(tracer, tensors, inputs, out, args, kwargs)
        for mark in inputs:
            if mark.statistic is not None:
                statistics.follow(tracer, args, tensors, inputs, outs)
                break
        reads = tuple({m.storage for m in inputs if m.storage >= 0})
        blocks = tuple([tracer.blocks(o) for o in outs])
        step = Step(operator.name, self.stack[-1], shapes, blocks, constants, contents, reads, tuple(writes))
        self.record.steps.append(step)
        return out

    def _left_hollow(self, tensors: list[Tensor], outs: list[Tensor]) -> None:
        """Results of an operator on hollow tensors are hollow: all that a run without rules has to know of them."""
        for o in outs:
            known = self.marks.known(o)
            if known is None:
                self.marks.attach(o, self._empty, own=True not in [o is t for t in tensors])
            else:
                known.hollow = True

    def _hollow(
        self, func: Any, operator: Operator, tensors: list[Tensor], args: Any, kwargs: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        """The result of an operator on hollow tensors, or NotImplemented where it must be run; and other arguments."""
        looks = operator.reads or operator.masks is not None
        if looks or (operator.rule is None and "::" in operator.name):
            return self._looked_through(func, operator, tensors, args, kwargs)
        if self.real or operator.shape is None or not hollow.may_be_empty(args[0], tensors):
            return NotImplemented, args
        try:
            if self._inside:
                with no_dispatch():
                    return operator.shape(*args, **kwargs), args
            return operator.shape(*args, **kwargs), args
        except RuntimeError:  # the tensors do not fit, as torch would say
            raise
        except Exception as error:
            if self._strict:
                raise Defect(f"the shape of {operator.name} in {self.stack[-1]}: {error}") from error
            return NotImplemented, args

    def _contents(self, seen: Seen, tensors: list[Tensor], empty: list[bool], outs: list[Tensor]) -> tuple[float, ...]:
        """Numbers of the program's own in small tensors: in results of constants, in constants that meet others."""
        if True not in empty:
            self._drawn = self._drawn or seen.places.draws
            if seen.operator.unfilled:
                self._unfilled.update(map(storage, outs))
            elif not self._drawn:
                return contents_of(self._filled(outs), LITERAL if seen.operator.name == "lift_fresh" else 1)
        elif False in empty and not self._drawn:
            named = self.marks.named
            written = {id(o) for o in outs}  # from now on it holds what was computed from the others
            known = [t for t, no in zip(tensors, empty) if not no and id(t) not in named and id(t) not in written]
            if known:
                return contents_of(self._filled(known), LITERAL)
        return ()

    def _filled(self, tensors: list[Tensor]) -> list[Tensor]:
        """Those of the tensors whose memory was filled: other memory may hold anything."""
        return [t for t in tensors if storage(t) not in self._unfilled] if self._unfilled else tensors

    # What is read from activations

    def _looked_through(
        self, func: Any, operator: Operator, tensors: list[Tensor], args: Any, kwargs: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        """The result of an operator that may look at values, unless only its masks are read: then other arguments."""
        if any(map(self.is_hollow, masks_of(operator, args))):
            args = with_masks(operator, args, self._told_mask)
        if operator.masks is not None or (hasattr(func, "_schema") and func._schema.is_mutable):
            return NotImplemented, args
        return self.decided(operator, tensors, lambda: func(*args, **kwargs)), args

    def _told_mask(self, mask: Tensor) -> Tensor:
        return self.decided(Operator("a mask"), [mask], lambda: mask) if self.is_hollow(mask) else mask

    def decided(self, operator: Operator, tensors: list[Tensor], read: Callable[[], Any]) -> Any:
        """What the model reads from its activations: written down, so that a later run takes the same way."""
        shapes = tuple([tuple(t.shape) for t in tensors])
        if self.told is not None:
            known = self.told.next(operator.name, self.stack[-1], shapes)
            if known is not None:
                return own(known.value)
        if not self.real:
            raise hollow.NeedsValues(operator.name)
        value = read()
        if self.told is None:
            self.record.decisions.append(Decision(operator.name, self.stack[-1], shapes, own(value)))
        if self.tracer is not None and not tensors_in((value,)):
            self._left(self.tracer, operator, tensors)
        return value

    def _left(self, tracer: Tracer, operator: Operator, tensors: list[Tensor]) -> None:
        """Freeze the axes that show in numbers taken out of tensors: nobody can say what becomes of such numbers."""
        tracer.operator = operator
        for t in tensors:
            statistic = self.marks.of(t).statistic
            if statistic is not None:
                statistics.refuse(tracer, [statistic])
            tracer.freeze_all(t, "read as numbers at")

    # Rules and marks

    def _apply(
        self,
        tracer: Tracer,
        tensors: list[Tensor],
        inputs: list[Mark],
        out: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """Apply the operator's rule. Without one, or where it does not fit the call, what enters is frozen."""
        operator = tracer.operator
        rule = operator.rule
        always = operator.creates or operator.counts
        if rule is not None and not always and not [m for m in inputs if m.blocks or m.fresh]:
            return  # constants that meet constants
        why = "no rule for the operator"
        if "out" in kwargs:
            why = "written into a tensor that was given as out= by"
        elif rule is not None:
            try:
                rule(tracer, out, *args, **kwargs)
                return
            except Exception as error:
                why = f"its rule does not cover this call ({type(error).__name__}: {error}) of"
                if self._strict:
                    raise Defect(f"{why} {tracer.where}") from error
        for t in tensors:
            tracer.freeze_all(t, why)

    def _settle(
        self,
        tracer: Tracer,
        tensors: list[Tensor],
        inputs: list[Mark],
        outs: list[Tensor],
        is_hollow: bool,
        made: Makers,
    ) -> list[tuple[int, int]]:
        """Give every result a mark and a storage number; a view shares the storage of its base, one of `tensors`."""
        writes: list[tuple[int, int]] = []
        needs = 0
        for mark in inputs:
            needs |= mark.needs
        tracer.met |= needs
        if tracer.operator.name in LIKE:  # the operator reads the shape alone
            needs = 0
        bases: dict[int, Mark] = {}
        for o in outs:
            known = self.marks.known(o)
            if known is not None:
                known.hollow = known.hollow or is_hollow
                known.makers, known.needs, known.summed = made, needs, ()
                continue
            if tensors and not bases:
                bases = {storage(t): m for t, m in zip(tensors, inputs)}
            base = bases.get(storage(o)) if bases else None
            if base is None:
                self._storages += 1
                writes.append((self._storages, o.numel() * o.element_size()))
            number = self._storages if base is None else base.storage
            self.marks.attach(o, Mark(hollow=is_hollow, storage=number, makers=made, needs=needs), own=True)
        return writes
