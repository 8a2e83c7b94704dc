"""Peak resident memory of a fresh process that loads a model, runs it a few times and does nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from podar.errors import PodarError, first_line
from podar.files import open_for_torch
from podar.runtimes import RUNTIMES
from podar.runtimes.file_inputs import arrays

if TYPE_CHECKING:
    from torch import nn

_TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Memory:
    """Bytes. `peak` is the whole process, nothing subtracted; `baseline` is the interpreter with the runtime's package
    imported, before it opens the model: `peak - baseline` is the model's weights, activations and compiled kernels."""

    peak: int
    baseline: int


def peak_memory(runtime: str, model: str | Path | nn.Module, example_inputs: Any, threads: int = 1) -> Memory:
    """Measure in a child process, so that nothing of this one (training data, other models) counts.

    A torch model travels to the child as a pickle in a temporary file that only this user can read; classes defined
    in a script or a notebook travel with it.

    **Arguments:** `runtime`: a name of `podar.runtimes.RUNTIMES`; the others as in `podar.measure`.

    **Raises:** `PodarError` where the child cannot run the model: it says why.
    """
    with tempfile.TemporaryDirectory(prefix="podar-memory-") as folder:
        home = RUNTIMES[runtime].open.__module__
        packed = _pack(Path(folder), model, example_inputs)
        request = {"runtime": runtime, "home": home, "threads": threads, **packed}
        try:
            child = subprocess.run(
                [sys.executable, "-m", "podar.measuring._child"],
                input=json.dumps(request),
                capture_output=True,
                text=True,
                check=False,
                timeout=_TIMEOUT_SECONDS,
                env=_environment(threads),
            )
        except subprocess.TimeoutExpired as error:
            raise PodarError(f"the child process had not run the model after {_TIMEOUT_SECONDS} s.") from error
    if child.returncode < 0:
        raise PodarError(f"the child process that runs the model was ended by signal {-child.returncode}.")
    try:
        answer = json.loads(child.stdout.strip().splitlines()[-1])
        if "error" in answer:
            raise PodarError(answer["error"])
        return Memory(answer["peak"], answer["baseline"])
    except (ValueError, IndexError, KeyError) as error:
        if isinstance(error, PodarError):
            raise
        last = (child.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise PodarError(f"the child process that runs the model failed: {last.rstrip('.')}.") from error


def resident_peak() -> int:
    """Highest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: its ru_maxrss survives exec, so a child would show the memory of the process that started it.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _environment(threads: int) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path),
        "PYTHONSAFEPATH": "1",  # -m would put the working folder first, and an onnx.py in it before the package
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
    }


def _pack(folder: Path, model: Any, example_inputs: Any) -> dict[str, Any]:
    """Write what the child needs; returns its part of the request."""
    if isinstance(model, (str, Path)):
        found = arrays(example_inputs, widened=True)
        np.savez(folder / "inputs.npz", *found.values())  # stored as arr_0, arr_1 …
        return {"file": str(Path(model).resolve()), "arrays": str(folder / "inputs.npz"), "names": list(found)}
    import cloudpickle
    import torch

    try:
        with _own_code_by_value(cloudpickle), open_for_torch(folder / "model.pkl") as file:
            torch.save((model, example_inputs), file, pickle_module=cloudpickle)
    except Exception as error:  # anything a model may hold: locks, generators, open files
        raise PodarError(f"the model cannot be copied to a child process: {first_line(error)}.") from error
    return {"module": str(folder / "model.pkl"), "torchvision": "torchvision" in sys.modules}


@contextlib.contextmanager
def _own_code_by_value(cloudpickle: Any) -> Iterator[None]:
    """Within: classes of modules that are not installed packages are pickled whole, since the child may not find them
    (a script, a notebook, a file loaded by its path)."""
    installed = [Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    own = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is None or name == "__main__" or name.partition(".")[0] == "podar":
            continue
        if not any(Path(file).resolve().is_relative_to(place) for place in installed):
            own.append(module)
    registered = []
    try:
        for module in own:
            with contextlib.suppress(ValueError):  # pickle would not find one under another name
                cloudpickle.register_pickle_by_value(module)
                registered.append(module)
        yield
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)
