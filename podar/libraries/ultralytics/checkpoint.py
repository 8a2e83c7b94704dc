"""Reads a checkpoint of Ultralytics, which is a pickled module, without running anything that the file brings along."""

from __future__ import annotations

import enum
import importlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from podar.errors import PodarError, require
from podar.libraries.ultralytics.building import know_own_layers
from podar.libraries.ultralytics.configuration import checked
from podar.libraries.ultralytics.sealing import unsealed
from podar.model.torchvision_operators import import_torchvision
from podar.trust.offline import ultralytics_offline
from podar.trust.user_code import file_that_defines, own_layer

_OF_LAYERS = ("torch.nn.modules.", "ultralytics.nn.modules.", "ultralytics.nn.tasks.")


def is_checkpoint(path: Path) -> bool:
    """Whether a file holds a pickled module of Ultralytics; found out without loading it."""
    try:
        needed = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # anything that is no archive of torch.save fails in its own way
        return False
    return any(name.startswith("ultralytics.") for name in needed)


def read_checkpoint(path: Path, trust: bool = False) -> nn.Module:
    """Read the model of an Ultralytics checkpoint: its averaged weights where it has some, in float, in eval mode.

    Without `trust`, `torch.load(weights_only=True)` reads it with an allow-list of the module classes of torch.nn and
    ultralytics.nn. They are only filled with the file's plain data: no constructor runs, since that of a YOLO model
    evaluates text of its configuration.

    **Raises:** `PodarError` when the file is damaged, holds no model, or needs anything outside the allow-list.
    """
    import_torchvision()
    with ultralytics_offline():
        require("ultralytics", extra="ultralytics")
    try:
        if trust:
            loaded = torch.load(path, map_location="cpu", weights_only=False)
        else:
            with torch.serialization.safe_globals(_allow_list(path)):
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except PodarError:
        raise
    except _Refused as refused:
        raise PodarError(
            f"{path} {refused} when it is loaded, which restoring a model never does, and so could run any program: "
            "add --trust if you know where the file comes from."
        ) from refused
    except Exception as error:
        if "PytorchStreamReader" in str(error):
            raise PodarError(f"{path} is damaged or was cut short: copy or download it again.") from error
        # torch puts its reason after a page of advice that ours replaces.
        said = " ".join(
            str(error).rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0].split()
        )
        raise PodarError(
            f"{path} cannot be read as an Ultralytics checkpoint: {said or type(error).__name__}."
        ) from error
    model = loaded
    if isinstance(loaded, dict):
        model = loaded.get("ema") or loaded.get("model")
    if not isinstance(model, nn.Module):
        raise PodarError(
            f"{path} holds no Ultralytics model: give a state dict as --weights beside the MODEL that it belongs to."
        )
    if not isinstance(getattr(model, "yaml", None), dict) or not hasattr(model, "model"):
        raise PodarError(
            f"{path} holds a {type(model).__name__}, which is no model of Ultralytics: give the function that "
            "builds it as MODEL (FILE.py:FUNCTION), and its weights as --weights."
        )
    config: Any = model.yaml
    try:
        plain = checked(unsealed(config), of=str(path), trust=trust)
    except PodarError:
        if not trust:
            raise
    else:
        know_own_layers(plain)
        model.yaml = {**config, **{key: plain[key] for key in plain if key == "activation"}}  # type: ignore[assignment]
    if not hasattr(model, "task"):  # only Ultralytics' own loader writes it on a trained model
        from ultralytics.nn.tasks import guess_model_task

        model.task = guess_model_task(model) or "detect"  # type: ignore[assignment]
    return model.float().eval()


