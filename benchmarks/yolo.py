"""Pruning YOLOs to half of the MACs at 320 px: seconds, sizes and ONNX Runtime latency, beside Torch-Pruning.

pip install --no-deps --target /some/folder torch-pruning==1.6.0
python benchmarks/yolo.py --peer /some/folder      measures what yolo.json lacks, and renders the table in docs/yolo.md
python benchmarks/yolo.py --table                  renders it again from yolo.json
options: --models yolo26n …, --limit 200, --memory 12, --again (podar's half is measured again)

Torch-Pruning runs in a process of its own, as its README says, and is stopped once that took the limit of processor
time: on a machine that is busy otherwise, too, it has as long as on an idle one. It is stopped as well where it takes
more memory than `--memory` gigabytes.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from torch_pruning_peer import torch_pruning

from podar.files import write_atomic
from podar.libraries.ultralytics import fused_cost, open_model, prune
from podar.libraries.ultralytics.exporting import export
from podar.measuring import compare, latency_ratio, processor
from podar.runs import running

MODELS = ("yolo26n", "yolo26s", "yolo26m", "yolo11n", "yolov8n")
SIDE, TARGET, ROUNDS = 320, 0.5, 5
RESULT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parent.parent / "docs" / "yolo.md"
MARKS = ("<!-- benchmarks/yolo.py writes what follows -->\n", "<!-- end of speed -->\n")


def ours(name: str) -> dict[str, Any]:
    """Trace, prune, verify, a few times over; then export both and run them in turn."""
    torch.manual_seed(0)
    dense = open_model(f"{name}.yaml", {}, False).make()
    x = torch.rand(1, 3, SIDE, SIDE)
    laps: list[float] = []
    for copied in [copy.deepcopy(dense) for _ in range(ROUNDS)]:
        start = time.process_time()
        prune(copied, x, f"macs={TARGET}", multiple_of=8)
        laps.append(time.process_time() - start)
    pruned = copy.deepcopy(dense)
    result = prune(pruned, x, f"macs={TARGET}", multiple_of=8)
    with tempfile.TemporaryDirectory() as folder:
        files = {s: export(m, Path(folder), s, x, "onnx").path for s, m in (("before", dense), ("after", pruned))}
        both = compare(files, x, threads=1, seconds=5)
    return {
        "seconds": min(laps),
        "first_seconds": laps[0],
        "params": [result.before.params, result.after.params],
        "macs": [result.before.macs, result.after.macs],
        "fused_params": [fused_cost(dense, x).params, fused_cost(pruned, x).params],
        "latency_ms": [both[half].latency_ms["p50"] for half in ("before", "after")],
        "latency_ratio": latency_ratio(both["before"], both["after"]),
    }


def theirs(name: str, limit: float, memory: float, folder: Path) -> dict[str, Any]:
    """Torch-Pruning's magnitude pruner with half of the channels; `error`: what it said, or that it took too much."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_torch_pruning, args=(name, sender, str(folder)))
    process.start()
    sender.close()  # so that a death over there is an end of the pipe here
    watched = psutil.Process(process.pid)
    found: dict[str, Any] = {"error": f"no answer in {limit:g} s of processor time"}
    while True:
        if receiver.poll(1):
            try:
                found = receiver.recv()
            except EOFError:
                process.join()
                found = {"error": f"its process died (exit code {process.exitcode})"}
            break
        seconds = sum(watched.cpu_times()[:2])
        if watched.memory_info().rss > memory * 1e9:
            found = {"error": f"no answer in {memory:g} GB of memory, {seconds:.0f} s of processor time"}
            break
        if seconds > limit:
            break
    process.terminate()
    process.join()
    return found


