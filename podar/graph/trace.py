"""Runs the model once and records how labels flow from operator to operator."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import nn

from podar.errors import PodarError
from podar.graph.calls import Calls, transparent_functionals
from podar.graph.computed import as_one_operator
from podar.graph.decisions import Told
from podar.graph.inputs import ExampleInputs, call, example_tensors, named_tensors
from podar.graph.members import Members
from podar.graph.protect import protected
from podar.graph.quantizers import as_a_quantizer
from podar.graph.shortcuts import shortcuts
from podar.graph.statistics import refuse
from podar.graph.tracer import Mark, Record, Step, Tracer

Call = Callable[..., Any]
Around = Callable[[nn.Module, Call], Call]
"""What is called instead of a module, given the module and its own call."""


def observe(model: nn.Module, inputs: ExampleInputs, members: Members | None = None) -> Record:
    """Run the model once on `inputs` and return what its operators told.

    Operators are not computed where values do not matter; a model that looks at its activations is run for real.
    Parameters that only training uses (auxiliary heads) are met in a second run, in train mode, joined to the first.
    The model, the random state and the inputs are left as they were.
    """
    record, members = Record(), members or Members(model)
    try:
        _run(model, members, inputs, record, train=False, real=False)
    except Exception:
        # Values mattered after all, or the model itself fails: the real run tells which.
        record = Record(real=True)
        _run(model, members, inputs, record, train=False, real=True)
    if members.parameters.keys() - record.layouts.keys():
        steps, outputs = record.steps, record.outputs
        products, record.products, record.steps = record.products, [], []
        with contextlib.suppress(Exception):
            _run(model, members, inputs, record, train=True, real=False)
        record.steps, record.products, record.outputs = steps, products, outputs + record.outputs
    record.sizes.finish()
    return record


def replay(model: nn.Module, inputs: ExampleInputs, like: Record, real: bool = False) -> list[Step]:
    """The operators of one forward pass, without labels. Where it looks at values, it is told those of `like`."""
    record = Record(decisions=like.decisions)
    _run(model, Members(model), inputs, record, train=False, real=real, labels=False)
    return record.steps


def _run(
    model: nn.Module,
    members: Members,
    inputs: ExampleInputs,
    record: Record,
    *,
    train: bool,
    real: bool,
    labels: bool = True,
) -> None:
    tracer = Tracer(members, record, real, labels)
    meta = next((n for n, t in tracer.tensors.items() if t.is_meta), None)
    if meta is not None:
        raise PodarError(
            f"{meta} is on the meta device and has no values: load weights, or call model.to_empty(device='cpu')"
        )
    if not labels:
        tracer.told = Told(record.decisions)
    calls = Calls(tracer)
    with watching(members, inputs, tracer, None if train else shortcuts(calls), train=train):
        if labels:
            record.sizes.attach(members.once)
        with calls, tracer:
            output = call(model, inputs)
        record.outputs = [(path, tracer.blocks(t)) for path, t in named_tensors(output)]
        refuse(tracer, [s for _, t in named_tensors(output) if (s := tracer.mark(t).statistic) is not None])
        record.spilled += [(tracer.mark(t).makers, tracer.blocks(t)) for _, t in named_tensors(output)]


@contextlib.contextmanager
def watching(
    members: Members, inputs: ExampleInputs, tracer: Tracer, around: Around | None = None, *, train: bool = False
) -> Generator[None]:
    """All that stands ready around a run: a model that will be as it was, modules by name, inputs with marks."""
    with (
        torch.inference_mode(False),  # a caller's would bring other operators
        protected(members, train=train),
        torch.no_grad(),
        transparent_functionals(),
        no_collection(),
    ):
        _follow(members, tracer, around)
        tracer.begin()
        for tensor in example_tensors(inputs):
            # Values of floating-point inputs do not matter; token ids index tables, so theirs do.
            tracer.attach(tensor, Mark(hollow=tensor.is_floating_point(), needs=tracer.given))
            tracer.knows_inputs = True
        try:
            yield
        finally:
            tracer.clear()


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


def _follow(members: Members, tracer: Tracer, around: Around | None) -> None:
    """Keep the name of the module that runs on top of a stack; `protected` takes away again what is set here.

    Each module is told apart: a change of `nn.Module.__call__` would empty the method caches of all its subclasses.
    """
    for name, module in members.once:
        call = module._call_impl  # pyright: ignore[reportPrivateUsage]
        if around is not None:
            call = around(module, call)
        call = as_a_quantizer(tracer, module, as_one_operator(tracer, module, call))
        module.__dict__["_compiled_call_impl"] = _entering(name, call, tracer.stack)  # what `__call__` asks for first


def _entering(name: str, call: Call, stack: list[str]) -> Call:
    def entered(*args: Any, **kwargs: Any) -> Any:
        stack.append(name)
        try:
            return call(*args, **kwargs)
        finally:
            stack.pop()

    return entered
