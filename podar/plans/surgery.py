"""Carrying a plan out: slices removed (apply), or zeroed (mask). What fails is undone."""

from __future__ import annotations

import copy
import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from podar.errors import PodarError
from podar.model.members import Members
from podar.model.nested_traces import outside_of_other_traces
from podar.model.quantizers import is_quantizer
from podar.model.wrappers import bare, reshaping
from podar.plans.computed_weights import partners
from podar.plans.cutting import Slicer, empty_after
from podar.plans.plan import Computed, Cut, Plan, Rescale
from podar.plans.skipped_blocks import Skipped, replace

PLAN_ATTRIBUTE = "podar_plan"
"""Where a pruned model carries its plan, as a JSON string: deepcopy, pickling and other trainers keep it."""


@outside_of_other_traces()
def apply(model: nn.Module, plan: Plan) -> nn.Module:
    """Remove what a plan lists, in place.

    Parameters stay the same objects (ties hold, names stay); their gradients are dropped, since shapes change.
    Optimizers made before keep state of the old shapes: make them anew.

    **Arguments:**

    - `model`: the model that the plan was made for, with the same parameter names and shapes, under wrappers or not.
    - `plan`: from `podar.plan`, `podar.Plan.load` or `result.plan`.

    **Returns:** The model.

    **Raises:** `PodarError`: a name or shape of the plan is not the model's; the model is left as it was.

    ```python
    podar.apply(model, podar.Plan.load("plan.json"))
    ```
    """
    with reshaping(model) as own:
        undo = Undo(own)
        try:
            for step in plan.steps:
                fill(reshape(own, step, undo))
        except BaseException:
            undo.restore()
            raise
    return model


def mask(model: nn.Module, plan: Plan) -> nn.Module:
    """Zero what a plan would remove, in place: the same numbers in the dense shape. Returns the model.

    **Raises:** `PodarError`: a name or shape of the plan is not the model's, or the plan has several steps (shapes
    differ).
    """
    if any(step.cuts for step in plan.earlier):
        raise PodarError(
            "a plan of several steps cannot be a mask: each step counts in the shapes that the last one left"
        )
    members = Members(bare(model))
    for step in plan.steps:
        _check(members, step)
    tensors = members.tensors
    with torch.no_grad():
        for name in plan.dropped():
            tensors[name].zero_()
        made = partners(tensors, plan, _zeroed)
        for name, cuts in plan.cuts.items():
            if not is_quantizer(type(members.owners[name][0])):  # a quantizer would divide by a scale of 0
                zero(tensors[name], _but_rows(cuts, plan.computed.get(name)))
        for name, value in made.items():
            tensors[name].copy_(value)
    return model


def _zeroed(tensor: Tensor, cuts: tuple[Cut, ...]) -> Tensor:
    copied = tensor.detach().clone()
    zero(copied, cuts)
    return copied


def _but_rows(cuts: tuple[Cut, ...], computed: Computed | None) -> tuple[Cut, ...]:
    """All cuts but those of rows under weight norm: a row of zeros would give 0 / 0, and zeros in g do the same."""
    return cuts if computed is None or computed.kind != "length" else tuple(c for c in cuts if c.dim != computed.dim)


def zero(tensor: Tensor, cuts: tuple[Cut, ...]) -> None:
    """Set the slices in `cuts` to zero."""
    tensor.masked_fill_(removed_mask(tuple(tensor.shape), cuts).to(tensor.device), 0)


