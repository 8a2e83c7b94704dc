"""MODEL and DATA, as the command line writes them, become one frozen Source: build, inputs, train, evaluate."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar import libraries
from podar.errors import PodarError, UsageError, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from podar.data import Dataset
    from podar.formats import Exported
    from podar.graph import Graph
    from podar.pruning.pipeline import Result
    from podar.recover import History


@dataclass(frozen=True)
class Source:
    """A model and its data, ready for a run.

    - `name`: short name for tables and files, e.g. `resnet18`.
    - `build`: makes the model with its weights, in eval mode; every call makes an equal one.
    - `dense`: makes the architecture as it was before any pruning; `podar.load` takes it as its `build`. It differs
      from `build` where the model itself comes from a folder that podar saved.
    - `inputs`: example inputs for it (tensor, tuple or dict of keyword arguments), batch size 1.
    - `data`: the data set, in the shape that the model eats; None where none was named.
    - `train(model, **options)`: fine-tunes a classifier on the data: `podar.finetune`, same options.
    - `evaluate(model)`: `{"accuracy": fraction}` on the test split.
    - `spec`: plain JSON data from which `open_source` builds the same dense architecture; run folders keep it as
      source.json.
    - `trace(model, inputs)`, `prune(model, inputs, target, **options)`: podar's, or its library's own way.
    - `figures(model)`: what summary.json should hold beside costs.
    - `save(model, folder)`: writes the file of the model's library beside podar's own, where it has one.
    - `export(model, folder, stem, inputs, format)`: writes `folder/stem` with the format's suffix.
    - `samples(model)`: where the data are of a library's own form, training batches (inputs, targets) and the loss.
    - `importance`: the criterion that serves such a model and data best.
    - `blocks(model)`: where the library numbers blocks, their paths in its order and what it calls each; else empty.
    - `pictures(dense, model, folder)`: where the data are of a library's own form (`data` is None then), pictures of
      both models' answers; None otherwise. `about_data`: one line about such data.
    - `notes`: what the user should know, one sentence each: converted images, untrained weights.
    """

    name: str
    build: Callable[[], nn.Module]
    dense: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    data: Dataset | None
    train: Callable[..., History]
    evaluate: Callable[[nn.Module], dict[str, float]]
    spec: dict[str, Any]
    trace: Callable[[nn.Module, Any], Graph]
    prune: Callable[..., Result]
    figures: Callable[[nn.Module], dict[str, Any]]
    save: Callable[[nn.Module, Path], None]
    export: Callable[..., Exported]
    samples: Callable[[nn.Module], tuple[Any, Callable[..., Tensor]]] | None = None
    importance: str = "magnitude"
    blocks: Callable[[nn.Module], dict[str, str]] = lambda _: {}
    pictures: Callable[[nn.Module, nn.Module, Path], list[dict[str, str]]] | None = None
    about_data: str | None = None
    notes: tuple[str, ...] = ()


def open_source(
    model: str,
    data: str | None = None,
    *,
    weights: str | Path | None = None,
    model_args: Mapping[str, Any] | None = None,
    modules: Sequence[str | Path] = (),
    trust: bool = False,
    image_size: int | None = None,
) -> Source:
    """Find a model and a data set by their names, and check that they belong together.

    **Arguments:**

    - `model`: `timm:resnet18`, `torchvision:resnet50`, `transformers:FOLDER`, `yolo26n.yaml`, `yolo26n.pt`,
      `file.py:function`, a folder that podar saved, or `demo`.
    - `data`: a name or path that `podar.data.load` takes, or None.
    - `weights`: a checkpoint for the model: safetensors, a state dict that `torch.save` wrote, or a folder that
      podar saved from this architecture.
    - `model_args`: arguments of the model's constructor.
    - `modules`: Python files that define layers which the model's configuration or checkpoint names. They must have
      been named on the command line (`--module`), or be run by `trust`.
    - `trust`: load pickles that hold more than tensors, and run code that a model's folder brings along.
    - `image_size`: side in pixels to which images are brought; None: the data set's own, if the model takes it.

    **Raises:** `PodarError` for anything missing, unknown, damaged, not finite, or of clashing shapes or classes.

    ```python
    source = open_source("timm:resnet18", "fashion-mnist", model_args={"num_classes": 10, "in_chans": 1})
    model = source.build()
    ```
    """
    kind = libraries.find(model)
    if kind is None:
        raise PodarError(_unknown(model))
    take_modules(modules, model, trust)
    blueprint = kind.blueprint(model, dict(model_args or {}), trust)
    build = _with_weights(blueprint, model, weights, trust)
    dense = blueprint.dense or blueprint.make
    first = build()
    notes = list(blueprint.notes) if weights is None else []  # they speak of the weights that the model came with
    if blueprint.library is not None:
        own = None if data is None else blueprint.library.open_data(first, data, image_size)
        if own is not None or data is None:
            return _library_source(blueprint, blueprint.library, own, model, build, first, image_size, tuple(notes))
    dataset = None
    if data is not None:
        dataset, converted = _fitting_data(first, blueprint, model, data, image_size)
        notes += converted
        _check_classes(first, dataset, model)

    def inputs() -> Any:
        if dataset is None:
            return blueprint.inputs(first)
        image: Tensor = dataset.train[0][0]
        return image.unsqueeze(0)

    def train(
        trained: nn.Module, *, files: Path | None = None, settings: Any = None, keeper: Any = None, **options: Any
    ) -> History:
        from podar.recover import finetune

        if settings:
            raise UsageError(f"{', '.join(settings)}: podar's own trainer takes no such arguments.")
        given = {key: value for key, value in options.items() if key != "batch_size" or value is not None}
        return finetune(trained, _needed(dataset), keeper=None if keeper is None else keeper(trained), **given)

    def evaluate(measured: nn.Module) -> dict[str, float]:
        from podar.recover import accuracy

        return {"accuracy": accuracy(measured, _needed(dataset).test)}

    def exported(written: nn.Module, folder: Path, stem: str, inputs: Any, format: str) -> Exported:
        import torch

        from podar.formats import FORMATS, export

        checks = None if dataset is None else dataset.test.batch(torch.arange(min(8, len(dataset.test))))[0]
        return export(written, folder / f"{stem}{FORMATS[format].suffix}", inputs, format=format, check_inputs=checks)

    library = blueprint.library
    return Source(
        name=_short_name(model),
        build=build,
        dense=dense,
        inputs=inputs,
        data=dataset,
        train=train,
        evaluate=evaluate,
        spec=blueprint.spec,
        trace=library.trace if library else _trace,
        prune=library.prune if library else _prune,
        figures=lambda _: {},
        save=library.save if library else lambda _, folder: None,
        export=exported,
        blocks=library.blocks if library else lambda _: {},
        notes=tuple(notes),
    )


def _library_source(
    blueprint: libraries.Blueprint,
    library: libraries.Library,
    data: libraries.LibraryData | None,
    model: str,
    build: Callable[[], nn.Module],
    first: nn.Module,
    side: int | None,
    notes: tuple[str, ...],
) -> Source:
    """A model, and perhaps data, that a library trains, validates and exports in its own way."""
    dense = blueprint.dense or blueprint.make
    fit = data.fit if data is not None else lambda given: given
    side = data.side if data is not None else side
    inputs = blueprint.inputs(first) if side is None else library.inputs(first, side)

    def missing(*_: Any, **__: Any) -> Any:
        return _needed(None)

    args = {**blueprint.spec.get("model_args", {}), **(data.model_args if data is not None else {})}
    return Source(
        name=_short_name(model),
        build=lambda: fit(build()).eval(),
        dense=lambda: fit(dense()).eval(),
        inputs=lambda: inputs,
        data=None,
        train=data.train if data is not None else missing,
        evaluate=data.evaluate if data is not None else missing,
        spec={**blueprint.spec, "model_args": args},
        trace=library.trace,
        prune=library.prune,
        figures=lambda given: library.figures(given, inputs),
        save=library.save,
        export=library.export,
        samples=data.samples if data is not None else None,
        importance=data.importance if data is not None else "magnitude",
        blocks=library.blocks,
        pictures=data.pictures if data is not None else None,
        about_data=data.about if data is not None else None,
        notes=notes,
    )


def _trace(model: nn.Module, inputs: Any) -> Graph:
    from podar.graph import trace

    return trace(model, inputs)


def _prune(model: nn.Module, inputs: Any, target: str, **options: Any) -> Result:
    from podar.pruning.pipeline import prune

    return prune(model, inputs, target, **options)


def take_modules(files: Iterable[str | Path], of: str, trust: bool) -> None:
    """Run Python files with layers of the user's own that a file names: those named by --module were run already.

    **Raises:** `PodarError` for one that was not, without `trust`; `of` says what names it.
    """
    from podar.libraries import _modules

    for file in files:
        if not _modules.is_taken(file):
            if not trust:
                raise PodarError(f"{of} needs the file {file}: add --module {file} if that file may be run.")
            _modules.take([file])


def parse_model_args(pairs: Iterable[str], option: str = "--model-arg ") -> dict[str, Any]:
    """Turn `["num_classes=10", "act=relu"]` into `{"num_classes": 10, "act": "relu"}`: Python literals, else text.

    **Raises:** `UsageError` where a pair has no name or no `=`.

    ```python
    >>> parse_model_args(["depths=(2, 2)", "pretrained=False", "act=relu"])
    {'depths': (2, 2), 'pretrained': False, 'act': 'relu'}

    ```
    """
    parsed: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"{option}{pair}: write name=value, for example num_classes=10.")
        try:
            parsed[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed[name] = value
    return parsed


def complete_model(incomplete: str) -> list[str]:
    """Every MODEL that begins so, for shell completion; libraries that are not installed are passed over."""
    found: list[str] = []
    for kind in libraries.kinds():
        try:
            found += [name for name in kind.complete(incomplete) if name.startswith(incomplete)]
        except PodarError:
            continue
    return sorted(found)


def _with_weights(
    blueprint: libraries.Blueprint, model: str, weights: str | Path | None, trust: bool
) -> Callable[[], nn.Module]:
    from podar.libraries.saved import is_saved
    from podar.model.checkpoints import check_finite, load_weights, read_state

    read = blueprint.read_weights or read_state
    replayed = weights is not None and is_saved(weights)
    state = None if weights is None or replayed else read(Path(weights), trust)

    def build() -> nn.Module:
        if weights is not None and replayed:
            from podar.plans.saving import load

            built = load(Path(weights), blueprint.make)
        else:
            built = blueprint.make()
            if state is not None:
                load_weights(built, state, of=str(weights))
        check_finite(built, of=str(weights or model))
        return built.eval()

    return build


def _fitting_data(
    model: nn.Module, blueprint: libraries.Blueprint, name: str, spec: str, image_size: int | None
) -> tuple[Dataset, list[str]]:
    """Load the data in a shape that the model takes: its own, else with other channels, else in another size."""
    import torch

    from podar import data
    from podar.libraries._inputs import random_images, runs

    dataset = data.load(spec, image_size=image_size)
    channels, height, width = dataset.shape
    if runs(model, random_images(channels, height, width)):
        return dataset, []
    own = blueprint.inputs(model)
    if isinstance(own, dict):
        own = own.get("pixel_values")
    if not isinstance(own, torch.Tensor) or own.dim() != 4:
        raise PodarError(f"{name} takes no images, and {spec} is a data set of images.")
    own_channels, own_side = own.shape[1], own.shape[3]
    sides = [image_size] if image_size else sorted({side for side in (32, 64, 128, 224) if side > width} | {own_side})
    shapes = [(own_channels, height, width)] if image_size is None else []
    shapes += [(own_channels, side, side) for side in sides]
    for shape in shapes:
        if runs(model, random_images(*shape)):
            side = image_size or (None if shape[1:] == (height, width) else shape[1])
            converted = data.load(spec, image_size=side, channels=shape[0])
            was, now = ("×".join(map(str, s)) for s in (dataset.shape, converted.shape))
            return converted, [f"the images of {spec} are {was} and go into {name} as {now}."]
    raise PodarError(
        f"{name} takes images of {own_channels}×{own_side}×{own_side}, and {spec} cannot be brought to that."
    )


def _check_classes(model: nn.Module, dataset: Dataset, name: str) -> None:
    import torch

    from podar.model.inputs import call
    from podar.model.outputs import main_output

    with torch.no_grad():
        outputs = call(model, dataset.train[0][0].unsqueeze(0))
    try:
        shape = tuple(main_output(outputs).shape)
    except PodarError as error:
        raise PodarError(f"{name} is no classifier, and {dataset.name} has classes: {error}") from error
    if len(shape) != 2:
        raise PodarError(f"{name} is no classifier (its output has the shape {shape}), and {dataset.name} has classes.")
    if shape[1] != len(dataset.classes):
        count = len(dataset.classes)
        raise PodarError(
            f"{dataset.name} has {count} classes and {name} has {shape[1]} outputs: add "
            f"--model-arg num_classes={count}."
        )


def _needed(dataset: Dataset | None) -> Dataset:
    if dataset is None:
        raise PodarError("training and accuracy need a data set: name one with --data.")
    return dataset


def _short_name(model: str) -> str:
    stem = model.rstrip("/").rpartition(":")[2]
    path = Path(stem)
    if path.suffix == ".pt" and path.parent.name == "weights" and path.parent.parent.name:
        return path.parent.parent.name  # RUN/weights/best.pt: all runs of Ultralytics have files of these names
    return path.stem if path.suffix in (".pt", ".yaml", ".yml") else path.name


def _unknown(model: str) -> str:
    """What to say of a MODEL that no kind accepts."""
    path = Path(model).expanduser()
    if path.is_dir():
        return f"the folder {model} holds no pruned model: podar looks for plan.json and model.safetensors in it."
    if path.is_file():
        return f"{model} is no model: give a checkpoint as --weights beside the MODEL that it belongs to."
    prefix, colon, rest = model.partition(":")
    prefixes = [kind.form.partition(":")[0] for kind in libraries.kinds() if ":" in kind.form and "." not in kind.form]
    if colon:
        near = nearest(prefix, prefixes)
        return f"there is no kind of model {prefix!r}" + (f"; did you mean {near}:{rest}?" if near else ".")
    names = {
        name.rpartition(":")[2]: name
        for known in (*prefixes, "")
        for name in complete_model(f"{known}:" if known else "yolo")
    }
    near = nearest(model, names)
    if near:
        return f"there is no model {model!r}; did you mean {names[near]}?"
    forms = ", ".join(kind.form for kind in libraries.kinds())
    return f"there is no model or folder {model!r}: write one of {forms}."