def _allow_list(path: Path) -> list[Any]:
    try:
        needed = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except ValueError as error:
        raise PodarError(f"{path} is no checkpoint that torch.save wrote ({str(error).rstrip('.')}).") from error
    token = secrets.token_hex(8)  # names the real classes: no file can know it, so none can call them
    allowed: list[Any] = []
    for name in needed:
        known = _known(name)
        file = file_that_defines(name.rpartition(".")[2]) if known is None else None
        if file is not None:
            raise PodarError(
                f"{path} needs {name}, and {file} defines a class of this name: add --module {file} if that file may "
                "be run."
            )
        if known is None and name.startswith("ultralytics."):
            import ultralytics

            raise PodarError(
                f"{path} needs {name}, which Ultralytics {ultralytics.__version__} does not have: install the release "
                "that wrote the file."
            )
        if known is None:
            raise PodarError(
                f"{path} needs {name}, which is no part of a model of torch or Ultralytics, and loading such a pickle "
                "can run any program: add --trust if you know where the file comes from."
            )
        if isinstance(known, type) and name not in _PLAIN:
            allowed += [(_sealed(known), name), (known, f"{token}.{name}")]
        else:
            allowed.append((known, name))
    if "numpy.dtype" in needed:  # a dtype is of a class of its own, which the file does not name
        allowed += [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)]
    return allowed


def _known(name: str) -> Any:
    """The object behind a global's name, if it is on the allow-list."""
    if name in _PLAIN:
        return _PLAIN[name]()
    module, _, attribute = name.rpartition(".")
    of_a_loss = module in ("ultralytics.utils.loss", "ultralytics.utils.tal")
    if not of_a_loss and not f"{module}.".startswith(_OF_LAYERS):
        return own_layer(attribute)
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        found = None
    if not isinstance(found, type):
        return own_layer(attribute)
    return found if issubclass(found, nn.Module) or (of_a_loss and found.__module__ == module) else None


class _Refused(Exception):
    """What a checkpoint wants to do and may not."""


class _Sealed(type):
    """The type of stand-ins that unpickling may make instances of, and may not call."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise _Refused(f"constructs a {cls.__name__}")


def _sealed(real: type) -> type:
    return _Sealed(real.__name__, (), {"__new__": lambda cls, *args: object.__new__(real)})


def _attribute(owner: Any, name: str) -> Any:
    """`getattr` as checkpoints use it: a model's own forward functions and members of enumerations, nothing else."""
    if isinstance(owner, nn.Module) and name in ("forward", "forward_split", "forward_fuse"):
        return getattr(owner, name)
    if isinstance(owner, type) and issubclass(owner, enum.Enum):
        return owner[name]
    raise _Refused(f"reads the attribute {name!r} of a {type(owner).__name__}")


def _of(module: str, name: str) -> Callable[[], Any]:
    return lambda: getattr(importlib.import_module(module), name)


_SCALAR = np.float64(0).__reduce__()[0]
_TRANSFORMS, _FUNCTIONAL = "torchvision.transforms.transforms", "torchvision.transforms.functional"

# Plain data that checkpoints carry beside modules: settings, paths, single numbers, a classifier's image transforms.
_PLAIN: dict[str, Callable[[], Any]] = {
    "ultralytics.utils.IterableSimpleNamespace": _of("ultralytics.utils", "IterableSimpleNamespace"),
    "ultralytics.yolo.utils.IterableSimpleNamespace": _of("ultralytics.utils", "IterableSimpleNamespace"),
    **{f"{m}.{c}": lambda: type(Path()) for m in ("pathlib", "pathlib._local") for c in ("PosixPath", "WindowsPath")},
    **{f"{m}.multiarray.scalar": lambda: _SCALAR for m in ("numpy.core", "numpy._core")},
    "numpy.dtype": lambda: np.dtype,
    "builtins.getattr": lambda: _attribute,
    **{f"{_TRANSFORMS}.{c}": _of(_TRANSFORMS, c) for c in ("Compose", "Normalize", "Resize", "CenterCrop", "ToTensor")},
    "torchvision.transforms.functional.InterpolationMode": _of(
        "torchvision.transforms.functional", "InterpolationMode"
    ),
}
