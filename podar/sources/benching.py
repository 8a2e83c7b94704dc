"""What the names on the line of `podar bench` stand for (files, run folders, models), measured in turn."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from podar.errors import PodarError
from podar.formats import export
from podar.measuring import side_by_side
from podar.measuring.shaping import ShapedModel, Shapes, refuse_unknown, shaped_file, shaped_module, with_shapes
from podar.runtimes import RUNTIMES
from podar.sources.opening import open_source
from podar.trust import programs
from podar.trust.plain import read_json

# What is not known of a model that does not run.
_NOTHING = dict.fromkeys("params macs bytes memory_bytes memory_baseline_bytes latency_ms energy_joules".split())


def bench_models(
    names: Sequence[str],
    *,
    weights: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    runtimes: Sequence[str] = (),
    threads: int = 1,
    seconds: float = 3.0,
    batch_size: int = 1,
    shapes: Shapes | None = None,
    trust: bool = False,
) -> list[dict[str, Any]]:
    """Measure models and files in turn, on every runtime that runs them.

    **Arguments:**

    - `names`: exported files, run folders (their dense and pruned files), or MODELs, which are run by torch and,
      exported on the way, by the runtimes of files.
    - `weights`, `model_args`, `trust`: as for `podar.sources.opening.open_source`.
    - `runtimes`: only these; none named: all.
    - `threads`, `seconds`: as for `podar.measure`.
    - `batch_size`: how often inputs whose shape was not asked for are repeated along axis 0.
    - `shapes`: input name → shape, in place of the example's; "" names the only input.

    **Returns:** One mapping a model and runtime: `model`, `inputs` (shapes by name), `runtime`, and what
    `podar.measure` finds, or the `reason` why it found nothing.

    **Raises:** `UsageError` for a shape of an input that none of the models has, or of another number of axes.

    ```python
    bench_models(["runs/demo", "timm:resnet18"], threads=4, shapes={"x": (1, 3, 160, 160)})
    ```
    """
    asked = dict(shapes or {})
    with tempfile.TemporaryDirectory(prefix="podar-bench-") as scratch:
        candidates: list[ShapedModel] = []
        for name in names:
            opened = _opened(name, weights, dict(model_args or {}), trust)
            candidates += [with_shapes(candidate, asked, batch_size) for candidate in opened]
        refuse_unknown(asked, candidates)
        candidates = [each for candidate in candidates for each in _with_file(candidate, Path(scratch))]
        lines = side_by_side(
            [candidate.model for candidate in candidates],
            inputs=[candidate.inputs for candidate in candidates],
            runtimes=runtimes or None,
            threads=threads,
            seconds=seconds,
        )
    return [
        {
            "model": candidates[line.place].label,
            "inputs": {name: list(shape) for name, shape in candidates[line.place].shapes.items()},
            "runtime": line.runtime,
            **(line.measured.to_json() if line.measured else {**_NOTHING, "reason": line.reason}),
        }
        for line in lines
    ]


def _opened(name: str, weights: str | None, model_args: dict[str, Any], trust: bool) -> list[ShapedModel]:
    """What one name stands for: a file, the two files of a run folder, or a model."""
    path = Path(name)
    if any(path.suffix.lower() in runtime.suffixes for runtime in RUNTIMES.values()):
        if not path.is_file():
            raise PodarError(f"there is no file {name}.")
        files = [(name, path)]
    else:
        files = _exports(path)
    for _, file in files:
        if trust and file.is_file():
            programs.remember(file)
    if files:
        return [shaped_file(label, file) for label, file in files]
    source = open_source(name, weights=weights, model_args=model_args, trust=trust)
    return [shaped_module(name, source.build(), source.inputs())]


def _with_file(candidate: ShapedModel, scratch: Path) -> Iterator[ShapedModel]:
    """A model's exported file first, where it can be exported; what cannot is still measured in torch."""
    if not isinstance(candidate.model, Path):
        with contextlib.suppress(PodarError):
            file = scratch / f"{len(list(scratch.iterdir()))}.onnx"
            export(candidate.model, file, candidate.inputs)
            yield ShapedModel(candidate.label, file, candidate.inputs, candidate.shapes)
    yield candidate


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
