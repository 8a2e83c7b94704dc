"""What `podar inspect`, `export` and `bench` find out, as plain data for a table or for JSON."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from podar.errors import PodarError, first_line, require
from podar.runtimes.file_inputs import drawn
from podar.runtimes.onnx_session import session, wanted_by
from podar.runtimes.opening import openvino_wants, program_wants
from podar.trust import programs
from podar.trust.plain import read_json

if TYPE_CHECKING:
    from podar.graph import Graph
    from podar.sources.opening import Source

_FILES = (".onnx", ".xml", ".pt2", ".podar")


def anatomy(source: Source, model: str) -> tuple[dict[str, Any], Graph]:
    """Groups, costs and frozen axes of a model.

    **Returns:** plain data, and the graph itself. `params` and `macs` of a group are what would go if all of it went.
    `blocks`, where the model's library numbers them: what lies in each; a group is of the `block` that makes it.
    """
    inputs = source.inputs()
    built = source.build()
    graph = source.trace(built, inputs)
    whole = np.ones(len(graph.ties.families))
    blocks = _blocks(source.blocks(built), graph)
    groups = []
    for group in graph.groups:
        without = whole.copy()
        without[list(group.families)] = 0
        maker = group.name.partition("[")[0].partition(" ")[0]
        groups.append(
            {
                "name": group.name,
                "block": next((block["name"] for block in blocks if _within(maker, block["module"])), None),
                "kind": group.kind,
                "size": group.size,
                **{
                    kind: round(graph.costs.value(kind, whole) - graph.costs.value(kind, without))
                    for kind in ("params", "macs")
                },
                "tied": list(group.tied),
                "held": group.held,
                "members": [{"name": name, "dim": dim} for name, dim in group.members],
            }
        )
    by_reason: dict[str, list[str]] = {}
    for name, dim, reason in graph.frozen:
        by_reason.setdefault(reason, []).append(f"{name} dim {dim}")
    found = {
        "model": model,
        "inputs": _shapes(inputs),
        "cost": graph.cost().to_json(),
        "layers": [name for name, (_, _, own) in graph.elements.items() if own],
        "blocks": blocks,
        "groups": groups,
        "frozen": [{"name": name, "dim": dim, "reason": reason} for name, dim, reason in graph.frozen],
        "frozen_by_reason": dict(sorted(by_reason.items(), key=lambda item: -len(item[1]))),
        "notes": list(source.notes),
    }
    return found, graph


def _blocks(called: Mapping[str, str], graph: Graph) -> list[dict[str, Any]]:
    """What lies in each numbered block: its parameters, a tensor that several share where it stands first, and MACs."""
    macs = graph.costs.macs_by_module(np.ones(len(graph.ties.families)))
    return [
        {
            "name": name,
            "module": path,
            "params": sum(n for tensor, (n, _, own) in graph.elements.items() if own and _within(tensor, path)),
            "macs": sum(n for module, n in macs.items() if _within(module, path)),
        }
        for path, name in called.items()
    ]


def _within(name: str, module: str) -> bool:
    return f"{name}.".startswith(f"{module}.")


def export_file(source: Source, format: str, out: Path | None) -> dict[str, Any]:
    """Export the model of a source; checked on test images where the source has data.

    **Raises:** `UsageError` for an unknown format; `PodarError` as `podar.export`.
    """
    from podar.stages.work import check_format

    check_format(format, source.spec["model"])
    folder, stem = (Path(), source.name) if out is None else (out.parent, out.stem)
    exported = source.export(source.build(), folder, stem, source.inputs(), format=format)
    return {
        "file": str(exported.path),
        "files": [str(path) for path in exported.files],
        "format": exported.format,
        "bytes": exported.bytes,
        "parity": exported.parity,
        "runtime": exported.runtime,
        "dynamic_batch": exported.dynamic_batch,
    }


def bench_models(
    names: Sequence[str],
    *,
    weights: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    runtimes: Sequence[str] = (),
    threads: int = 1,
    seconds: float = 3.0,
    batch_size: int = 1,
    trust: bool = False,
) -> list[dict[str, Any]]:
    """Measure models and files in turn, on every runtime that runs them.

    **Arguments:** `names`: exported files, run folders (their dense and pruned files), or MODELs, which are run by
    torch and, exported on the way, by the runtimes of files.

    **Returns:** one mapping a model and runtime: `model`, `runtime`, and what `podar.measure` finds or the `reason` why
    it found nothing.
    """
    from podar.measuring import side_by_side

    with tempfile.TemporaryDirectory(prefix="podar-bench-") as scratch:
        models: list[Any] = []
        labels: list[str] = []
        inputs: Any = None
        for name in names:
            for label, model, eaten in _opened(name, weights, dict(model_args or {}), trust, Path(scratch)):
                labels.append(label)
                models.append(model)
                inputs = eaten if inputs is None else inputs
        lines = side_by_side(
            models, _batch(inputs, batch_size), runtimes=runtimes or None, threads=threads, seconds=seconds
        )
        owners = _owners([(line.model, line.runtime) for line in lines], models)
    return [
        {
            "model": labels[owner],
            "runtime": line.runtime,
            **(line.measured.to_json() if line.measured else {"reason": line.reason}),
        }
        for owner, line in zip(owners, lines)
    ]


def _opened(
    name: str, weights: str | None, model_args: dict[str, Any], trust: bool, scratch: Path
) -> Iterator[tuple[str, Any, Any]]:
    """What one name stands for: (label, file or module, example inputs)."""
    path = Path(name)
    if path.suffix.lower() in _FILES:
        if not path.is_file():
            raise PodarError(f"there is no file {name}.")
        if trust:
            programs.remember(path)
        yield name, path, file_inputs(path)
        return
    exports = _exports(path)
    if exports:
        for label, file in exports:
            if trust and file.is_file():
                programs.remember(file)
            yield label, file, file_inputs(file)
        return
    from podar.formats import export
    from podar.sources.opening import open_source

    source = open_source(name, weights=weights, model_args=model_args, trust=trust)
    module, inputs = source.build(), source.inputs()
    with contextlib.suppress(PodarError):  # what cannot be exported is still measured in torch
        file = scratch / f"{len(list(scratch.iterdir()))}.onnx"
        export(module, file, inputs)
        yield name, file, inputs
    yield name, module, inputs


def _exports(folder: Path) -> list[tuple[str, Path]]:
    """The dense and the pruned file of a run folder, if it has them."""
    try:
        exports = read_json(folder / "summary.json")["exports"].values()
        found = [
            (f"{folder} {half}", folder / files[key])
            for files in exports
            for half, key in (("dense", "dense_file"), ("pruned", "file"))
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    outside = next((path for _, path in found if not path.resolve().is_relative_to(folder.resolve())), None)
    if outside is not None:
        raise PodarError(f"{folder / 'summary.json'} names {outside}, which lies outside its folder.")
    return found


def file_inputs(path: Path) -> tuple[Tensor, ...]:
    """Random inputs of the shapes that an exported file takes; sizes that it leaves open are 1.

    **Raises:** `PodarError` for a file that its runtime cannot open.
    """
    try:
        suffix = path.suffix.lower()
        if suffix == ".pt2":
            programs.refuse_unknown(path)
            return tuple(_tensors(torch.export.load(path).example_inputs))
        if suffix == ".onnx":
            wanted = wanted_by(session(path, threads=1), path)
        elif suffix == ".xml":
            wanted = openvino_wants(require("openvino", extra="openvino").Core().read_model(str(path)))
        else:
            wanted = program_wants(require("podar_native", extra="sparse").Runner(path))
        return tuple(torch.from_numpy(array) for array in drawn(wanted).values())
    except PodarError:
        raise
    except Exception as error:  # the runtimes' errors share no base class
        raise PodarError(f"{path} cannot be opened ({first_line(error)}).") from error


def _batch(inputs: Any, size: int) -> Any:
    """Example inputs of batch size 1, repeated along axis 0."""
    if size == 1:
        return inputs
    if isinstance(inputs, Tensor):
        return inputs.repeat(size, *[1] * (inputs.dim() - 1)) if inputs.dim() else inputs
    if isinstance(inputs, Mapping):
        return {key: _batch(value, size) for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(_batch(value, size) for value in inputs)
    return inputs


def _tensors(inputs: Any) -> Iterator[Tensor]:
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, (Mapping, tuple, list)):
        for value in inputs.values() if isinstance(inputs, Mapping) else inputs:
            yield from _tensors(value)


def _owners(lines: Sequence[tuple[str, str]], models: Sequence[Any]) -> list[int]:
    """To which model each line belongs: lines of one model follow each other, and it has a runtime only once."""
    names = [str(model) if isinstance(model, Path) else type(model).__name__ for model in models]
    owners: list[int] = []
    at, seen = 0, set[str]()
    for name, runtime in lines:
        if runtime in seen:
            at, seen = at + 1, set()
        while names[at] != name:
            at, seen = at + 1, set()
        seen.add(runtime)
        owners.append(at)
    return owners


def _shapes(inputs: Any) -> str:
    return ", ".join("×".join(map(str, tensor.shape)) for tensor in _tensors(inputs))
