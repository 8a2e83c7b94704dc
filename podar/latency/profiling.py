"""The verb behind `podar profile`: measures the layers of a model on this machine, or packs them for another device."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from podar.errors import PodarError, UsageError
from podar.files import write_atomic
from podar.graph.graph import Graph
from podar.latency import timing
from podar.latency.layers import Layer, Layers
from podar.latency.onnx_files import onnx_file
from podar.latency.prices import FINE, files_for, grid_widths, whole_name
from podar.latency.serving import ONNX, checked_runtime, serving, write_quickly
from podar.latency.table import Table
from podar.model.inputs import ExampleInputs

SCRIPT = "profile.py"
"""The script that times the files of a bundle, and lies beside them."""


def profile(
    model: nn.Module,
    example_inputs: ExampleInputs,
    graph: Graph,
    runtime: str,
    threads: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Table:
    """Measure the fused layers of a model at some widths, and the whole model, on this machine.

    **Arguments:**

    - `graph`: the trace of the model.
    - `progress(done, total)`: called while layers are measured.

    **Returns:** The table: `table.save(path)`, then `podar.prune(..., table=path)` anywhere.

    **Raises:** `UsageError`: no such runtime; `PodarError`: it is not installed, or the model cannot be exported.

    ```python
    profile(model, x, podar.trace(model, x), "onnxruntime").save("table.json")
    ```
    """
    here = serving(runtime, threads)
    layers = Layers(graph)
    wanted = list(_files(layers).items())
    table = Table(here.version, threads, here.processor)
    whole = here.opened(model, example_inputs)
    took = table.layers[whole_name(layers)] = here.in_turn([whole], 1.0)[0]
    for start in range(0, len(wanted), timing.AT_ONCE):
        progress(start, len(wanted))
        table.layers |= here.time_layers(dict(wanted[start : start + timing.AT_ONCE]), whole, took)
    progress(len(wanted), len(wanted))
    return table


def pack(
    model: nn.Module,
    example_inputs: ExampleInputs,
    graph: Graph,
    folder: str | os.PathLike[str],
    runtime: str,
    threads: int = 1,
) -> Path:
    """Write what a device needs to measure a model's layers: files, and a script that needs only numpy and the runtime.

    **Arguments:** as of `profile`; `folder`: where the files go, which must not be there yet.

    **Returns:** The script: `python FOLDER/profile.py --out table.json` on the device writes the table.

    **Raises:** `UsageError`: a runtime that the script does not know; `PodarError`: a folder that is there already, a
    model that cannot be exported.
    """
    checked_runtime(runtime)
    if runtime not in timing.OPENERS:
        raise UsageError(f"the script of a bundle knows {' and '.join(timing.OPENERS)}, and not {runtime}")
    target = Path(folder)
    if target.exists():
        raise PodarError(f"{target} is there already: name a new folder for the bundle")
    layers = Layers(graph)
    index: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=_beside(target), prefix=f".{target.name}-") as hidden:
        written = Path(hidden) / target.name
        written.mkdir()
        for number, (name, (layer, times)) in enumerate(_files(layers).items()):
            file = f"{number:05}{ONNX}"
            (written / file).write_bytes(onnx_file(layer, times))
            index[name] = {"file": file, "bytes": 8 * int(np.prod(layer.weight)) * times}
        whole = written / f"model{ONNX}"
        write_quickly(model, whole, example_inputs)
        index[whole_name(layers)] = {"file": whole.name, "bytes": whole.stat().st_size}
        write_atomic(
            written / timing.INDEX, json.dumps({"runtime": runtime, "threads": threads, "layers": index}, indent=1)
        )
        shutil.copyfile(timing.__file__, written / SCRIPT)
        written.rename(target)
    return target / SCRIPT


def _beside(target: Path) -> Path:
    """The folder in which a folder is to appear.

    **Raises:** `PodarError`: it cannot be made.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PodarError(f"cannot write {target}: {error.strerror or error}.") from error
    return target.parent


def _files(layers: Layers) -> dict[str, tuple[Layer, int]]:
    """All that is to be timed of a model, by name."""
    wanted = []
    for place in layers.places:
        into, out_of = grid_widths(place, FINE)
        wanted += [place.layer.at(i, o) for i in into for o in out_of]
    return files_for(wanted)
