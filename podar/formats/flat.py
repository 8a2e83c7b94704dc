"""A model as a function of flat tensors: what every exporter wants, made of a copy so that the model stays as it is."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from podar.errors import PodarError, first_line
from podar.model.containers import Place, leaves, name_of, replaced
from podar.model.inputs import ExampleInputs, argument_names, arguments
from podar.model.tensors import map_tensors, named_tensors


@dataclass(frozen=True)
class Flat:
    """`module(*tensors)` gives a tuple of tensors; names and example tensors lie beside.

    - `module`: a copy of the model on the CPU in eval mode, wrapped.
    - `inputs`: the example's tensors in the order of `input_names`; `inputs[i].shape[0] == batch` where `batched[i]`.
    - `output_names`: by their path in the model's output ("logits", "aux_1"; "output" for a lone tensor).
    """

    module: nn.Module
    inputs: tuple[Tensor, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    batch: int
    batched: tuple[bool, ...]

    def tensors(self, inputs: ExampleInputs) -> tuple[Tensor, ...]:
        """The flat tensors of other inputs of the same form.

        **Raises:** `PodarError` when their number, types or sizes (but for the batch) are not the example's.
        """
        model: Any = self.module.model
        found = _tensors(_given(model, *_arguments(model, inputs)))
        for name, want in zip(self.input_names, self.inputs):
            got = found.get(name)
            if got is None or got.dtype != want.dtype or got.shape[1:] != want.shape[1:] or got.ndim != want.ndim:
                have = "missing" if got is None else f"{tuple(got.shape)} {got.dtype}"
                raise PodarError(
                    f"the check inputs do not have the form of the example inputs: {name} is "
                    f"{tuple(want.shape)} {want.dtype} in the example, {have} in the check inputs."
                )
        return tuple(found[name] for name in self.input_names)

    def with_batch(self, tensors: Sequence[Tensor], batch: int) -> tuple[Tensor, ...]:
        """The tensors repeated or cut to another batch size."""
        return tuple(
            t.repeat(-(-batch // t.shape[0]), *[1] * (t.ndim - 1))[:batch] if grows else t
            for t, grows in zip(tensors, self.batched)
        )

    @torch.no_grad()
    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The model's own outputs."""
        return list(self.module(*tensors))


def flatten(model: nn.Module, example_inputs: ExampleInputs) -> Flat:
    """Copy the model and make it a function of flat tensors.

    **Raises:** `PodarError` when the model cannot be copied, does not run on the example inputs, takes no tensor or
    returns none.
    """
    serving = copy_for_serving(model)
    args, kwargs = _arguments(serving, example_inputs)
    given = _given(serving, args, kwargs)
    inputs = _tensors(given)
    if not inputs:
        raise PodarError("the example inputs hold no tensor: an exported file needs at least one input.")
    # In eval mode itself: an exporter that puts modes back would set all that it holds to its own.
    module = _Flattened(serving, given, tuple(inputs)).eval()
    try:
        with torch.no_grad():
            # Also what Ultralytics' heads need: their anchors are built in one eager forward at this size.
            outputs = dict(named_tensors(serving(*args, **kwargs)))
    except Exception as error:
        shapes = ", ".join(f"{name} {tuple(t.shape)} {t.dtype}" for name, t in inputs.items())
        raise PodarError(f"the model does not run on the example inputs ({shapes}): {first_line(error)}.") from error
    if not outputs:
        raise PodarError("the model returns no tensor on the example inputs: there is nothing to export.")
    batch = next((t.shape[0] for t in inputs.values() if t.ndim), 1)
    return Flat(
        module=module,
        inputs=tuple(inputs.values()),
        input_names=tuple(inputs),
        output_names=_output_names(outputs, set(inputs)),
        batch=batch,
        batched=tuple(t.ndim > 0 and t.shape[0] == batch for t in inputs.values()),
    )


def copy_for_serving(model: nn.Module) -> nn.Module:
    """A copy on the CPU, in eval mode, with masks and parametrizations carried out on its weights.

    **Raises:** `PodarError` when the model cannot be copied.
    """
    # Weights computed from others (weight = weight_orig * weight_mask) refuse deepcopy: hand their values to it.
    computed = {id(t): t.detach() for m in model.modules() for t in vars(m).values() if _is_computed(t)}
    try:
        serving = copy.deepcopy(model, dict(computed))
    except Exception as error:
        raise PodarError(f"the model cannot be copied for the export: {first_line(error)}.") from error
    serving = serving.cpu().eval().requires_grad_(False)
    for module in list(serving.modules()):
        _carry_out_masks(module)
        _carry_out_parametrizations(module)
    return serving


