"""Sparse checkpoints: safetensors in which each tensor is dense, a bitmask or a list of gaps, whichever is smallest."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from podar.errors import PodarError, sizes
from podar.files import atomic_path
from podar.sparse.layers import weights_of
from podar.trust.memory import free_memory
from podar.trust.plain import loads_json

KEY = "podar.sparse"
ESCAPE = 255  # in a list of gaps: that many zeros, and no value after them
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def save_sparse(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write the tensors of a model as it computes: masks are applied, `weight_orig` becomes `weight`.

    A tensor of n elements, k of them not zero, takes n·b bytes dense, n/8 + k·b with a bitmask, and about k + k·b with
    gaps (the zeros before each value, one byte). At 90 % zeros float32 takes 13 % of its dense size. What comes back is
    the same to the bit: zeros with a minus sign too, for which one more bit a zero is stored where there are any.

    **Returns:** The path.

    **Raises:** `PodarError`: a mask that does not fit its weight, or a file that cannot be written.

    ```python
    podar.sparsify(model, 0.9)
    save_sparse(model, "model.sparse.safetensors")
    fresh.load_state_dict(load_sparse("model.sparse.safetensors"))
    ```
    """
    from safetensors.torch import save_file

    stored: dict[str, Tensor] = {}
    notes: dict[str, Any] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, (identity, tensor) in _effective(model).items():
        if identity in first:
            notes[name] = {"same_as": first[identity]}
            continue
        first[identity] = name
        parts, note = encode(tensor.cpu())
        stored.update({name + suffix: part for suffix, part in parts.items()})
        notes[name] = note
    with atomic_path(path) as temporary:
        save_file(stored, str(temporary), metadata={"format": "pt", KEY: json.dumps(notes, separators=(",", ":"))})
    return Path(path)


def load_sparse(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read what `save_sparse` wrote: a dense state dict.

    **Raises:** `PodarError`: no such file, a damaged one, or one that `save_sparse` did not write.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise PodarError(f"there is no sparse checkpoint {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            notes = loads_json((file.metadata() or {})[KEY])
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state: dict[str, Tensor] = {}
        for name, note in notes.items():
            state[name] = state[note["same_as"]] if "same_as" in note else decode(stored, name, note)
    except (SafetensorError, KeyError, ValueError, TypeError, IndexError, RuntimeError, AttributeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise PodarError(
            f"{path} is no sparse checkpoint of podar, or damaged ({type(error).__name__}: {reason}): save it again "
            "with podar.sparse.save_sparse"
        ) from error
    return state


def encode(tensor: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The parts of one tensor by the suffix of their names, and what a reader must know of them."""
    flat = tensor.detach().contiguous().flatten()
    size, count = flat.element_size(), flat.numel()
    dense = {"": tensor.detach().clone().contiguous()}, {"encoding": "dense"}
    if not count or flat.is_complex() or flat.is_quantized or tensor.dim() < 2:
        return dense
    bits = flat.view(_BITS[size])
    minus = (
        bits == torch.iinfo(bits.dtype).min if flat.is_floating_point() else torch.zeros_like(bits, dtype=torch.bool)
    )
    kept = (bits != 0) & ~minus
    where = kept.numpy()
    values = flat[kept]
    mask = np.packbits(where)
    gaps = _gaps(np.flatnonzero(where))
    parts = {":values": values}
    if bool(minus.any()):
        parts[":signs"] = torch.from_numpy(np.packbits(minus.numpy()[~where]))
    encoding, place = ("gaps", gaps) if len(gaps) < len(mask) else ("bitmask", mask)
    parts[f":{encoding}"] = torch.from_numpy(place)
    if sum(part.numel() * part.element_size() for part in parts.values()) >= count * size:
        return dense
    return parts, {"encoding": encoding, "shape": list(tensor.shape)}


def decode(stored: dict[str, Tensor], name: str, note: dict[str, Any]) -> Tensor:
    """The inverse of `encode`."""
    if note["encoding"] == "dense":
        return stored[name]
    shape, values = note["shape"], stored[f"{name}:values"]
    count = math.prod(shape)
    if count * (values.element_size() + 1) > free_memory() or min(shape, default=0) < 0:
        raise ValueError(f"{name} says that it is {sizes(shape)}, which is more than this machine's memory holds")
    if note["encoding"] == "bitmask":
        where = np.unpackbits(stored[f"{name}:bitmask"].numpy(), count=count).astype(bool)
    else:
        gaps = stored[f"{name}:gaps"].numpy().astype(np.int64)
        ends = gaps < ESCAPE
        where = np.zeros(count, dtype=bool)
        where[np.cumsum(gaps + ends)[ends] - 1] = True
    tensor = torch.zeros(count, dtype=values.dtype)
    kept = torch.from_numpy(where)
    if f"{name}:signs" in stored:
        zeros = ~kept
        minus = np.unpackbits(stored[f"{name}:signs"].numpy(), count=int(zeros.sum())).astype(bool)
        tensor[zeros.nonzero().flatten()[torch.from_numpy(minus)]] = -0.0
    tensor[kept] = values
    return tensor.reshape(shape)


def _gaps(places: np.ndarray) -> np.ndarray:
    """Zeros before each place, one byte each, after as many `ESCAPE`s as they need."""
    gap = np.diff(places, prepend=-1) - 1
    escapes = gap // ESCAPE
    written = np.full(len(gap) + int(escapes.sum()), ESCAPE, dtype=np.uint8)
    written[np.cumsum(escapes + 1) - 1] = gap % ESCAPE
    return written


def _effective(model: nn.Module) -> dict[str, tuple[tuple[Any, ...], Tensor]]:
    """{name: (what tells shared tensors, tensor)} of the state dict that the model would have without masks."""
    weights_of(model, computed="skip")  # refuses masks that do not fit
    state = {n: t for n, t in model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
    found = {}
    for name, tensor in state.items():
        plain, mask = name.removesuffix("_orig"), state.get(f"{name.removesuffix('_orig')}_mask")
        if name.endswith("_mask") and f"{name.removesuffix('_mask')}_orig" in state:
            continue
        identity = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if not tensor.numel():
            identity = (name,)
        if name.endswith("_orig") and mask is not None:
            found[plain] = identity, tensor.detach().masked_fill(mask == 0, 0.0)
        else:
            found[name] = identity, tensor.detach()
    return found
