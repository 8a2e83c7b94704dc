"""The state of a model as a safetensors file holds it, and back, to the bit; what cannot be held is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from podar.errors import PodarError
from podar.model.wrappers import is_of_wrapper, plain_name
from podar.plans.forms import computed, parts_of
from podar.trust.plain import Unreadable, loads_json

_OURS = "podar"  # our key among the metadata; all other keys name shared tensors, as safetensors itself writes them
_EXTRA = "_extra_state"

# What safetensors holds; complex128 goes in as pairs of float64.
_NAMES = "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 bfloat16 float32 float64 complex64 complex128"
_FLOAT8 = "float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz"
_TYPES = {getattr(torch, name) for name in f"{_NAMES} {_FLOAT8}".split()}


@dataclass(frozen=True)
class State:
    """What a model holds, under the names that it has without wrappers.

    **Attributes:**

    - `tensors`: parameters and persistent buffers, shared ones under each of their names.
    - `extra`: what modules give as their extra state, plain data.
    - `computed`: weights that parametrizations compute, for a model that holds them plain.
    """

    tensors: dict[str, Tensor]
    extra: dict[str, Any] = field(default_factory=dict)
    computed: dict[str, Tensor] = field(default_factory=dict)


def state_of(model: nn.Module) -> State:
    """What a model holds.

    **Raises:** `PodarError`: something that a safetensors file cannot hold, by name.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise PodarError(f"{name} has no size yet (a lazy layer): run the model once on an input, then save it")
        if tensor.is_meta:
            raise PodarError(f"{name} is on the meta device and has no values: load the weights, then save the model")
    tensors: dict[str, Tensor] = {}
    extra: dict[str, Any] = {}
    for key, value in model.state_dict().items():
        if is_of_wrapper(model, key):
            continue
        name = plain_name(model, key)
        if isinstance(value, Tensor):
            _check(name, value)
            tensors[name] = value
        elif name.endswith(_EXTRA) and _plain(value):
            extra[name] = value
        else:
            what = "extra state that is no plain data" if name.endswith(_EXTRA) else "no tensor"
            raise PodarError(
                f"{name} holds {what} ({type(value).__name__}), which podar.save cannot write: layers quantised by "
                "torch and states of other classes are saved with torch.save, or left away before"
            )
    return State(tensors, extra, {plain_name(model, name): t for name, t in computed(model).items()})


def write(state: State, path: Path) -> None:
    """Write a state as safetensors. A tensor that several names share is written once."""
    from safetensors.torch import save_file

    notes: dict[str, Any] = {"computed": sorted(state.computed), "extra": state.extra, "complex": []}
    written: dict[str, Tensor] = {}
    metadata = {"format": "pt"}
    seen: set[int] = set()
    first: dict[tuple[Any, ...], str] = {}
    for name, tensor in [*state.tensors.items(), *state.computed.items()]:
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.is_conj(), tensor.is_neg())
        kept = first.setdefault(place, name) if tensor.numel() else name
        if kept != name:
            metadata[name] = kept
            continue
        value = tensor.detach().cpu().resolve_conj().resolve_neg()
        if value.dtype == torch.complex128:  # safetensors does not know this type
            notes["complex"].append(name)
            value = torch.view_as_real(value)
        value = value.contiguous()
        memory = value.untyped_storage().data_ptr()
        written[name] = value.clone() if memory in seen else value  # it is a part of a tensor that is written already
        seen.add(memory)
    if any(notes.values()):
        metadata[_OURS] = json.dumps(notes)
    save_file(written, str(path), metadata=metadata)


