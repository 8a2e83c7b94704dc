"""The child process of `podar.measuring.memory`: reads a request on stdin, runs one model, prints its peak memory."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import numpy as np

from podar.errors import PodarError
from podar.measuring.memory import resident_peak
from podar.runtimes import RUNTIMES, open_in
from podar.runtimes.torch import as_for_serving
from podar.trust import programs

_RUNS = 5  # runtimes enlarge their memory in the first two or three runs


def main() -> int:
    """Answer the request on standard input. Returns the exit status: 0, or 1 where the model could not be run."""
    request: dict[str, Any] = json.load(sys.stdin)
    if request["runtime"] not in RUNTIMES:
        importlib.import_module(request["home"])  # a runtime of the user's own registers itself there
    runtime = RUNTIMES[request["runtime"]]
    importlib.import_module(runtime.package)
    if request.get("torchvision"):  # the model's code may import it, and it may lack operators on this machine
        from podar.model.torchvision_operators import import_torchvision

        import_torchvision()
    baseline = resident_peak()
    try:
        model, inputs = _load(request)
        ready = open_in(runtime.name, model, inputs, request["threads"])
        with as_for_serving(model, request["threads"]):
            for _ in range(_RUNS):
                ready.run()
    except PodarError as error:
        print(json.dumps({"error": str(error)}))
        return 1
    print(json.dumps({"baseline": baseline, "peak": resident_peak()}))
    return 0


def _load(request: dict[str, Any]) -> tuple[Any, Any]:
    if "arrays" in request:
        programs.remember(request["file"])  # the parent process has already asked whether this file may be run
        with np.load(request["arrays"]) as stored:
            return request["file"], {name: stored[f"arr_{i}"] for i, name in enumerate(request["names"])}
    import torch

    # Our own parent wrote this pickle a moment ago, into a folder that only this user can write to.
    return torch.load(request["module"], weights_only=False)


if __name__ == "__main__":
    sys.exit(main())