def _torch_pruning(name: str, pipe: Any, folder: str) -> None:
    torch.set_num_threads(1)
    try:
        peer = torch_pruning(Path(folder))
        model = open_model(f"{name}.yaml", {}, False).make()
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        x = torch.rand(1, 3, SIDE, SIDE)
        start = time.perf_counter()
        last = max((n for n, _ in model.named_modules() if n.count(".") == 1), key=lambda n: int(n.split(".")[1]))
        importance = peer.importance.MagnitudeImportance()
        pruner = peer.pruner.MagnitudePruner(
            model, x, importance, pruning_ratio=0.5, ignored_layers=[m for n, m in model.named_modules() if n == last]
        )
        pruner.step()
        seconds = time.perf_counter() - start
        with torch.no_grad():
            model.eval()(x)
        pipe.send({"seconds": seconds, "params": sum(p.numel() for p in model.parameters())})
    except BaseException as error:
        pipe.send({"error": f"{type(error).__name__}: {str(error)[:200]}"})


def table(told: dict[str, Any]) -> str:
    """The part of docs/yolo.md that shows the result."""
    rows = []
    for name, found in sorted(told["models"].items(), key=lambda item: MODELS.index(item[0])):
        own, peer = found["podar"], found.get("torch-pruning", {"error": "not measured yet"})
        macs, params = (f"{own[key][0] / 1e6:.2f} → {own[key][1] / 1e6:.2f} M" for key in ("macs", "params"))
        laps = f"{own['latency_ms'][0]:.1f} → {own['latency_ms'][1]:.1f} ms ({own['latency_ratio']:.2f})"
        said = peer.get("error") or f"{peer['seconds']:.1f} s, {peer['params'] / 1e6:.2f} M"
        rows.append(f"| {name} | {own['seconds']:.2f} s | {params} | {macs} | {laps} | {said} |")
    where = f"{told['processor'].get('name', 'unknown processor')}, one thread, torch {told['versions']['torch']}"
    return "\n".join(
        [
            f"`{told['command']}`: `macs={TARGET}` at {SIDE} px,",
            f"{where}.",
            f"Seconds of processor time, the least of {ROUNDS} runs, verification included; latency is ONNX Runtime's,",
            "dense and pruned in turn (and their ratio). Torch-Pruning 1.6.0 removes half of the channels.",
            "",
            "| model | podar | parameters | MACs | latency | Torch-Pruning |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def main() -> None:
    """Measure what is not there yet, write it down model by model, and render the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="the folder that holds Torch-Pruning")
    parser.add_argument(
        "--limit", type=float, default=200, help="seconds a model (of processor time) for Torch-Pruning"
    )
    parser.add_argument("--memory", type=float, default=12, help="gigabytes a model for Torch-Pruning")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--again", action="store_true", help="measure podar's half again")
    parser.add_argument("--table", action="store_true", help="only render the table")
    asked = parser.parse_args()
    told: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {"models": {}}
    if not asked.table:
        if asked.peer is None or not (asked.peer / "torch_pruning").is_dir():
            parser.error("--peer FOLDER: pip install --no-deps --target FOLDER torch-pruning==1.6.0")
        torch.set_num_threads(1)
        told |= {
            "command": f"python benchmarks/yolo.py --limit {asked.limit:g} --memory {asked.memory:g} --peer FOLDER",
            "processor": processor().to_json(),
            "versions": {**running.versions(), "torch-pruning": "1.6.0", "ultralytics": version("ultralytics")},
        }
        halves = {"podar": ours, "torch-pruning": lambda name: theirs(name, asked.limit, asked.memory, asked.peer)}
        for half, measure in halves.items():
            for name in asked.models:
                found = told["models"].setdefault(name, {})
                if half not in found or (asked.again and half == "podar"):
                    found[half] = measure(name)
                    write_atomic(RESULT, json.dumps(told, indent=1) + "\n")
                print(name, half, json.dumps(found[half]), flush=True)
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(MARKS[0])
    write_atomic(PAGE, before + MARKS[0] + table(told) + MARKS[1] + rest.split(MARKS[1])[1])


if __name__ == "__main__":
    main()
