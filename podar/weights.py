"""Reads a checkpoint (safetensors, or a state dict that torch saved) into a model, and refuses what does not fit."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from podar.errors import PodarError, nearest

# Training scripts wrap the state dict under one of these names; the averaged weights come first where there are any.
_WRAPPERS = (
    "model_ema",
    "ema_state_dict",
    "state_dict_ema",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "params",
    "weights",
)
_PREFIXES = ("module.", "_orig_mod.", "model.")  # DataParallel, torch.compile, Lightning


def read_state(path: str | Path, trust: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by name.

    **Arguments:**

    - `path`: a .safetensors file, or a .pt, .pth, .bin or .ckpt file that `torch.save` wrote.
    - `trust`: unpickle the file even where it holds more than tensors. That can run any program.

    **Raises:** `PodarError` for a missing file, a damaged one, one without tensors, or a pickle that needs trust.
    """
    path = Path(path)
    if path.is_dir():
        raise PodarError(f"{path} is a folder, and weights are a file: podar reads safetensors and state dicts.")
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else None
        raise PodarError(
            f"there is no weights file {path}" + (f"; did you mean {path.with_name(near)}?" if near else ".")
        )
    if is_pickle(path):
        return _tensors(_unpickle(path, trust), path)
    return read_safetensors(path)


def is_pickle(path: Path) -> bool:
    """Whether the file begins like what `torch.save` (zip) or pickle writes; its name says nothing."""
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    **Raises:** `PodarError` when it is damaged or something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise PodarError(
            f"{path} is no readable checkpoint ({error}): podar reads safetensors files "
            "and state dicts that torch.save wrote."
        ) from error


def _unpickle(path: Path, trust: bool) -> Any:
    try:
        with path.open("rb") as file:  # given a path, torch would go by its suffix
            return torch.load(file, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        needs = _what_it_needs(path, error)
        raise PodarError(
            f"{path} is a pickle that holds more than tensors ({needs}), and loading such a file can "
            "run any program: save a state dict or safetensors instead, or add --trust if you know where it comes from."
        ) from error
    except Exception as error:
        with path.open("rb") as file:
            bare = file.read(1) == b"\x80"
        if bare:  # pickled by something else than torch.save, which writes a zip archive
            raise PodarError(
                f"{path} is a pickle that cannot be read safely, since loading such a file can run any program: save a "
                "state dict or safetensors instead, or add --trust if you know where it comes from."
            ) from error
        reason = str(error).splitlines()[0].rpartition("] . ")[2].rstrip(".") if str(error) else type(error).__name__
        raise PodarError(f"{path} cannot be read ({reason}): the file is damaged or no checkpoint.") from error


def _what_it_needs(path: Path, error: Exception) -> str:
    try:
        unsafe = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not a zip archive, or not a pickle at all: the unpickler's own words must do
        unsafe = []
    if unsafe:
        return unsafe[0]
    first = str(error).splitlines()[0]
    return "torch cannot tell which" if "weights_only" in first else first  # torch goes on about its arguments


def _tensors(loaded: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(loaded, nn.Module):
        loaded = loaded.state_dict()
    while isinstance(loaded, Mapping):
        found = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
        if found:
            return found
        inner = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), (Mapping, nn.Module))), None)
        loaded = inner.state_dict() if isinstance(inner, nn.Module) else inner
    raise PodarError(
        f"{path} holds no state dict: podar looked for tensors by name, also under {', '.join(_WRAPPERS)}."
    )


def load_weights(model: nn.Module, state: Mapping[str, Tensor], of: str) -> None:
    """Copy a checkpoint into a model; all of it must fit.

    **Arguments:** `state`: tensors by name (prefixes of DataParallel, torch.compile and Lightning may stand before
    them); `of`: the file, for messages.

    **Raises:** `PodarError` that names the first tensor whose shape differs, with both shapes, or which is missing.
    """
    own = model.state_dict()
    state = _without_prefix(state, own)
    for name, mine in own.items():  # in the model's order: safetensors sorts by name
        if name in state and mine.shape != state[name].shape:
            raise PodarError(_shapes_clash(name, own, state[name], of))
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in own]
    if missing or unknown:
        first = missing[0] if missing else unknown[0]
        kind, other = ("lacks", unknown) if missing else ("has no place in the model for", missing)
        near = nearest(first, other)
        count = len(missing or unknown)
        more = f" and {count - 1} more" if count > 1 else ""
        raise PodarError(
            f"{of} {kind} the tensor {first}{more}"
            + (f" (it has {near})" if near and missing else "")
            + ": it belongs to another model."
        )
    tied = {name for name in own if name not in state}
    model.load_state_dict({**{name: own[name] for name in tied}, **state})


def _without_prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = dict(state)
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            if not any(name in own for name in state) and all(name.startswith(prefix) for name in state):
                state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _shapes_clash(name: str, own: Mapping[str, Tensor], tensor: Tensor, of: str) -> str:
    mine, theirs = tuple(own[name].shape), tuple(tensor.shape)
    text = f"{name} has shape {theirs} in {of} and {mine} in the model"
    tail = [key for key in own if not key.endswith("num_batches_tracked")][-2:]  # weight and bias of the last layer
    if name in tail and mine[1:] == theirs[1:]:
        return f"{text}: if the file is right, add --model-arg num_classes={theirs[0]}."
    return f"{text}: the file belongs to another model, or to other --model-arg values."


def check_finite(model: nn.Module, of: str) -> None:
    """Refuse a model that holds a NaN or an infinite weight or running statistic.

    Other buffers may hold infinities with good reason: attention masks do.

    **Raises:** `PodarError` that names the first such tensor and how many of its values are bad.
    """
    statistics = [(name, b) for name, b in model.named_buffers() if name.endswith(("running_mean", "running_var"))]
    for name, tensor in [*model.named_parameters(), *statistics]:
        if tensor.is_meta or not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
            continue
        bad = int((~torch.isfinite(tensor)).sum())
        kind = "NaN" if bool(torch.isnan(tensor).any()) else "infinite"
        raise PodarError(
            f"{of}: {bad} of the {tensor.numel()} values of {name} are {kind}, so nothing computed from them means "
            "anything: load a checkpoint from before the training diverged."
        )