def _carry_out_masks(module: nn.Module) -> None:
    """torch.nn.utils.prune's format: weight_orig and weight_mask become weight."""
    for original in [name for name in module._parameters if name.endswith("_orig")]:
        name = original.removesuffix("_orig")
        values, mask = module._parameters[original], module._buffers.get(f"{name}_mask")
        if values is None or mask is None:
            continue
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == name:
                del module._forward_pre_hooks[key]
        for stale in (original, f"{name}_mask", name):
            if hasattr(module, stale):
                delattr(module, stale)
        module.register_parameter(name, nn.Parameter(values * mask, requires_grad=False))


def _carry_out_parametrizations(module: nn.Module) -> None:
    if not parametrize.is_parametrized(module):
        return
    values = {name: getattr(module, name) for name in module.parametrizations}  # type: ignore[union-attr]
    # Not remove_parametrizations: it edits the class, which the copy shares with the user's model.
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value.detach(), requires_grad=False))


@dataclass(frozen=True)
class _Given:
    """A call of the model: its arguments in the order of forward's parameters, and what each is called.

    The first `positional` arguments come by position, the others by their names.
    """

    names: list[str]
    values: list[Any]
    positional: int

    def filled(self, tensors: Mapping[str, Tensor]) -> _Given:
        """The same call with other tensors, by the names that `_tensors` gives them."""

        def other(place: Place, leaf: Any) -> Any:
            return tensors[name_of(place)] if isinstance(leaf, Tensor) else leaf

        values = [replaced(other, value, (name,)) for name, value in zip(self.names, self.values)]
        return _Given(self.names, values, self.positional)

    def call(self, model: nn.Module) -> Any:
        """What the model returns."""
        by_name = dict(zip(self.names[self.positional :], self.values[self.positional :]))
        return model(*self.values[: self.positional], **by_name)


class _Flattened(nn.Module):
    """Rebuilds the model's arguments from flat tensors, and flattens what it returns."""

    def __init__(self, model: nn.Module, given: _Given, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self._given = given
        self._names = names

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        outputs = self._given.filled(dict(zip(self._names, tensors))).call(self.model)
        return tuple(t for _, t in named_tensors(outputs))


def _arguments(model: nn.Module, inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments, tensors on the CPU; those of a callable are caught on their way in."""
    given = arguments(inputs)
    if given is None:
        if not callable(inputs):
            raise PodarError(
                f"example_inputs is a {type(inputs).__name__}: give a tensor, a tuple, a dict or a callable."
            )
        caught: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        hook = model.register_forward_pre_hook(lambda _, a, k: caught.append((a, k)), with_kwargs=True)
        try:
            with torch.no_grad():
                inputs(model)
        finally:
            hook.remove()
        if len(caught) != 1:
            raise PodarError(
                f"the example inputs call the model {len(caught)} times: an export needs exactly one call."
            )
        given = caught[0]
    args, kwargs = map_tensors(lambda tensor: tensor.detach().cpu(), given)
    return args, kwargs


def _given(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Given:
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise PodarError(
            f"the example inputs do not fit {type(model).__name__}.forward: {first_line(error)}."
        ) from error
    names = argument_names(model, bound.args, bound.kwargs)
    return _Given(names, [*bound.args, *bound.kwargs.values()], len(bound.args))


def _tensors(given: _Given) -> dict[str, Tensor]:
    """The tensors of a call by the names that they have in the file: the argument's, and what leads to the tensor in it
    ("image", "boxes_0").

    **Raises:** `PodarError` where two would have the same name.
    """
    found: dict[str, Tensor] = {}
    for argument, value in zip(given.names, given.values):
        for place, leaf in leaves(value, (argument,)):
            if not isinstance(leaf, Tensor):
                continue
            name = name_of(place)
            if name in found:
                raise PodarError(
                    f"two of the model's inputs would be called {name} in the exported file: rename one of them."
                )
            found[name] = leaf
    return found


def _output_names(outputs: Mapping[str, Tensor], taken: set[str]) -> tuple[str, ...]:
    names: list[str] = []
    for path in outputs:
        name = re.sub(r"\W", "_", path)
        name = f"output_{name}" if name[:1].isdigit() else name or "output"
        while name in taken:
            name += "_out"
        taken.add(name)
        names.append(name)
    return tuple(names)


def _is_computed(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_leaf
