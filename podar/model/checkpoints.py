"""Reads a checkpoint (safetensors, or a state dict that torch saved) into a model, and refuses what does not fit."""

from __future__ import annotations

import argparse
import collections
import pathlib
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from podar.errors import PodarError, nearest
from podar.files import no_file
from podar.trust.plain import read_json

# Training scripts wrap the state dict under one of these names; the averaged weights come first where there are any.
_WRAPPERS = (
    "model_ema",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema_state_dict",
    "ema_model_state_dict",
    "params_ema",
    "ema_model",
    "ema",
    "averaged_model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "params",
    "weights",
)
_OTHERS = ("optim", "sched", "scaler", "rng", "callbacks", "loops")  # what a training script keeps beside the weights
_DEPTH = 4  # so many wrappers may lie within each other
_PREFIXES = ("", "module.", "_orig_mod.", "model.")  # plain, DataParallel, torch.compile, Lightning
_FOLDERS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
_EXTRA = "_extra_state"

# Plain values that training scripts keep in a checkpoint. Making one of them runs no code of the file's.
_HARMLESS = [
    *(argparse.Namespace, collections.defaultdict, pathlib.PosixPath, pathlib.PurePosixPath),
    *(bool, bytes, complex, dict, float, int, list, set, str, tuple),
]


def read_state(path: str | Path, trust: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by name.

    **Arguments:**

    - `path`: a .safetensors file, a .pt, .pth, .bin or .ckpt file that `torch.save` wrote, or the folder (or the index
      of a checkpoint in several files) that Accelerate and transformers write.
    - `trust`: unpickle the file even where it holds more than tensors. That can run any program.

    **Raises:** `PodarError` for a missing file, a damaged one, one without tensors, or a pickle that needs trust.
    """
    path = Path(path)
    if path.is_dir():
        inside = next((path / name for name in _FOLDERS if (path / name).is_file()), None)
        if inside is None:
            raise PodarError(
                f"{path} is a folder, and weights are a file: podar reads safetensors and state dicts, and folders "
                f"that hold one of {', '.join(_FOLDERS)}."
            )
        path = inside
    if not path.is_file():
        raise PodarError(no_file(path, "weights file"))
    if path.name.endswith(".index.json"):
        return {name: t for part in parts_of_index(path) for name, t in read_state(part, trust).items()}
    if is_pickle(path):
        return _tensors(_unpickle(path, trust), path)
    return read_safetensors(path)


def parts_of_index(index: Path) -> list[Path]:
    """The files of a checkpoint in several parts, which lie beside their index.

    **Raises:** `PodarError` for an index that is damaged, or names anything else.
    """
    try:
        names = sorted({str(name) for name in read_json(index)["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PodarError(f"{index} is no index of a checkpoint in several files: save the checkpoint again.") from error
    strange = next((n for n in names if Path(n).name != n or not n.endswith((".safetensors", ".bin"))), None)
    if strange is not None:
        raise PodarError(f"{index} names {strange!r}, which is no file beside it: save the checkpoint again.")
    return [index.with_name(name) for name in names]


def is_pickle(path: Path) -> bool:
    """Whether the file begins like a file of `torch.save` (zip) or of pickle, whatever its name is."""
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
        # Given a path, torch would go by its suffix.
        with path.open("rb") as file, torch.serialization.safe_globals([*_HARMLESS, *_numpy_scalars()]):
            return torch.load(file, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        needs = what_it_needs(path, error)
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


def what_it_needs(path: Path, error: Exception) -> str:
    """The first thing besides tensors that a pickle holds, after torch refused it with `error`."""
    try:
        unsafe = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # no zip archive, or no pickle at all: the message of the unpickler is all that there is
        unsafe = []
    if unsafe:
        return unsafe[0]
    if named := re.search(r"GLOBAL ([\w.]+)", str(error)):  # a file that torch before 1.6 wrote
        return named[1]
    first = str(error).splitlines()[0]
    return "torch cannot tell which" if "weights_only" in first else first  # the rest is about torch's arguments


def _numpy_scalars() -> Iterator[Any]:
    """What numpy's numbers are pickled with: scripts keep the best accuracy as such a number."""
    import numpy as np

    make = np.float64(0).__reduce__()[0]
    yield from (np.dtype, make, (make, "numpy.core.multiarray.scalar"), (make, "numpy._core.multiarray.scalar"))
    yield from {type(np.dtype(code)) for code in "?bhilqBHILQefd"}


def _tensors(loaded: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(loaded, Tensor):
        raise PodarError(f"{path} holds one tensor without a name, and no state dict: save model.state_dict().")
    found = _state_in(loaded, path, least=1) or _state_in(loaded, path, least=0)
    if found is None:
        raise PodarError(
            f"{path} holds no state dict: podar looked for tensors by name, also under {', '.join(_WRAPPERS)}."
        )
    return found


def _state_in(loaded: Any, path: Path, least: int, depth: int = 0) -> dict[str, Tensor] | None:
    """The state dict in something that was saved: under a known name, else right there, else under the only other.

    One tensor at least has `least` dimensions: single numbers are no weights.
    """
    if isinstance(loaded, nn.Module):
        loaded = loaded.state_dict()
    if not isinstance(loaded, Mapping) or depth > _DEPTH:
        return None
    for name in _WRAPPERS:
        if (inner := _state_in(loaded.get(name), path, least, depth + 1)) is not None:
            return inner
    found: dict[str, Any] = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor) or str(k).endswith(_EXTRA)}
    if any(isinstance(v, Tensor) and v.dim() >= least for v in found.values()):
        return found
    others = {
        str(name): inner
        for name, value in loaded.items()
        if name not in _WRAPPERS
        and not any(word in str(name).lower() for word in _OTHERS)
        and (inner := _state_in(value, path, least, depth + 1)) is not None
    }
    if len(others) > 1:
        raise PodarError(
            f"{path} holds several state dicts ({', '.join(others)}), and podar does not know which is meant: "
            "save that one alone."
        )
    return next(iter(others.values()), None)


