"""Finds residual branches in a trace: x + f(x), where only this sum reads what f computes. They can be skipped."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from podar.graph.graph import Graph
from podar.graph.operators.marks import storage
from podar.graph.operators.register import Operator, passes
from podar.graph.record import Record
from podar.graph.tracing.calls import Calls
from podar.graph.tracing.dispatch import Dispatch, Seen
from podar.graph.tracing.running import Around, Call, alone, watching, with_what_it_needs
from podar.graph.tracing.twins import Own, Twin, twin
from podar.model.inputs import ExampleInputs, named_tensors
from podar.model.inputs import call as run_model
from podar.model.members import Members
from podar.plans.skipped_blocks import Skipped, replace


@dataclass(frozen=True)
class ResidualBlock:
    """One residual branch.

    **Attributes:**

    - `name`: the name of its last module, which users are shown.
    - `skips`: module → (whether it gives zeros instead of its input, items of the tuple it returns or 0).
    - `tensors`: names of the parameters and buffers that go with it.
    - `kind`: what blocks of one structure share.
    """

    name: str
    skips: dict[str, tuple[bool, int]]
    tensors: tuple[str, ...]
    kind: tuple[Any, ...]


@dataclass
class _Event:
    """One operator: values read and made, named tensors among its arguments, modules that were running."""

    operator: Operator
    reads: tuple[Any, ...]
    makes: tuple[int, ...]
    stack: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    scalars: bool


class _Flow(Dispatch):
    """Runs a model and notes which operator reads the results of which. A view counts as the tensor that it shows."""

    def __init__(self, double: Twin, record: Record, real: bool) -> None:
        super().__init__(double, record, real, False)
        self.events: list[_Event] = []
        self.value: dict[int, int] = {}  # storage → the last value written there
        self.alive: list[Any] = []  # tensors are kept alive, so that no storage's address is used twice
        self.made = 0
        self.names = {storage(t): n for n, t in self.tensors.items() if t.numel()}

    def observed(self, func: Any, seen: Seen, args: Any, kwargs: Any) -> Any:
        name = seen.operator.name
        inside = [*_all((*args, *kwargs.values()))]
        reads = tuple(
            (self.names.get(storage(t)) or self.value.get(storage(t), -1)) if isinstance(t, Tensor) else None
            for t in inside
        )
        before = {storage(t) for t in inside if isinstance(t, Tensor)}
        out = super().observed(func, seen, args, kwargs)
        outs = [t for t in _all((out,)) if isinstance(t, Tensor)]
        self.alive += outs
        written: list[int] = []
        in_place = name.endswith("_") and not name.endswith("__")
        for o in outs:
            if storage(o) not in before or in_place:
                self.made += 1
                self.value[storage(o)] = self.made
                written.append(self.made)
        scalars = any(isinstance(a, (int, float)) and not isinstance(a, bool) and a != 0 for a in args[1:])
        shapes = tuple(tuple(t.shape) for t in inside if isinstance(t, Tensor))
        self.events.append(_Event(seen.operator, reads, tuple(written), tuple(self.stack), shapes, scalars))
        return out


def _all(items: Any) -> Generator[Any]:
    for item in items:
        if isinstance(item, (list, tuple)):
            yield from _all(item)
        else:
            yield item


Results = dict[str, list[tuple[int, int, int | None]]]
"""For every module (by name) and call: the values of its first tensor and of its result, and the form of that."""


def _noting(flow: _Flow, found: Results) -> Around:
    """Note what every module is given (the value of its first tensor) and what it returns."""

    def around(name: str, _: nn.Module, call: Call) -> Call:
        def called(*args: Any, **kwargs: Any) -> Any:
            first = next((t for t in _all((*args, *kwargs.values())) if isinstance(t, Tensor)), None)
            given = -1 if first is None else flow.value.get(storage(first), -1)
            out = call(*args, **kwargs)
            main = out[0] if isinstance(out, tuple) and out else out
            made = flow.value.get(storage(main), -1) if isinstance(main, Tensor) else -1
            found.setdefault(name, []).append((given, made, _form(out)))
            return out

        return called

    return around


def _flow(
    model: nn.Module, inputs: ExampleInputs, like: Record, skips: Mapping[str, tuple[bool, int]] | None = None
) -> tuple[_Flow, set[int], Results]:
    """Events of one run (perhaps without some modules), the values that it returns, the results of every module."""

    def change(double: nn.Module) -> None:
        for name, (zeros, items) in (skips or {}).items():
            replace(double, name, Skipped(zeros, items))

    def once(own: Own) -> tuple[_Flow, set[int], Results]:
        results: Results = {}
        with alone(), twin(Members(model), inputs, own=own, change=change) as double:
            flow = _Flow(double, Record(decisions=like.decisions), like.real)
            with watching(flow, _noting(flow, results)):
                with Calls(flow), flow:
                    output = run_model(double.model, double.inputs)
                returned = {flow.value.get(storage(t), -1) for _, t in named_tensors(output)}
        flow.alive.clear()
        return flow, returned, results

    return with_what_it_needs(once)


def residual_blocks(model: nn.Module, inputs: ExampleInputs, graph: Graph) -> tuple[ResidualBlock, ...]:
    """Every residual branch whose modules can be skipped, in the order of the model.

    All of them were tried: with them skipped, the model runs the same operators outside of them, in the same shapes.
    """
    flow, returned, results = _flow(model, inputs, graph.record)
    found = _Search(model, flow, returned, results).blocks()
    if _fits(model, inputs, graph, flow.events, found):
        return tuple(found)
    return tuple(b for b in found if _fits(model, inputs, graph, flow.events, [b]))


class _Search:
    def __init__(self, model: nn.Module, flow: _Flow, returned: set[int], results: Results) -> None:
        members = Members(model)
        self.events, self.results, self.tensors = flow.events, results, members.tensors
        self.modules = dict(members.once)
        times = Counter(id(m) for _, m in members.all)
        self.shared = {m for m, n in times.items() if n > 1}
        self.producer = {v: k for k, e in enumerate(self.events) for v in e.makes}
        self.consumers: dict[int, list[int]] = {}
        for k, event in enumerate(self.events):
            if event.makes:
                for v in event.reads:
                    if isinstance(v, int) and v > 0:
                        self.consumers.setdefault(v, []).append(k)
        for v in returned:
            self.consumers.setdefault(v, []).append(len(self.events))
        self.runs: dict[str, list[int]] = {}
        for k, event in enumerate(self.events):
            for name in set(event.stack):
                self.runs.setdefault(name, []).append(k)

    def blocks(self) -> list[ResidualBlock]:
        found: list[tuple[set[int], ResidualBlock]] = []
        for k, event in enumerate(self.events):
            values = [v for v in event.reads if isinstance(v, int) and v > 0]
            if event.operator.base != "add" or len(values) != 2 or event.shapes[0] != event.shapes[1] or event.scalars:
                continue
            for trunk, branch in (values, values[::-1]):
                inside = self.branch(k, trunk, branch)
                if inside is None or any(max(b) in inside or inside & b for b, _ in found):
                    continue  # it is an outer branch around one that was found already
                block = self.enclosed(inside, k, trunk, branch) or self.block(inside, branch)
                if block is not None:
                    found.append((inside | {k}, block))
                    break
        return [block for _, block in found]

    def branch(self, add: int, trunk: int, branch: int) -> set[int] | None:
        """The operators between trunk and add, or None where they are no branch of their own."""
        start = self.producer[trunk]
        waiting, reached = [branch], set[int]()
        while waiting:
            k = self.producer.get(waiting.pop(), -1)
            if k > start and k not in reached:
                reached.add(k)
                waiting += [v for v in self.events[k].reads if isinstance(v, int) and v > 0 and v != trunk]
        depends: set[int] = set()
        for k in sorted(reached):
            reads = self.events[k].reads
            if trunk in reads or any(isinstance(v, int) and self.producer.get(v, -1) in depends for v in reads):
                depends.add(k)
        if not depends:
            return None
        inside: set[int] = set()
        for k in sorted(reached, reverse=True):
            if all(c in inside or c == add for v in self.events[k].makes for c in self.consumers.get(v, ())):
                inside.add(k)
        return inside if depends <= inside else None

    def enclosed(self, inside: set[int], add: int, trunk: int, branch: int) -> ResidualBlock | None:
        """The module that computes x + f(x) and nothing else, if there is one: skipped, it gives its input back."""
        for name in reversed(self.events[add].stack):
            if not name or any(self.used(k) and k not in inside and k != add for k in self.runs[name]):
                return None
            calls = self.results.get(name, [])
            form = calls[0][2] if len(calls) == 1 else None
            if (
                form is None
                or calls[0][:2] != (trunk, self.events[add].makes[0])
                or id(self.modules[name]) in self.shared
            ):
                continue
            tensors = self.owned([name])
            if tensors and self.vanishes(inside, set(tensors), set(), branch):
                return ResidualBlock(name, {name: (False, form)}, tensors, self.kind(tensors))
        return None

    def owned(self, modules: Sequence[str]) -> tuple[str, ...]:
        """Parameters and buffers under these modules, or none where others use one of them too."""
        tensors = tuple(n for n in self.tensors if any(n.startswith(m + ".") for m in modules))
        ids = {id(self.tensors[n]) for n in tensors}
        return () if any(id(t) in ids for n, t in self.tensors.items() if n not in tensors) else tensors

    def kind(self, tensors: Sequence[str]) -> tuple[Any, ...]:
        return tuple((n.rpartition(".")[2], tuple(self.tensors[n].shape)) for n in tensors)

    def block(self, inside: set[int], branch: int) -> ResidualBlock | None:
        """The modules to skip, and what goes with them."""
        whole = {
            name
            for name, runs in self.runs.items()
            if name and all(k in inside or not self.used(k) for k in runs) and any(k in inside for k in runs)
        }
        outermost = [n for n in whole if not any(n != m and n.startswith(m + ".") for m in whole)]
        outermost.sort(key=lambda n: self.runs[n][0])
        if not outermost:
            return None
        last = max(outermost, key=lambda n: max(k for k in self.runs[n] if k in inside))
        skips: dict[str, tuple[bool, int]] = {}
        for name in outermost:
            module = self.modules[name]
            forms = {form for _, _, form in self.results.get(name, [])}
            form = forms.pop() if len(forms) == 1 else None
            if form is None or id(module) in self.shared:
                return None
            skips[name] = (name == last, form)
        tensors = self.owned(outermost)
        if not tensors or not self.vanishes(inside, set(tensors), set(), branch):
            return None
        replaced = {k for name in outermost for k in self.runs[name]}
        gone = {v for k in self.runs[last] for v in self.events[k].makes}
        if branch not in gone and not self.vanishes(inside - replaced, set(), gone, branch):
            return None
        return ResidualBlock(last, skips, tensors, self.kind(tensors))

    def used(self, k: int) -> bool:
        """Whether anything reads what an operator made (views make nothing, some kernels leave scratch)."""
        return any(v in self.consumers for v in self.events[k].makes)

    def vanishes(self, inside: set[int], named: set[str], zeros: set[int], branch: int) -> bool:
        """Whether `branch` is exactly zero when the named tensors and these values are."""
        zero: set[Any] = {*named, *zeros}
        for k in sorted(inside):
            event = self.events[k]
            if _is_zero(event, zero):
                zero |= set(event.makes)
        return branch in zero


def _is_zero(event: _Event, zero: set[Any]) -> bool:
    """Whether an operator's result is zero, where these values and named tensors are."""
    given: list[bool | None] = [None if r is None else r in zero for r in event.reads]
    return passes(event.operator.zero, [*given, False] if event.scalars else given)


def _form(result: Any) -> int | None:
    """0 for a tensor, n for a tuple of n that begins with its only important one, None for anything else."""
    if isinstance(result, Tensor):
        return 0
    if type(result) is tuple and result and isinstance(result[0], Tensor):
        return len(result)
    return None


def _fits(
    model: nn.Module, inputs: ExampleInputs, graph: Graph, dense: Sequence[_Event], blocks: Sequence[ResidualBlock]
) -> bool:
    """Whether the model still runs without these blocks, with the same operators around them."""
    skips = {name: form for block in blocks for name, form in block.skips.items()}
    if not skips:
        return True
    try:
        flow, _, _ = _flow(model, inputs, graph.record, skips)
    except Exception:
        return False
    return _outside(dense, skips) == _outside(flow.events, skips)


def _outside(events: Sequence[_Event], skips: dict[str, Any]) -> list[tuple[str, str]]:
    """Operators that run outside the skipped modules."""
    return [(e.operator.base, e.stack[-1]) for e in events if not skips.keys() & set(e.stack)]