def read(path: Path) -> State:
    """Read what `write` wrote, or any safetensors file.

    **Raises:** `PodarError`: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        notes = loads_json(metadata[_OURS]) if _OURS in metadata else {}
        extra, of = dict(notes.get("extra", {})), {kind: set(notes.get(kind, ())) for kind in ("computed", "complex")}
        # A copy has memory of its own, aligned for numbers of 16 bytes.
        tensors |= {n: torch.view_as_complex(tensors[n].clone()) for n in of["complex"]}
        tensors |= {name: tensors[kept] for name, kept in metadata.items() if kept in tensors and name not in tensors}
        made = {name: tensors.pop(name) for name in of["computed"]}
    except (
        SafetensorError,
        Unreadable,
        OSError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        raise PodarError(f"{path} is damaged ({error}); save the model again") from error
    return State(tensors, extra, made)


def fill(model: nn.Module, state: State, of: str) -> None:
    """Give a model this state, in the types in which it was saved; it then holds the same bits.

    **Arguments:**

    - `of`: the file, for messages.

    **Raises:** `PodarError`: a tensor is missing, is not the model's, or has another shape.
    """
    keys = {plain_name(model, key): key for key in model.state_dict() if not is_of_wrapper(model, key)}
    tensors = dict(state.tensors)
    for name, value in state.computed.items():  # the saved model computed this weight, and this model holds it plain
        if name in keys:
            for part in parts_of(name, tensors):
                tensors.pop(part)
            tensors[name] = value
    given: dict[str, Any] = {**tensors, **state.extra}
    missing, unknown = keys.keys() - given.keys(), given.keys() - keys.keys()
    if missing or unknown:
        said = f"it lacks {min(missing)}" if missing else f"the model has no {min(unknown)}"
        raise PodarError(f"{of} does not fit the model that build() makes: {said}")
    own = model.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        mine = own[keys[name]]
        if name.endswith(_EXTRA):
            continue
        if not isinstance(mine, Tensor) or mine.shape != tensor.shape:
            shape = tuple(mine.shape) if isinstance(mine, Tensor) else "none"
            raise PodarError(
                f"{of} does not fit the model that build() makes: {name} has shape {tuple(tensor.shape)} in the file "
                f"and {shape} in the model"
            )
    _adopt(model, {keys[name]: tensor for name, tensor in tensors.items()})
    try:
        kept = {key: own[key] for key in own if key not in keys.values()}  # it belongs to a wrapper, not to the model
        model.load_state_dict({**kept, **{keys[name]: value for name, value in given.items()}})
    except (RuntimeError, ValueError, TypeError) as error:
        line = " ".join(str(error).split())[:300]
        raise PodarError(f"{of} does not fit the model that build() makes ({line})") from error
    after = model.state_dict()
    for name, value in tensors.items():
        if not _equal(after[keys[name]], value):
            raise PodarError(
                f"{of} does not fit the model that build() makes: {name} does not keep the values of the file; it may "
                "share its memory with another tensor there"
            )


def with_values(model: nn.Module) -> None:
    """Give parameters and buffers that are on the meta device memory, which `fill` then fills; ties hold.

    **Raises:** `PodarError`: a buffer without values is not among what a file holds.
    """
    made: dict[int, Tensor] = {}
    persistent = set(model.state_dict())
    for path, module in model.named_modules():
        for kind in (module._parameters, module._buffers):
            for key, tensor in kind.items():
                if tensor is None or not tensor.is_meta:
                    continue
                name = f"{path}.{key}" if path else key
                if name not in persistent:
                    raise PodarError(f"build() leaves {name} on the meta device, and no file holds its values")
                memory = torch.empty_like(tensor, device="cpu")
                if isinstance(tensor, nn.Parameter):
                    memory = nn.Parameter(memory, tensor.requires_grad)
                kind[key] = made.setdefault(id(tensor), memory)  # pyright: ignore[reportArgumentType]


def _check(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that no safetensors file can hold."""
    plain = type(tensor) is Tensor or type(tensor) is nn.Parameter or type(tensor) is nn.Buffer
    if not plain or tensor.layout is not torch.strided or tensor.is_quantized:
        kind = "quantized" if tensor.is_quantized else "sparse" if plain else type(tensor).__name__
        raise PodarError(f"{name} is a {kind} tensor, which podar.save cannot write: make it a plain one first")
    if tensor.dtype not in _TYPES:
        raise PodarError(f"{name} has the type {tensor.dtype}, which podar.save cannot write: give it another")


def _plain(value: Any) -> bool:
    """Whether JSON gives a value back as it is."""
    try:
        return _same(loads_json(json.dumps(value)), value)
    except (TypeError, ValueError, RecursionError):
        return False


def _same(a: Any, b: Any) -> bool:
    """Equal values of equal types: JSON makes lists of tuples and texts of whole-number keys."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(type(k) is str and _same(a[k], b[k]) for k in b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _adopt(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a model's tensors the types of the saved ones, and memory of their own."""
    with torch.no_grad():
        for path, module in model.named_modules(remove_duplicate=False):
            for kind in (module._parameters, module._buffers):
                for key, mine in kind.items():
                    given = tensors.get(f"{path}.{key}" if path else key)
                    if mine is None or given is None:
                        continue
                    overlaps = any(s == 0 and n > 1 for s, n in zip(mine.stride(), mine.shape))
                    if mine.dtype == given.dtype and not overlaps:
                        continue
                    new = torch.empty(mine.shape, dtype=given.dtype, device=mine.device)
                    if kind is module._buffers:
                        module._buffers[key] = new
                        continue
                    if not (given.is_floating_point() or given.is_complex()):
                        mine.requires_grad_(False)
                    mine.data = new


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bits."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    one, two = (t.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1) for t in (a, b))
    return not one.numel() or torch.equal(one.view(torch.uint8), two.view(torch.uint8))
