"""The one check of a model's configuration, wherever it comes from: a YAML file, a checkpoint, a saved run.

Ultralytics' parser calls whatever global its rows name and evaluates its activation as Python. What comes out of
`checked` names layers only (classes of nn.Module), holds plain data only, and stays within bounds.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from torch import nn

from podar.errors import PodarError, did_you_mean, nearest
from podar.libraries.ultralytics.activations import NAMES, canonical
from podar.trust.user_code import file_that_defines, own_layer, take

_ROWS, _REPEATS, _WORDS, _DEPTH = 500, 200, 64, 4
_LARGEST = 1 << 16  # of channels, classes and other numbers
_GAIN = 16.0  # of depth and width
_TEXT = 300
# Words that layers take beside names of the configuration's own keys.
_MODES = frozenset(
    "nearest linear bilinear bicubic trilinear area nearest-exact zeros reflect replicate circular constant same valid "
    "none mean sum max relu gelu silu tanh".split()
)
_OF_LAYERS = "ultralytics.nn.modules"
_BASIC = "nn."
_OPERATORS = "torchvision.ops."


def checked(config: Any, of: str, trust: bool = False) -> dict[str, Any]:
    """A copy of a configuration in which every row names a layer and everything else is plain data within bounds.

    Pretrained weights of torchvision, which its layer `TorchVision` would download, are left out.

    **Arguments:** `of`: the file, for messages. `trust`: a layer of the user's own is taken from a file of the current
    folder, where one defines it; without, the file must have been named by `--module`.

    **Raises:** `PodarError` that names the row or key, what is wrong with it, and what to do.
    """
    if not isinstance(config, Mapping) or not {"backbone", "head"} <= set(config):
        raise PodarError(f"{of} describes no Ultralytics model: it needs the sections backbone and head.")
    found: dict[str, Any] = {}
    for key, value in config.items():
        if not isinstance(key, str) or len(key) > _TEXT:
            raise PodarError(f"{of}: {str(key)[:80]!r} is no key of a configuration: keys are words.")
        if key not in ("backbone", "head", "activation"):
            found[key] = _plain(value, f"{of}: {key}")
    if config.get("activation"):
        found["activation"] = canonical(config["activation"], of)
    _check_numbers(found, of)
    names = set(found)
    at = 0
    for section in ("backbone", "head"):
        rows = config[section]
        if not isinstance(rows, (list, tuple)) or at + len(rows) > _ROWS:
            raise PodarError(f"{of}: {section} is no list of up to {_ROWS} rows such as [-1, 1, Conv, [64, 3, 2]].")
        found[section] = [
            _row(row, at + place, names, f"{of}: row {place} of {section}", trust) for place, row in enumerate(rows)
        ]
        at += len(rows)
    if not at:
        raise PodarError(f"{of} describes no Ultralytics model: backbone and head have no rows.")
    return found


def layer_class(name: str) -> type[nn.Module] | None:
    """The layer behind a row's name: of Ultralytics, `nn.…`, `torchvision.ops.…`, or the user's own; else None."""
    from ultralytics.nn import tasks

    if name.startswith(_BASIC):
        found = vars(nn).get(name.removeprefix(_BASIC))
    elif name.startswith(_OPERATORS):
        from podar.model.torchvision_operators import import_torchvision

        found = vars(import_torchvision().ops).get(name.removeprefix(_OPERATORS))
    else:
        found = vars(tasks).get(name)
        if not (isinstance(found, type) and found.__module__.startswith(_OF_LAYERS)):
            return own_layer(name) if name not in vars(tasks) or hasattr(found, "takes_out") else None
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


def is_own(name: str) -> bool:
    """Whether a row's name is a layer of the user's own, not one that Ultralytics or torch have."""
    found = layer_class(name)
    return found is not None and found is own_layer(name)


def _row(row: Any, at: int, names: set[str], of: str, trust: bool) -> list[Any]:
    if not isinstance(row, (list, tuple)) or len(row) != 4:
        raise PodarError(f"{of} is no row: write [from, repeats, layer, [arguments]].")
    source, repeats, name, args = row
    sources = list(source) if isinstance(source, (list, tuple)) else [source]
    if not sources or len(sources) > _WORDS or not all(_whole(s) and -max(at, 1) <= s < max(at, 1) for s in sources):
        raise PodarError(f"{of} takes {str(source)[:80]} as its input, and only the {at} rows before it exist.")
    if not _whole(repeats) or not 1 <= repeats <= _REPEATS:
        raise PodarError(f"{of} repeats its layer {str(repeats)[:80]} times: give 1 to {_REPEATS}.")
    if not isinstance(name, str) or not _is_layer(name, trust):
        raise PodarError(_unknown(name, of))
    if not isinstance(args, (list, tuple)) or len(args) > _WORDS:
        raise PodarError(f"{of} has no list of up to {_WORDS} arguments.")
    own = is_own(name)
    given = [_argument(value, names, of, own or name == "TorchVision") for value in args]
    if name == "TorchVision":
        _without_download(given, of)
    return [sources if isinstance(source, (list, tuple)) else source, repeats, name, given]


def _is_layer(name: str, trust: bool) -> bool:
    if len(name) > _TEXT:
        return False
    if layer_class(name) is not None:
        return True
    file = file_that_defines(name) if trust and name.isidentifier() else None
    if file is None:
        return False
    take([file])
    return layer_class(name) is not None


def _unknown(name: Any, of: str) -> str:
    from ultralytics.nn import tasks

    told = f"{of} names {str(name)[:80]!r}, which is no layer of Ultralytics or torch.nn"
    if not isinstance(name, str) or not name.isidentifier():
        return f"{told}: write the name of a layer, such as Conv or nn.Upsample."
    file = file_that_defines(name)
    if file is not None:
        return f"{told}; {file} defines it: add --module {file} if that file may be run."
    layers = [n for n, v in vars(tasks).items() if isinstance(v, type) and v.__module__.startswith(_OF_LAYERS)]
    near = nearest(name, layers)
    return (
        f"{told}: "
        + (f"did you mean {near}? " if near else "")
        + "A layer of your own is found in the file that defines it: --module FILE.py."
    )


def _argument(value: Any, names: set[str], of: str, words: bool) -> Any:
    """An argument of a layer: plain data; its words are keys of the configuration, modes, activations or numbers."""
    if isinstance(value, (list, tuple)):
        return [_argument(item, names, of, words) for item in _plain(value, of)]
    if not isinstance(value, str):
        return _plain(value, of)
    if (value in names and value not in _LOCALS) or value in _KEYS or value in _MODES:
        return value
    if value.partition("(")[0].removeprefix("torch.").removeprefix("nn.") in NAMES:
        return canonical(value, of)
    try:
        read = ast.literal_eval(value) if len(value) < 40 else value
        if isinstance(read, (int, float, list, tuple)):
            return _plain(read, of)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        pass
    if words and len(value) <= _TEXT and value.replace("-", "_").replace(".", "_").isidentifier():
        from ultralytics.nn import tasks

        if value not in _LOCALS and value not in vars(tasks):
            return value
    raise PodarError(f"{of} has the argument {value[:80]!r}, which is no number, no key of the file and no known word.")


# Names in Ultralytics' parser that a word would be taken for; these of the configuration among them are wanted.
_KEYS = frozenset("nc reg_max end2end kpt_shape None True False".split())
_LOCALS = frozenset(
    "d ch verbose ast legacy max_channels act scales depth width scale restricted default_act layers save c1 c2 cm "
    "base_modules repeat_modules i f n n_ m m_ t j a x args self".split()
)


def _without_download(args: list[Any], of: str) -> None:
    """The layer `TorchVision` takes [channels, model, weights, …]: the model is a classifier, its weights random."""
    from podar.model.torchvision_operators import import_torchvision

    models = import_torchvision().models
    known = models.list_models(module=models)
    name = args[1] if len(args) > 1 else None
    if name not in known:
        hint = did_you_mean(str(name), known)
        raise PodarError(f"{of} names the torchvision model {str(name)[:80]!r}, which is none that classifies{hint}")
    args[2:3] = ["None"]


def _check_numbers(config: dict[str, Any], of: str) -> None:
    """The numbers that Ultralytics' parser computes with."""

    def check(key: str, value: Any, fits: bool, wanted: str) -> None:
        if not fits:
            raise PodarError(f"{of}: {key} is {str(value)[:80]}: give {wanted}.")

    for key, most in (("nc", _LARGEST), ("ch", 1024), ("channels", 1024), ("reg_max", 1024)):
        value = config.get(key)
        if value is not None:
            check(key, value, _whole(value) and 1 <= value <= most, f"a whole number from 1 to {most}")
    for key in ("depth_multiple", "width_multiple"):
        if key in config:
            check(key, config[key], _gain(config[key]), f"a number above 0, up to {_GAIN:g}")
    shape = config.get("kpt_shape")
    if shape is not None:
        fits = isinstance(shape, list) and len(shape) == 2 and all(map(_whole, shape))
        check("kpt_shape", shape, fits and 1 <= shape[0] <= 10_000 and shape[1] in (2, 3), "[points, 2 or 3]")
    scales, scale = config.get("scales"), config.get("scale")
    if scales:
        check("scales", scales, isinstance(scales, dict), "a mapping such as n: [0.5, 0.25, 1024]")
        for name, gains in scales.items():
            fits = isinstance(gains, list) and len(gains) == 3 and all(map(_gain, gains[:2]))
            fits = fits and _number(gains[2]) and 1 <= gains[2] <= _LARGEST
            check(f"scales.{name}", gains, fits, "[depth, width, channels at most], such as [0.5, 0.25, 1024]")
        check("scale", scale, not scale or (isinstance(scale, str) and scale in scales), f"one of {', '.join(scales)}")


def _plain(value: Any, of: str, depth: int = 0) -> Any:
    """A copy of plain data: numbers, short texts, lists and mappings of them; tuples become lists."""
    if value is None or type(value) is bool:
        return value
    if isinstance(value, PurePath):
        value = str(value)
    if type(value) is str:
        if len(value) <= _TEXT and value.isprintable():
            return value
    elif type(value) in (int, float):
        if math.isfinite(value) and abs(value) <= _LARGEST:
            return value
    elif depth < _DEPTH and type(value) in (list, tuple) and len(value) <= _LARGEST:
        return [_plain(item, of, depth + 1) for item in value]
    elif depth < _DEPTH and type(value) is dict and len(value) <= _LARGEST:
        items = value.items()
        if all(type(key) in (str, int) for key in value):
            return {_plain(key, of, depth + 1): _plain(item, of, depth + 1) for key, item in items}
    raise PodarError(
        f"{of} holds {str(value)[:80]!r}, which is no number up to {_LARGEST}, short text or list of them."
    )


def _whole(value: Any) -> bool:
    return type(value) is int


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _gain(value: Any) -> bool:
    return _number(value) and 0 < value <= _GAIN
