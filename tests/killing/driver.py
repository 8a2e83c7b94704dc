"""Kills a run before each of its file operations, lets a fresh process go on, and says how each ended.

    python tests/killing/driver.py KIND FOLDER [EVERY] [FIRST]

KIND is a name of `RECIPES`; every EVERY-th operation from the FIRST on is tried. All runs are forks of this process,
which has imported everything and computed nothing, so that each is as fresh as a process of its own and starts at once.
An operation is whatever Python reports to its audit hooks as changing a file or folder of the run; writers that are
compiled count twice, before they begin and when half is written. One JSON object a line goes to standard output.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

NETWORK = """
import torch
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )

def example_inputs():
    return torch.zeros(1, 1, 12, 12)
"""
CUT: dict[str, Any] = {"prune": {"target": "macs=0.6", "multiple_of": 1}}
BATCH = {"batch_size": 16}
TUNED: dict[str, Any] = {"finetune": {"epochs": 2, **BATCH}}
RECIPES: dict[str, list[dict[str, Any]]] = {
    "prune": [CUT, TUNED],
    "sparsify": [{"sparsify": {"amount": 0.5, "schedule": "rigl"}}, TUNED],
    "ticket": [{"ticket": {"rounds": 2, "seeds": 1, "epochs": 1, "rewind": 1, "controls": ["reinit"], **BATCH}}],
    "export": [CUT, {"export": {"formats": ["onnx"]}}],
    "yolo": [
        {"prune": {"target": "macs=0.7"}},
        {"finetune": {"epochs": 2, "settings": {"batch": 4, "plots": False, "workers": 0, "warmup_epochs": 0}}},
    ],
}
# Ultralytics keeps optimizer and averages in half precision: what goes on from them has other bits.
INEXACT = {"yolo": {"model.safetensors", "pruned.pt", "best.pt", "last.pt", "results.csv", "summary.json", "args.yaml"}}
CHANGING = {"os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.chmod", "os.truncate", "os.link", "os.symlink"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Times, and what depends on them.
UNEQUAL = {"stages", "seconds", "versions", "latency_ms", "command"}


class Killer:
    """Counts the operations under a folder, and ends the process before one of them."""

    def __init__(self, folder: Path, at: int | None) -> None:
        self.folder, self.at, self.count, self.resting = str(folder), at, 0, False
        sys.addaudithook(self.heard)

    def heard(self, event: str, args: tuple[Any, ...]) -> None:
        if self.resting or not (event in CHANGING or (event == "open" and args[2] & WRITING)):
            return
        if any(self.ours(part) for part in args[:2]):
            self.operation()

    def ours(self, part: Any) -> bool:
        return isinstance(part, (str, bytes, os.PathLike)) and os.path.abspath(os.fsdecode(part)).startswith(
            self.folder
        )

    def operation(self) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch_compiled_writers(self) -> None:
        import safetensors.torch
        import torch

        writers: list[tuple[Any, str, Callable[..., str]]] = [
            (safetensors.torch, "serialize_file", lambda flat, name, **_: str(name)),
            (torch._C, "PyTorchFileWriter", lambda name, *_: str(name)),
        ]
        for module, name, file_of in writers:
            setattr(module, name, self.counted(getattr(module, name), file_of))

    def counted(self, write: Callable[..., Any], file_of: Callable[..., str]) -> Callable[..., Any]:
        def writing(*args: Any, **options: Any) -> Any:
            file = file_of(*args, **options)
            if not self.ours(file):
                return write(*args, **options)
            self.operation()
            written = write(*args, **options)
            if self.count + 1 == self.at:
                self.resting = True
                os.truncate(file, os.path.getsize(file) // 2)
                self.resting = False
            self.operation()
            return written

        return writing


def forked(work: Callable[[], Any], log: Path) -> int:
    """Run `work` in a fork of this process; returns its exit status as `waitpid` gives it."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def prepared(folder: Path, kind: str) -> Any:
    """The network, the data and the recipe."""
    import numpy as np

    from podar.runs import recipe as recipes

    if kind == "yolo":
        from podar.data.scenes import compose

        data = compose(folder / "scenes", scenes=(6, 3), side=64, photographs="fashion-mnist-demo")
        return recipes.make({"model": "yolo26n.yaml", "data": str(data), "image_size": 64, "stages": RECIPES[kind]})
    (folder / "net.py").write_text(NETWORK)
    labels = np.arange(48) % 3
    images = np.random.default_rng(0).integers(0, 60, (48, 12, 12), dtype=np.uint8)
    images[labels == 1, :6] += 150
    images[labels == 2, 6:] += 150
    np.savez(folder / "data.npz", images=images, labels=labels)
    data = None if kind == "export" else str(folder / "data.npz")
    plain = {"model": f"{folder}/net.py:make", "data": data, "stages": RECIPES[kind], "deterministic": True}
    return recipes.make(plain)


