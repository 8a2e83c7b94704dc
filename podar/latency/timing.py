"""Times layer files in a runtime. It needs numpy and the runtime alone, so that it also runs as a script on a device.

`podar profile MODEL --runtime R --bundle FOLDER` writes a copy of this file beside the layer files that it times:

    python profile.py --out table.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

try:
    import resource
except ImportError:  # Windows does not tell how often another program took the processor
    resource = None

Lap = Callable[[], "tuple[float, float, bool]"]
"""Runs once; milliseconds by the clock, of the processor, and whether another program took the processor meanwhile."""

LEAST_ROUNDS = 11
AT_ONCE = 32
BYTES_AT_ONCE = 256 << 20
TABLE = 1
"""The version of a table's form."""

INDEX = "layers.json"
"""The file of a bundle that says which layer is in which file."""


def lap(run: Callable[[], Any]) -> tuple[float, float, bool]:
    """Run once and tell the time: by the clock, of the processor, and whether another program took the processor."""
    taken, busy, start = _taken(), time.process_time_ns(), time.perf_counter_ns()
    run()
    clock, busy = time.perf_counter_ns() - start, time.process_time_ns() - busy
    return clock * 1e-6, busy * 1e-6, _taken() > taken


def _taken() -> int:
    """How often the processor was taken from this process so far."""
    return 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def rounds(laps: Mapping[str, Lap], threads: int, seconds: float = 0.0) -> dict[str, list[float]]:
    """Run all one after the other, round by round, so that each finds the caches as others have left them.

    **Arguments:**

    - `threads`: on one thread the processor's own time is taken, which other programs do not change; on several, or
      where the runtime waits for another device, that of the clock.
    - `seconds`: how long at least; never less than eleven rounds.

    **Returns:** Milliseconds of each round.
    """
    found: dict[str, list[tuple[float, float, bool]]] = {name: [] for name in laps}
    for run in laps.values():
        run()
    end = time.perf_counter() + seconds
    while True:
        for name, run in laps.items():
            found[name].append(run())
        enough = len(next(iter(found.values()), [])) >= LEAST_ROUNDS
        if enough and (time.perf_counter() >= end or all(len(set(times)) == 1 for times in found.values())):
            break  # a simulator reports the same time for each run
    by_clock = threads > 1 or _waits([own for times in found.values() for own in times])
    return {name: [clock if by_clock else busy for clock, busy, _ in times] for name, times in found.items()}


def _waits(times: Sequence[tuple[float, float, bool]]) -> bool:
    """Whether the runtime waits for another device, judged by the runs that no other program disturbed."""
    alone = [busy / clock for clock, busy, taken in times if not taken and clock > 0]
    return bool(alone) and float(np.median(alone)) < 0.5


def quick(times: Sequence[float]) -> float:
    """The time of an undisturbed run: a fifth of the runs were as quick."""
    return float(np.percentile(times, 20))


def portions(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Names in portions that fit into memory together; `sizes`: bytes of weights of each."""
    part: list[str] = []
    held = 0
    for name, size in sizes.items():
        if part and (len(part) >= AT_ONCE or held + size > BYTES_AT_ONCE):
            yield part
            part, held = [], 0
        part.append(name)
        held += size
    if part:
        yield part


def arrays(shapes: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Random inputs of these shapes."""
    generator = np.random.default_rng(0)
    return [generator.standard_normal(tuple(shape), dtype=np.float32) for shape in shapes]


# As a script


def _onnxruntime(file: Path, threads: int) -> tuple[Callable[[list[np.ndarray]], Any], list[list[int]]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return lambda given: session.run(None, dict(zip(names, given))), [entry.shape for entry in session.get_inputs()]


def _openvino(file: Path, threads: int) -> tuple[Callable[[list[np.ndarray]], Any], list[list[int]]]:
    import openvino as ov

    how = {
        "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }  # fmt: skip
    model = ov.Core().read_model(str(file))
    shapes = [list(port.get_shape()) for port in model.inputs]
    request = ov.Core().compile_model(model, "CPU", how).create_infer_request()
    return lambda given: request.infer(given, share_inputs=True), shapes


OPENERS = {"onnxruntime": _onnxruntime, "openvino": _openvino}
"""What a bundle can be timed in without podar."""


def _processor() -> str:
    """The processor's name as the system gives it."""
    listing = Path("/proc/cpuinfo")
    for line in listing.read_text(errors="replace").splitlines() if listing.exists() else ():
        if line.lower().startswith(("model name", "hardware")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown processor"


def time_bundle(folder: Path, runtime: str, threads: int) -> dict[str, Any]:
    """The table of a bundle: milliseconds of each of its files."""
    index = json.loads((folder / INDEX).read_text())
    version = f"{runtime} {__import__(runtime).__version__.partition('-')[0]}"
    layers: dict[str, float] = {}
    for part in portions({name: own["bytes"] for name, own in index["layers"].items()}):
        laps = {}
        for name in part:
            run, shapes = OPENERS[runtime](folder / index["layers"][name]["file"], threads)
            given = arrays(shapes)
            laps[name] = lambda run=run, given=given: lap(lambda: run(given))
        layers |= {name: quick(times) for name, times in rounds(laps, threads).items()}
        print(f"{len(layers)} of {len(index['layers'])} files timed", file=sys.stderr)
    return {
        "podar_table": TABLE, "runtime": version, "threads": threads, "processor": _processor(), "layers": layers,
    }  # fmt: skip


def main() -> None:
    """The script: `python profile.py --out table.json`."""
    here = Path(__file__).resolve().parent
    asked = argparse.ArgumentParser(description="Time the layer files that lie beside this script.")
    index = json.loads((here / INDEX).read_text())
    asked.add_argument("--runtime", choices=sorted(OPENERS), default=index["runtime"])
    asked.add_argument("--threads", type=int, default=index["threads"])
    asked.add_argument("--out", type=Path, default=Path("table.json"))
    given = asked.parse_args()
    try:
        table = time_bundle(here, given.runtime, given.threads)
    except ImportError as error:
        sys.exit(f"{given.runtime} is not installed ({error}): pip install {given.runtime} numpy")
    written = given.out.with_name(given.out.name + ".part")
    written.write_text(json.dumps(table, indent=1) + "\n")
    os.replace(written, given.out)


if __name__ == "__main__":
    main()