def load_weights(model: nn.Module, state: Mapping[str, Tensor], of: str) -> None:
    """Copy a checkpoint into a model; all of it must fit.

    What a training script keeps in the same state dict counts as no part of it: single numbers such as `best_acc1`,
    and where the model's tensors stand under a prefix (DataParallel, torch.compile, Lightning) what has another.

    **Arguments:** `state`: tensors by name; `of`: the file, for messages.

    **Raises:** `PodarError` that names the first tensor whose shape differs, with both shapes, or which is missing.
    """
    own = model.state_dict()
    state = _own_part(state, own, of)
    for name, mine in own.items():  # in the model's order: safetensors sorts by name
        given = state.get(name)
        if not isinstance(mine, Tensor) or given is None:
            continue
        if mine.shape != given.shape:
            raise PodarError(_shapes_clash(name, own, given, of))
        if given.is_complex() and not mine.is_complex():
            raise PodarError(f"{name} is complex in {of} and {mine.dtype} in the model: it belongs to another model.")
    twins = _twins(model)
    missing = [
        name
        for name in own
        if not (name in state or name.endswith(("num_batches_tracked", _EXTRA)) or state.keys() & twins.get(name, ()))
    ]
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
    model.load_state_dict({**{name: own[name] for name in own if name not in state}, **state})


def _twins(model: nn.Module) -> dict[str, set[str]]:
    """For every name of a tensor that has several all of them: a file may hold it under one alone."""
    names: dict[int, set[str]] = {}
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in tensors:
        names.setdefault(id(tensor), set()).add(name)
    return {name: names[id(tensor)] for name, tensor in tensors}


def _own_part(state: Mapping[str, Tensor], own: Mapping[str, Any], of: str) -> dict[str, Tensor]:
    """The part of a checkpoint that is this model's, under the model's names."""
    prefix = _prefix(state, own, of)
    found = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    return {n: t for n, t in found.items() if n in own or "." in n or not isinstance(t, Tensor) or t.dim()}


def _prefix(state: Mapping[str, Tensor], own: Mapping[str, Any], of: str) -> str:
    """What stands before the model's names in a checkpoint: that under which most of them are found."""
    counts: dict[str, int] = {}
    for name in state:
        parts = name.split(".")
        for k in range(len(parts)):
            if ".".join(parts[k:]) in own:
                prefix = "".join(part + "." for part in parts[:k])
                counts[prefix] = counts.get(prefix, 0) + 1
    best = [prefix for prefix, count in counts.items() if count == max(counts.values())]
    if len(best) <= 1 or "" in best:
        return best[0] if len(best) == 1 else ""
    averaged = [prefix for prefix in best if "ema" in prefix.replace(".", "_").split("_")]
    known = [prefix for prefix in _PREFIXES if prefix in best]
    if len(averaged) != 1 and not known:
        raise PodarError(
            f"{of} holds the tensors of this model several times, under {', '.join(best)}: save one of them alone."
        )
    return averaged[0] if len(averaged) == 1 else known[0]


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