def go_on(recipe: Any, out: Path) -> None:
    """What a user does after a kill: resume, or start again where the run had not begun."""
    from podar.errors import PodarError
    from podar.runs import running

    if not out.exists():
        running.start(recipe, out, command="podar")
        return
    try:
        running.resume(out, trust=True)
    except PodarError as error:
        if "finished: there is nothing to resume" in str(error):
            return
        if "holds no run that was broken off" not in str(error):
            raise
        running.start(recipe, out, command="podar")


def found(out: Path, inexact: Collection[str] = ()) -> dict[str, str]:
    """Every file and folder that a run left, hidden ones too, by a hash of what must always be the same."""
    told: dict[str, str] = {}
    for path in sorted(out.rglob("*")):
        if path.is_dir():
            told[f"{path.relative_to(out)}/"] = "" if any(path.iterdir()) else "empty"
            continue
        content = path.read_bytes()
        if path.name == "summary.json":
            content = json.dumps(timeless(json.loads(content)), sort_keys=True).encode()
        elif path.name == "report.html" or path.name in inexact:  # shows times
            content = b""
        told[str(path.relative_to(out))] = hashlib.sha256(content).hexdigest()
    return told


def timeless(data: Any) -> Any:
    """A summary without what another run of the same would say otherwise."""
    if isinstance(data, dict):
        return {key: timeless(value) for key, value in data.items() if key not in UNEQUAL}
    return [timeless(value) for value in data] if isinstance(data, list) else data


def ends(kind: str, folder: Path, every: int, first: int) -> Iterator[dict[str, Any]]:
    """How each run ended that was killed."""
    from podar.runs import running

    recipe = prepared(folder, kind)

    def carried_out(out: Path, at: int | None) -> None:
        killer = Killer(out, at)
        killer.watch_compiled_writers()
        running.start(recipe, out, command="podar")
        (folder / "count").write_text(str(killer.count))

    def tried(at: int | None) -> tuple[Path, int]:
        out = folder / ("whole" if at is None else f"{at:04d}")
        return out, forked(lambda: carried_out(out, at), folder / f"{out.name}.log")

    whole, status = tried(None)
    assert status == 0, (folder / "whole.log").read_text()
    inexact = INEXACT.get(kind, set())
    expected, count = found(whole, inexact), int((folder / "count").read_text())
    for at in range(first, count + 1, every):
        out, status = tried(at)
        log = folder / f"{out.name}.log"
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        left = sorted(found(out)) if out.exists() else []
        again = forked(lambda out=out: go_on(recipe, out), log)
        now = found(out, inexact) if out.exists() else {}
        differing = sorted(name for name in {*expected, *now} if expected.get(name) != now.get(name))
        good = killed and again == 0 and not differing
        yield {"at": at, "of": count, "good": good} | (
            {} if good else {"killed": killed, "left": left, "differing": differing, "log": log.read_text()[-2000:]}
        )


def main() -> None:
    import accelerate
    import torch

    import podar.formats
    import podar.measuring
    import podar.plans.saving
    import podar.reports
    import podar.stages
    import podar.tickets

    if sys.argv[1] == "export":
        import onnxruntime
        import onnxscript
        import torch.onnx

        assert onnxruntime and onnxscript and torch.onnx
    if sys.argv[1] == "yolo":
        from podar.libraries.ultralytics import make_ready, trainer

        make_ready()
        assert trainer
    assert accelerate and torch and podar.stages.stages()
    folder = Path(sys.argv[2]).resolve()
    every, first = (int(word) for word in (*sys.argv[3:], *("1", "1")[len(sys.argv) - 3 :]))
    for end in ends(sys.argv[1], folder, every, first):
        print(json.dumps(end), flush=True)


if __name__ == "__main__":
    main()
