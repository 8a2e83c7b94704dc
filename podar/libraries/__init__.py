"""Where models come from: one file a kind of MODEL, each registered by `model_source`, found by `find`.

A new kind is one new file in this folder with one decorated function; nothing else changes. The files import torch
and their library inside their functions, so that listing the kinds costs nothing; folders, and files that begin with
an underscore, help them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from podar.formats import Exported
    from podar.graph import Graph
    from podar.pruning.pipeline import Result
    from podar.recover import History


@dataclass(frozen=True)
class LibraryData:
    """A data set of a library's own form, which the library's own trainer and validator read.

    - `name`, `about`: short, and one line for the report. `side`: of its images, in pixels.
    - `model_args`: arguments of the architecture that give it the head that these data need.
    - `fit(model)`: the model with that head; its other weights stay. Raises `PodarError` where that cannot be.
    - `train(model, **options)`: as `podar.sources.opening.Source.train`.
    - `evaluate(model)`: the library's own figures, under podar's names.
    - `samples(model)`: training batches (inputs, targets) and the loss, for importance criteria that need them.
    - `pictures(dense, model, folder)`: writes pictures of both models' answers; `file` and `caption` of each.
    - `importance`: the criterion that serves such models best where nobody asks for another.
    """

    name: str
    about: str
    side: int
    model_args: dict[str, Any]
    fit: Callable[[nn.Module], nn.Module]
    train: Callable[..., History]
    evaluate: Callable[[nn.Module], dict[str, float]]
    samples: Callable[[nn.Module], tuple[Any, Callable[..., Tensor]]]
    pictures: Callable[[nn.Module, nn.Module, Path], list[dict[str, str]]]
    importance: str = "magnitude"


@dataclass(frozen=True)
class Library:
    """What a library does with its models in its own way, where podar's own way would not serve its users.

    - `trace(model, inputs)`, `prune(model, inputs, target, **options)`: as podar's; they know what outputs must keep.
    - `figures(model, inputs)`: what summary.json should hold beside the costs.
    - `inputs(model, side)`: example inputs of that side.
    - `save(model, folder)`: writes the file that the library loads, beside podar's own.
    - `export(model, folder, stem, inputs, format)`: as `podar.export`, by the library's exporter.
    - `blocks(model)`: paths of the modules that the library numbers, in its order, and what it calls each.
    - `open_data(model, spec, side)`: the data set, or None where `spec` is not of the library's own form.
    """

    trace: Callable[[nn.Module, Any], Graph]
    prune: Callable[..., Result]
    figures: Callable[[nn.Module, Any], dict[str, Any]]
    inputs: Callable[[nn.Module, int], Any]
    save: Callable[[nn.Module, Path], None]
    export: Callable[..., Exported]
    blocks: Callable[[nn.Module], dict[str, str]]
    open_data: Callable[[nn.Module, str, int | None], LibraryData | None]


@dataclass(frozen=True)
class Blueprint:
    """How to build one model, and what it eats.

    - `make`: builds the model, with the weights that belong to it (random ones where none do), in eval mode.
    - `inputs`: model → example inputs of the model's own default size (tensor, tuple or dict of keyword arguments).
    - `spec`: plain data from which `find` makes the same architecture again; a run folder keeps it as source.json.
    - `dense`: builds the architecture before any pruning, where that differs from `make`: what `podar.load` takes.
    - `trained`: the weights are known to be trained ones.
    - `notes`: what the user should know about the weights, one sentence each.
    - `read_weights`: `(file, trust)` → tensors by name, where the library has checkpoints of a form of its own.
    - `library`: what the model's library does in its own way; None where podar does everything.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[nn.Module], Any]
    spec: dict[str, Any]
    dense: Callable[[], nn.Module] | None = None
    trained: bool = False
    notes: tuple[str, ...] = ()
    read_weights: Callable[[Path, bool], dict[str, Tensor]] | None = None
    library: Library | None = None


@dataclass(frozen=True)
class Kind:
    """One kind of MODEL string: `form` is how the help writes it.

    - `formats`: export formats that its library writes: name → why not on this machine, or "".
    - `runs_code`: opening a model of this kind runs a file of the user's.
    - `check_settings`: refuses arguments that its trainer does not know (`UsageError`); None where it takes none.
    """

    form: str
    accepts: Callable[[str], bool]
    complete: Callable[[str], Iterable[str]]
    blueprint: Callable[[str, dict[str, Any], bool], Blueprint] = field(repr=False)
    formats: Callable[[], Mapping[str, str]] | None = None
    check_settings: Callable[[Mapping[str, Any]], None] | None = None
    runs_code: bool = False


_kinds: list[Kind] = []

Blueprinter = Callable[[str, dict[str, Any], bool], Blueprint]


def model_source(
    form: str,
    *,
    accepts: Callable[[str], bool],
    complete: Callable[[str], Iterable[str]],
    formats: Callable[[], Mapping[str, str]] | None = None,
    check_settings: Callable[[Mapping[str, Any]], None] | None = None,
    runs_code: bool = False,
) -> Callable[[Blueprinter], Blueprinter]:
    """Register a function `(model, model_args, trust) → Blueprint` for the MODEL strings that `accepts` takes.

    **Arguments:**

    - `form`: how the help writes this kind, e.g. `"timm:NAME"`.
    - `accepts`: MODEL string → whether it is of this kind.
    - `complete`: the beginning of a MODEL string → whole ones, for shell completion.
    - `formats`, `check_settings`, `runs_code`: as in `Kind`.
    """

    def register(blueprint: Blueprinter) -> Blueprinter:
        _kinds.append(Kind(form, accepts, complete, blueprint, formats, check_settings, runs_code))
        return blueprint

    return register


def kinds() -> list[Kind]:
    """Every kind of MODEL, in the order of the files' names."""
    for found in sorted(pkgutil.iter_modules(__path__), key=lambda found: found.name):
        if not found.ispkg and found.name[0] != "_":
            importlib.import_module(f"{__name__}.{found.name}")
    return list(_kinds)


def find(model: str) -> Kind | None:
    """The kind that a MODEL string is of, or None."""
    return next((kind for kind in kinds() if kind.accepts(model)), None)
