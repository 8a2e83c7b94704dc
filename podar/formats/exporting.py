"""The verb `export`: write beside the target, reload, compare with the model, and only then put the file in place."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from podar.errors import PodarError, UsageError, first_line
from podar.files import put_in_place, staged
from podar.formats.flat import Flat, flatten
from podar.formats.parity import Difference, largest, noisy, tolerance_for
from podar.formats.registry import Format, WritingOptions, Written, format_for
from podar.model.inputs import ExampleInputs
from podar.runtimes import RUNTIMES, Session
from podar.runtimes.file_inputs import matched
from podar.trust import programs


@dataclass(frozen=True)
class Exported:
    """A file that was checked.

    - `parity`: the largest difference between the file and the model over all check inputs, as a fraction of the
      output's largest magnitude.
    - `runtime`: where it was reloaded for the check, e.g. `"onnxruntime 1.32.0"`; `writer`: what wrote it.
    - `bytes`: size, with `files[1:]`, which travel beside `path`.
    - `dynamic_batch`: whether other batch sizes may be fed (checked with one).
    """

    path: Path
    format: str
    runtime: str
    writer: str
    parity: float
    bytes: int
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    dynamic_batch: bool
    files: tuple[Path, ...]


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: ExampleInputs,
    *,
    format: str | None = None,
    check_inputs: ExampleInputs | None = None,
    dynamic_batch: bool = True,
    opset: int | None = None,
    tolerance: float | None = None,
    verbose: bool = False,
) -> Exported:
    """Write a model as a deployable file that is known to compute what the model computes.

    The model is exported in eval mode from a copy on the CPU: it keeps its own mode, device, hooks and caches. The
    file is reloaded in its runtime and run on the check inputs; only when every output agrees does it take its name.

    **Arguments:**

    - `model`: a torch module; masks (`weight_orig`, `weight_mask`) and parametrizations are carried out in the file.
    - `path`: the file to write; `.onnx`, `.xml` (OpenVINO, with `.bin` beside it), `.pt2` (torch.export) or `.podar`
      (the sparse engine's, where it can run every operator).
    - `example_inputs`: a tensor, a tuple of arguments, a dict of keyword arguments, or a callable that runs the model.
      The file's inputs bear the names of forward's parameters, nested ones with an index (`boxes_0`).
    - `format`: a name of `podar.formats.FORMATS`; None reads it from the suffix.
    - `check_inputs`: real inputs of the same form (any batch size), or a list of such; None checks on the example
      inputs and on a noisy variant of them.
    - `dynamic_batch`: let the file take any batch size (axis 0 of every input as long as the first one's). A model that
      has its batch size built in is written for the example's alone: `Exported.dynamic_batch` tells.
    - `opset`: ONNX operator set, 9 or newer, which the file then has; None takes what the exporter recommends.
    - `tolerance`: the largest `Exported.parity` that passes; None: 1e-4 (float16: 1e-2, bfloat16: 5e-2).
    - `verbose`: let the exporter talk.

    **Returns:** `Exported`.

    **Raises:** `podar.errors.PodarError` when a package is missing, the model cannot be exported, the file disagrees
    with the model (with the largest difference and where it lies; nothing is left behind) or cannot be written;
    `UsageError` for an unknown format.

    ```python
    exported = podar.export(model, "model.onnx", torch.randn(1, 3, 224, 224), check_inputs=images)
    print(exported.parity, exported.bytes)
    ```
    """
    target = Path(path)
    chosen = format_for(target, format)
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"tolerance is {tolerance}: give a number from 0 up.")
    flat = flatten(model, example_inputs)
    checks = _checks(flat, check_inputs)
    allowed = tolerance_for([*flat.inputs, *flat.run(flat.inputs)]) if tolerance is None else tolerance
    with staged(target) as folder:
        written = folder / target.name
        options = WritingOptions(dynamic_batch, opset, verbose)
        how, runtime, parity = _first_that_agrees(chosen, flat, written, options, checks, allowed)
        files = [target]
        for beside in chosen.sidecars(target):
            if (folder / beside.name).exists():
                put_in_place(folder / beside.name, beside)
                files.append(beside)
            else:
                beside.unlink(missing_ok=True)  # of the file that is replaced now
        put_in_place(written, target)
    programs.remember(target)
    return Exported(
        path=target,
        format=chosen.name,
        runtime=runtime,
        writer=how.writer,
        parity=parity,
        bytes=sum(file.stat().st_size for file in files),
        input_names=flat.input_names,
        output_names=flat.output_names,
        dynamic_batch=how.dynamic_batch,
        files=tuple(files),
    )


def _first_that_agrees(
    chosen: Format,
    flat: Flat,
    path: Path,
    options: WritingOptions,
    checks: Sequence[tuple[Tensor, ...]],
    allowed: float,
) -> tuple[Written, str, float]:
    """Try the format's ways to write the file, best first, until one agrees with the model.

    **Returns:** How it was written, the runtime that opened it, and the largest difference.
    """
    failures: list[PodarError] = []
    for attempt in chosen.attempts(flat, path, options):
        try:
            written = attempt()
            programs.remember(path)
            session = _opened(chosen, path)
            difference = _compare(flat, written, session, path.name, checks)
        except PodarError as error:
            failures.append(error)
            continue
        if difference.relative <= allowed:
            return written, session.version, difference.relative
        failures.append(_disagrees(flat, path.name, session.version, checks, difference, allowed))
    # Disagreement says more than that a way of writing failed.
    raise next((f for f in failures if isinstance(f, _DisagreesError)), failures[0])


class _DisagreesError(PodarError):
    pass


def _disagrees(
    flat: Flat,
    name: str,
    runtime: str,
    checks: Sequence[tuple[Tensor, ...]],
    difference: Difference,
    allowed: float,
) -> PodarError:
    again = max((largest(flat.run(c), flat.run(c), flat.output_names) for c in checks), key=lambda d: d.relative)
    if again.relative > allowed:
        return _DisagreesError(
            f"{name} was not written: the model gives another output each time it runs on the same input "
            f"({again.where}), so the file cannot be checked; make its forward deterministic in eval mode."
        )
    return _DisagreesError(
        f"{name} was not written: in {runtime} it does not compute what the model computes; "
        f"{difference.where}, {difference.relative:.2g} of that output's largest magnitude where {allowed:.2g} "
        "is allowed (tolerance=)."
    )


def _opened(chosen: Format, path: Path) -> Session:
    try:
        return RUNTIMES[chosen.runtime].open(path, torch.get_num_threads())
    except PodarError as error:  # the folder that it lies in is hidden, and soon gone
        raise PodarError(str(error).replace(str(path), "the exported file")) from error


def _compare(
    flat: Flat, written: Written, session: Session, name: str, checks: Sequence[tuple[Tensor, ...]]
) -> Difference:
    worst = None
    for tensors in checks:
        sizes = {t.shape[0] for t, grows in zip(tensors, flat.batched) if grows}
        if not written.dynamic_batch and sizes and sizes != {flat.batch}:
            pieces = _in_pieces(flat, tensors)
        else:
            pieces = [tensors]
        for piece in pieces:
            got = _outputs(flat, session, name, piece)  # first: a model may have the example's batch size built in
            found = largest(flat.run(piece), got, flat.output_names)
            worst = found if worst is None or found.relative > worst.relative else worst
    assert worst is not None  # there is always a check
    return worst


def _outputs(flat: Flat, session: Session, name: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    """What the file gives for the model's flat inputs. An input that nothing reads may not be in the file."""
    try:
        given = {name: _widened(tensor).numpy() for name, tensor in zip(flat.input_names, tensors)}
        arrays = session.run(list(matched(name, session.inputs, given).values()))
    except Exception as error:  # a runtime's own errors share no base class
        raise PodarError(f"{session.version} cannot run the exported file: {first_line(error)}.") from error
    if len(arrays) != len(flat.output_names):
        raise PodarError(f"the exported file gives {len(arrays)} outputs, and the model {len(flat.output_names)}.")
    return [_tensor(array, port.dtype) for array, port in zip(arrays, session.outputs)]


def _widened(tensor: Tensor) -> Tensor:
    """numpy has no bfloat16: sessions take and give float32 for it."""
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def _tensor(array: np.ndarray, dtype: str) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.bfloat16() if dtype == "bfloat16" else tensor


def _in_pieces(flat: Flat, tensors: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """A check batch cut into batches of the size that the file was written for; a short last one is filled up."""
    total = max(t.shape[0] for t, grows in zip(tensors, flat.batched) if grows)
    pieces = []
    for start in range(0, total, flat.batch):
        piece = tuple(t[start : start + flat.batch] if grows else t for t, grows in zip(tensors, flat.batched))
        pieces.append(flat.with_batch(piece, flat.batch))
    return pieces


def _checks(flat: Flat, check_inputs: ExampleInputs | None) -> list[tuple[Tensor, ...]]:
    if check_inputs is None:
        checks = [flat.inputs, noisy(flat.inputs)]
    else:
        several = check_inputs if isinstance(check_inputs, list) else [check_inputs]
        if not several:
            raise UsageError("check_inputs is an empty list: give at least one input, or None.")
        checks = [flat.tensors(inputs) for inputs in several]
    if any(flat.batched):  # another batch size than the example's, for files that say they take any
        checks.append(flat.with_batch(noisy(checks[-1], seed=1), flat.batch + 1))
    return checks