def removed_mask(shape: tuple[int, ...], cuts: tuple[Cut, ...]) -> Tensor:
    """BoolTensor of the dense shape: True where an element is removed."""
    gone = torch.zeros(shape, dtype=torch.bool)
    for cut in cuts:
        index = torch.from_numpy(cut.array)
        if cut.groups == 1:
            gone.index_fill_(cut.dim, index, True)
            continue
        # (g, O/g, I, …): input channel i of all groups is position i % I in group i // I.
        parts = gone.view(cut.groups, shape[0] // cut.groups, *shape[1:])
        width = cut.size // cut.groups
        parts[index // width, :, index % width] = True
    return gone


class Undo:
    """Remembers tensors and attributes before they change, and puts them back."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters: list[tuple[nn.Parameter, Tensor, Tensor | None]] = []
        self.buffers: list[tuple[nn.Module, str, Tensor]] = []
        self.attributes: list[tuple[Any, str, Any]] = []
        self.modules: list[tuple[str, nn.Module]] = []
        self.plan = model.__dict__.get(PLAN_ATTRIBUTE)

    def restore(self) -> None:
        for name, module in reversed(self.modules):
            replace(self.model, name, module)
        for parameter, data, grad in reversed(self.parameters):
            _set_data(parameter, data)
            parameter.grad = grad
        for module, name, buffer in reversed(self.buffers):
            module._buffers[name] = buffer
        for module, name, value in reversed(self.attributes):
            if isinstance(module, nn.Module):
                setattr(module, name, value)
            else:
                module.__dict__[name] = value
        if self.plan is None:
            self.model.__dict__.pop(PLAN_ATTRIBUTE, None)
        else:
            self.model.__dict__[PLAN_ATTRIBUTE] = self.plan


def _check(members: Members, plan: Plan) -> None:
    tensors = members.tensors
    for name, shape in plan.shapes.items():
        if name not in tensors:
            raise PodarError(f"the plan cuts {name!r}, which this model does not have; was it made for another model?")
        if tensors[name].shape != tuple(shape):
            raise PodarError(
                f"the plan expects {name} of shape {tuple(shape)}, the model's is {tuple(tensors[name].shape)}; "
                "was it carried out already, or made for another model?"
            )
    known = dict(members.all)
    for name in plan.skips:
        if name not in known:
            raise PodarError(f"the plan skips {name!r}, which this model does not have; was it made for another model?")
    for name in plan.attributes:
        if name not in known:
            raise PodarError(f"the plan sets attributes of {name!r}, which this model does not have")
    for name, rescales in plan.rescales.items():
        sizes = list(tensors[name].shape) if name in tensors else []
        for cut in plan.cuts.get(name, ()):
            sizes[cut.dim] -= len(cut.removed) // cut.groups
        if any(r.dim >= len(sizes) or max(r.indices, default=-1) >= sizes[r.dim] for r in rescales):
            raise PodarError(f"the plan rescales {name!r}, which this model does not have; was it made for another?")
    for name, computed in plan.computed.items():
        if not {name, *computed.partners} <= tensors.keys():
            raise PodarError(f"the plan cuts {name!r} and what it is made of, which this model does not have")


class Slot(NamedTuple):
    """A parameter that has its new shape, and what its values will be cut from."""

    parameter: nn.Parameter
    dense: Tensor
    cuts: tuple[Cut, ...]
    rescales: tuple[Rescale, ...]


class Pending(NamedTuple):
    """What `reshape` leaves to do: matrices to fill, and modules with masks of `torch.nn.utils.prune`."""

    slots: list[Slot]
    masked: list[nn.Module]
    slicer: Slicer


def reshape(model: nn.Module, plan: Plan, undo: Undo) -> Pending:
    """Carry out one step of a plan but for the values of matrices, which `fill` brings; all refusals come from here.

    Vectors and buffers have their values at once: they are small, and a forward pass may look at buffers. The model
    carries the plan from then on, joined to what it carried before.
    """
    members = Members(model)
    _check(members, plan)
    modules, owners = dict(members.all), members.owners
    uses: dict[int, tuple[Tensor, list[str]]] = {}  # by identity: each tensor that changes, with its names
    others = [partner for computed in plan.computed.values() for partner in computed.partners]
    for name in [*plan.cuts, *({*plan.rescales, *others} - plan.cuts.keys())]:
        tensor = members.tensors[name]
        uses.setdefault(id(tensor), (tensor, []))[1].append(name)
    slots: list[Slot] = []
    slicer = Slicer()
    with torch.inference_mode(False), torch.no_grad():  # tensors made in inference mode can never be trained
        values = {k: tensor.data for k, (tensor, _) in uses.items()}
        short = [(k, uses[k][1][0]) for k, dense in values.items() if dense.dim() == 1 and _plain(dense)]
        vectors = {k: plan.cuts[name][0] for k, name in short if name in plan.cuts and name not in plan.rescales}
        cut = dict(zip(vectors, slicer.cut_vectors([(values[k], c) for k, c in vectors.items()])))
        if plan.computed:
            made = partners({n: t.data for n, t in members.tensors.items()}, plan, slicer.cut)
            cut |= {id(members.tensors[name]): value for name, value in made.items()}
        for k, (tensor, names) in uses.items():
            cuts, rescales, dense = plan.cuts.get(names[0], ()), plan.rescales.get(names[0], ()), values[k]
            module, key = owners[names[0]]
            parameter = module._parameters.get(key)
            if parameter is None:
                value = cut[k] if k in cut else slicer.cut(dense, cuts)
                for module, key in (owners[name] for name in names):
                    undo.buffers.append((module, key, tensor))
                    module._buffers[key] = value
                continue
            undo.parameters.append((parameter, dense, parameter.grad))
            if k in cut:
                value = cut[k]
            elif _plain(dense):
                slots.append(Slot(parameter, dense, cuts, rescales))
                value = empty_after(dense, cuts) if cuts else dense
            else:  # another kind of tensor may refuse to be cut, so it is cut now
                value = _rescaled(slicer.cut(dense, cuts), rescales)
            if cuts:
                parameter.grad = None
            if value is not dense:
                _set_data(parameter, value)
    for name, (zeros, items) in plan.skips.items():
        undo.modules.append((name, replace(model, name, Skipped(zeros, items).train(modules[name].training))))
    for name, values in plan.attributes.items():
        module = modules[name]
        for key, value in values.items():
            _set(module, key, value, undo)
    if slots:
        largest = max(range(len(slots)), key=lambda place: slots[place].dense.nbytes)
        slots.insert(0, slots.pop(largest))
    earlier = model.__dict__.get(PLAN_ATTRIBUTE)
    model.__dict__[PLAN_ATTRIBUTE] = (Plan.from_json(earlier) + plan if earlier else plan).to_json()
    return Pending(slots, [module for _, module in members.all if module._forward_pre_hooks], slicer)


def fill(pending: Pending, count: int | None = None) -> None:
    """Give parameters (all, or the first `count`) their values, and take them off the list.

    Unless an `Undo` holds it, dense memory is then free for the next. The largest stands first: when that one has found
    room, the others will. An interruption waits for the rest: a model of which half is filled would be lost.
    """
    slots, masked, slicer = pending
    left = 0 if count is None else max(0, len(slots) - count)
    try:
        _fill(slots, left, slicer)
    except BaseException:
        _fill(slots, left, slicer)
        raise
    if not left:
        _renew(masked)
        masked.clear()


def _fill(slots: list[Slot], left: int, slicer: Slicer) -> None:
    with torch.inference_mode(False), torch.no_grad():
        while len(slots) > left:
            slot = slots[0]
            slot.parameter.data = _rescaled(slicer.cut(slot.dense, slot.cuts), slot.rescales)
            slots.pop(0)


def _plain(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and tensor.layout is torch.strided and not tensor.is_quantized


def _set_data(parameter: nn.Parameter, data: Tensor) -> None:
    """Give a parameter other memory, of another shape.

    While a graph of an earlier forward lives (somebody keeps the last loss), torch checks gradients against the shape
    that the parameter had then. Giving the parameter data of another type in between makes torch forget that shape.
    """
    if parameter.requires_grad:
        parameter.data = _nothing(torch.float32 if data.dtype == torch.float64 else torch.float64, data.device)
    parameter.data = data


@functools.cache
def _nothing(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(0, dtype=dtype, device=device)


def renew_masks(model: nn.Module) -> None:
    """Let every weight under a mask of `torch.nn.utils.prune` be computed anew from its original and its mask."""
    _renew([module for module in model.modules() if module._forward_pre_hooks])


def _renew(masked: list[nn.Module]) -> None:
    """Masks, weight norm and spectral norm keep the weight they compute in a plain attribute until the next forward."""
    for module in masked:
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, (BasePruningMethod, WeightNorm)):
                hook(module, None)
            elif isinstance(hook, SpectralNorm):  # calling the hook in train mode would take a step of the power method
                setattr(module, hook.name, hook.compute_weight(module, do_power_iteration=False))


def _rescaled(tensor: Tensor, rescales: tuple[Rescale, ...]) -> Tensor:
    if not rescales:
        return tensor
    tensor = tensor.clone()
    for r in rescales:
        tensor.movedim(r.dim, 0)[list(r.indices)] *= r.factor
    return tensor


def _set(module: Any, key: str, value: int | float, undo: Undo) -> None:
    name, _, index = key.partition("[")
    *path, name = name.split(".")
    for held in path:  # the value lies in a settings object that other modules may hold, so this module gets a copy
        settings = module.__dict__.get(held)
        if settings is None:
            return
        if not hasattr(settings, "__dict__") or isinstance(settings, (nn.Module, type)):
            raise PodarError(f"the plan sets {key} of a {type(module).__name__}, whose {held} holds no settings")
        undo.attributes.append((module, held, settings))
        own = copy.copy(settings)
        module.__dict__[held] = own
        module = own
    old: Any = module.__dict__.get(name) if path else getattr(module, name, None)
    if old is None and (name in module.__dict__ or hasattr(module, name)):
        return  # it is a cache that this copy of the model has not filled yet
    new: Any = value
    was: Any = old
    if index:
        if not isinstance(old, (list, tuple)):
            return  # it is a cache that is not filled yet, too
        items, place = list(old), int(index[:-1])
        was = items[place] if place < len(items) else None
        items[place : place + 1] = [value]
        new = type(old)(items)
    numeric = type(was) is float or (type(was) is int and type(value) is int)
    if not numeric or (value < 0) != (was < 0):
        raise PodarError(
            f"the plan sets {key} of a {type(module).__name__} to {value}, which has no such number ({str(was)[:40]}); "
            "was it made for another model?"
        )
    undo.attributes.append((module, name, old))
    kind = type(module)
    plain = name in module.__dict__ and kind.__setattr__ is nn.Module.__setattr__ and not hasattr(kind, name)
    if path or plain:  # setattr of a module takes ten times as long
        module.__dict__[name] = new
    else:
        setattr(module, name, new)
