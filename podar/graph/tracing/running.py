"""Runs a twin of the model once and records how labels flow from operator to operator."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from podar.errors import PodarError
from podar.graph.operators.computed_weights import as_one_operator
from podar.graph.operators.quantizers import as_a_quantizer
from podar.graph.operators.statistics import refuse
from podar.graph.operators.tracer import Tracer
from podar.graph.record import Record, Step
from podar.graph.tracing.calls import Calls
from podar.graph.tracing.dispatch import Dispatch
from podar.graph.tracing.shortcuts import plainly, shortcuts
from podar.graph.tracing.training import with_training
from podar.graph.tracing.twins import Again, Own, twin
from podar.model.inputs import ExampleInputs, call, example_tensors, named_tensors
from podar.model.members import Members
from podar.model.nested_traces import outside_of_other_traces

Call = Callable[..., Any]
Around = Callable[[str, nn.Module, Call], Call]
"""What is called instead of a module, given its name, the module and its own call."""

Change = Callable[[nn.Module], None]
"""What is done to the twin of a model before it runs."""

T = TypeVar("T")


def observe(model: nn.Module, inputs: ExampleInputs, members: Members | None = None) -> Record:
    """Run the model once on `inputs` and return what its operators showed.

    Operators are not computed where values do not matter; a model that looks at its activations is run for real.
    Parameters that only training uses (auxiliary heads) are met in a second run, in train mode, joined to the first.
    All runs are those of a twin: nothing of the model, the inputs and torch's random state is touched.
    """
    members = members or Members(model)
    try:
        record = _run(members, inputs, Record, real=False)
    except Exception:
        # Values mattered after all, or the model itself fails: the real run tells which.
        record = _run(members, inputs, lambda: Record(real=True), real=True)
    if members.parameters.keys() - record.met:
        record = with_training(
            record, lambda start, real, end: _run(members, inputs, start, train=True, real=real, broken=end)
        )
    record.sizes.finish()
    return record


def replay(
    model: nn.Module, inputs: ExampleInputs, like: Record, real: bool = False, change: Change | None = None
) -> list[Step]:
    """The operators of one forward pass, without labels. Where the model looks at values, it is given those of `like`.

    **Arguments:** `change`: what is done to the twin that runs, before it does.
    """
    told = like.decisions
    return _run(Members(model), inputs, lambda: Record(decisions=told), real=real, labels=False, change=change).steps


def replay_training(
    model: nn.Module, inputs: ExampleInputs, like: Record, real: bool = False, change: Change | None = None
) -> list[Step]:
    """The operators of one pass in train mode, for a record that has such a pass."""
    assert like.training is not None
    told = like.training.decisions
    members = Members(model)
    return _run(
        members, inputs, lambda: Record(decisions=told), train=True, real=real, labels=False, change=change
    ).steps


def _run(
    members: Members,
    inputs: ExampleInputs,
    start: Callable[[], Record],
    *,
    train: bool = False,
    real: bool,
    labels: bool = True,
    broken: Callable[[Dispatch, Exception], None] | None = None,
    change: Change | None = None,
) -> Record:
    """One run, written down in a record that `start` makes; `broken` is told of an exception while marks stand."""

    def once(own: Own) -> Record:
        record = start()
        with alone(), twin(members, inputs, train=train, own=own, change=change) as double:
            run = Dispatch(double, record, real, labels)
            calls = Calls(run, train)
            with watching(run, None if train else shortcuts(calls)):
                if labels:
                    record.sizes.attach(double.modules)
                try:
                    with calls, run:
                        output = call(double.model, double.inputs)
                except Exception as error:
                    if broken is None:
                        raise
                    broken(run, error)
                    return record
                if run.tracer is not None:
                    _write_outputs(run.tracer, named_tensors(output))
        return record

    return with_what_it_needs(once)


def _write_outputs(tracer: Tracer, outputs: Iterable[tuple[str, Tensor]]) -> None:
    """The labels of what the model returns, which may be no statistics, and whose makers are read by others."""
    for path, tensor in outputs:
        mark, blocks = tracer.mark(tensor), tracer.blocks(tensor)
        tracer.record.outputs.append((path, blocks))
        tracer.record.spilled.append((mark.makers, blocks))
        if mark.statistic is not None:
            refuse(tracer, [mark.statistic])


def with_what_it_needs(run: Callable[[Own], T]) -> T:
    """Run on a twin that shares what most models leave alone, and again where this one does not."""
    own = Own()
    while True:
        try:
            return run(own)
        except Again as again:
            more = Own(own.storages | again.storages, own.containers or again.containers)
            if more == own:
                raise PodarError("the model changes its own weights in a way that a trace cannot follow") from again
            own = more


@contextlib.contextmanager
def alone() -> Generator[None]:
    """Keep out of the run what the caller has set for this thread."""
    with (
        torch.inference_mode(False),  # in inference mode other operators would arrive
        torch.no_grad(),
        outside_of_other_traces(),
    ):
        yield


@contextlib.contextmanager
def watching(run: Dispatch, around: Around | None = None) -> Generator[None]:
    """Prepare the run of a twin (module names, marks of its inputs), and let go of everything afterwards."""
    meta = next((n for n, t in run.tensors.items() if t.is_meta), None)
    if meta is not None:
        raise PodarError(
            f"{meta} is on the meta device and has no values: load weights, or call model.to_empty(device='cpu')"
        )
    _follow(run, around)
    run.begin(list(example_tensors(run.twin.inputs)))
    try:
        yield
    finally:
        run.clear()


def _follow(run: Dispatch, around: Around | None) -> None:
    """Keep the name of the module that runs on top of a stack.

    Each module is changed by itself: a change of `nn.Module.__call__` would empty the method caches of all subclasses.
    """

    def whole(function: Call, name: str, args: tuple[Any, ...]) -> Any:
        with plainly():
            return run.whole(function, name, args, {})

    for name, module in run.twin.modules:
        call = module._call_impl  # pyright: ignore[reportPrivateUsage]
        if around is not None:
            call = around(name, module, call)
        call = as_a_quantizer(whole, module, as_one_operator(whole, module, call))
        module.__dict__["_compiled_call_impl"] = _entering(name, call, run.stack)  # what `__call__` asks for first


def _entering(name: str, call: Call, stack: list[str]) -> Call:
    def entered(*args: Any, **kwargs: Any) -> Any:
        stack.append(name)
        try:
            return call(*args, **kwargs)
        finally:
            stack.pop()

    return entered
