"""Networks with irregular zeros in the sparse engine, beside dense ONNX Runtime, OpenVINO (f32) and torch, in turn.

python benchmarks/sparse_engine.py            measures; writes sparse_engine.json and the table in docs/sparse_engine.md
python benchmarks/sparse_engine.py --only resnet50 --amount 0.9 --batch 1    some lines; the others keep their figures
python benchmarks/sparse_engine.py --table    renders the table again from sparse_engine.json

The JSON keeps a set of figures for each kind of processor (its instruction sets): a run replaces those of its own kind.

Weights are random; podar.sparsify removes the smallest, the same fraction of every layer but the first, which stays
dense (scope "uniform"). Speed does not depend on what the weights are, only on where the zeros are. Times are the
process's CPU seconds on one thread, so that other work on the machine counts little; ratios are medians over rounds
in which all took turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from torch import Tensor, nn

import podar
from podar.engine.accelerating import Accelerated
from podar.files import write_atomic
from podar.measuring.processors import processor
from podar.model.torchvision_operators import import_torchvision
from podar.runtimes.onnxruntime import session

HERE = Path(__file__)
RESULT = HERE.with_suffix(".json")
DOCUMENT = HERE.parent.parent / "docs" / "sparse_engine.md"
CASES: list[dict[str, Any]] = [
    *({"model": "resnet50", "amount": a} for a in (0.6, 0.65, 0.8, 0.9, 0.95)),
    {"model": "resnet50", "amount": 0.8, "pattern": "4x1"},
    {"model": "resnet50", "amount": 0.9, "batch": 16},
    *({"model": m, "amount": 0.85, "size": 320} for m in ("yolo26n", "yolo26s")),
    {"model": "mobilenet_v2", "amount": 0.85},
    {"model": "vit_small_patch16_224", "amount": 0.9},
]


def built(case: dict[str, Any]) -> tuple[nn.Module, Tensor, list[str]]:
    """The dense model, its input, and the layers that stay dense."""
    torch.manual_seed(0)
    name, size = case["model"], case.get("size", 224)
    tv = import_torchvision()
    x = torch.randn(case.get("batch", 1), 3, size, size)
    if name.startswith("yolo"):
        from ultralytics.nn.tasks import DetectionModel

        model: Any = DetectionModel(f"{name}.yaml", verbose=False).fuse(verbose=False)
        depthwise = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
        model.eval()(x)  # its anchors are made in the first pass
        return model, x, ["model.23.*", *depthwise]
    if name.startswith("vit"):
        import timm

        return timm.create_model(name).eval(), x, []
    model = getattr(tv.models, name)()
    depthwise = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    return model.eval(), x, depthwise


def dense_runtimes(model: nn.Module, x: Tensor, folder: Path) -> dict[str, Callable[[], Any]]:
    """The dense model in each runtime, one thread."""
    import openvino as ov

    path = folder / "dense.onnx"
    podar.export(model, str(path), x)
    dense = session(path, threads=1)
    name = dense.get_inputs()[0].name
    core = ov.Core()
    network = core.read_model(str(path))
    network.reshape(list(x.shape))
    hints = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(network, "CPU", hints).create_infer_request()
    wide, wide_x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    array = x.numpy()
    return {
        "onnxruntime": lambda: dense.run(None, {name: array}),
        "openvino": lambda: request.infer({0: array}, share_inputs=True, share_outputs=True),
        "torch": lambda: wide(wide_x),
    }


def accelerated(model: nn.Module, x: Tensor, level: str | None) -> Accelerated:
    """The sparse model in the engine at a vector level (None: the best)."""
    from podar.engine import operator

    operator._OPEN.clear()
    os.environ.pop("PODAR_SIMD", None)
    if level:
        os.environ["PODAR_SIMD"] = level
    fast = podar.accelerate(model, x)
    fast._rival = None  # the engine is what is measured here, also where ONNX Runtime would be faster
    fast(x)  # its programs stay open at this level
    os.environ.pop("PODAR_SIMD", None)
    return fast


@torch.no_grad()
def measured(case: dict[str, Any], rounds: int) -> dict[str, Any]:
    """One line of the table."""
    import podar_native

    model, x, protect = built(case)
    with tempfile.TemporaryDirectory() as folder:
        runs = dense_runtimes(model, x, Path(folder))
        sparse, _, _ = built(case)
        podar.sparsify(
            sparse, case["amount"], pattern=case.get("pattern", "unstructured"), scope="uniform", protect=protect
        )
        podar.bake(sparse)
        zeros = round(podar.sparsity(sparse).fraction, 3)
        fast = accelerated(sparse, x, None)
        expected, found = flat(sparse(x)), flat(fast(x))
        runs["podar"] = lambda: fast(x)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            run()
        for _ in range(rounds):
            for name, run in runs.items():
                start = time.process_time()
                run()
                times[name].append((time.process_time() - start) * 1e3)
        shapes = {
            layer["name"]: {"weight": layer["weight"], "positions": layer["positions"]}
            for name, program in fast.network.named_buffers() if name.startswith("_program_")
            for layer in podar_native.describe(program.numpy())["layers"]
        }  # fmt: skip
        best = min(("onnxruntime", "openvino", "torch"), key=lambda n: statistics.median(times[n]))
        line = {
            **case,
            "zeros": zeros,
            "ms": {name: round(statistics.median(t), 2) for name, t in times.items()},
            "best_dense": best,
            "ratio": round(statistics.median(d / p for d, p in zip(times[best], times["podar"])), 2),
            "relative_error": float((expected - found).abs().max() / expected.abs().max()),
            "in_torch": {name: count for name, (count, _) in fast.report.host.items()},
            "bytes": {
                "dense_weights": 4 * sum(p.numel() for p in model.parameters()),
                "programs": sum(b.numel() for n, b in fast.network.named_buffers() if n.startswith("_program_")),
            },
            "sgemm_gflops": sgemm(),
            "layers": [
                {"name": d.name, "density": round(d.density, 3), "ms": round(d.milliseconds, 4),
                 "gflops": round(d.gflops, 1), "variant": d.variant, "sparse": d.sparse, **shapes[d.name]}
                for region in fast.report.regions if region.kept for d in region.layers
            ],
        }  # fmt: skip
        if case["model"] == "mobilenet_v2":
            line["pointwise"] = pointwise(Path(folder) / "dense.onnx", x, sparse, fast)
        if shutil.which("perf") and case["model"] == "resnet50" and "batch" not in case:
            line["counters"] = counters(fast, x)
        lower = podar_native.levels()[1]
        if lower != "scalar" and "batch" not in case:
            slower = accelerated(sparse, x, lower)
            pairs = []
            for _ in range(max(3, rounds // 2)):
                start = time.process_time()
                runs[best]()
                middle = time.process_time()
                slower(x)
                pairs.append((middle - start) / (time.process_time() - middle))
            line["lower"] = {"level": lower, "ratio": round(statistics.median(pairs), 2)}
    return line


def pointwise(path: Path, x: Tensor, sparse: nn.Module, fast: Accelerated) -> dict[str, float]:
    """Milliseconds of all 1×1 convolutions inside the network: dense in ONNX Runtime by its profile, sparse in ours."""
    import podar_native

    from podar.engine.folding import exported, simplified
    from podar.engine.regions import lowered

    profiled = session(path, threads=1, enable_profiling=True, profile_file_prefix=str(path.with_suffix("")))
    graph = simplified(exported(sparse, (x,), {}))
    (_, lowering), *_ = lowered(graph, {n: "no operator" for n in graph.graph.nodes if n.op != "call_function"})
    chosen = podar_native.describe(fast.network._program_0.numpy())["layers"]  # type: ignore[union-attr, operator]
    choices = {c["name"]: podar_native.Choice(c["rows"], c["input_block"], c["tile"]) for c in chosen}
    # Without pairs, so that each layer has a time of its own.
    runner = podar_native.Runner(podar_native.build(lowering.network, choices, pair=1 << 40))
    layers = runner.description["layers"]
    ours = []
    for _ in range(20):
        profiled.run(None, {profiled.get_inputs()[0].name: x.numpy()})
        ours.append(runner.profile(x.numpy()))
    taken: dict[str, list[float]] = {}
    for event in json.loads(Path(profiled.end_profiling()).read_text()):
        shapes = [shape for entry in event.get("args", {}).get("input_type_shape", []) for shape in entry.values()]
        convolution = event["name"].endswith("_kernel_time") and "Conv" in event["args"].get("op_name", "")
        if convolution and len(shapes) > 1 and len(shapes[1]) == 4 and shapes[1][2:] == [1, 1]:
            taken.setdefault(event["name"], []).append(event["dur"] / 1e3)
    dense = sum(statistics.median(times) for times in taken.values())
    places = [layer["op"] for layer in layers if layer["weight"][2:] == [1, 1] and layer["kind"] == "conv"]
    ours_ms = float(np.median([times[places].sum() for times in ours])) / 1e6
    return {
        "layers": len(places),
        "dense_layers": len(taken),
        "onnxruntime_ms": round(dense, 2),
        "podar_ms": round(ours_ms, 2),
        "ratio": round(dense / ours_ms, 2),
    }


EVENTS = ("cycles:u", "instructions:u", "branch-misses:u", "L1-dcache-load-misses:u")
REPEATED = "import sys, numpy, podar_native; r, x = podar_native.Runner(sys.argv[1]), numpy.load(sys.argv[2])"


def counters(fast: Accelerated, x: Tensor) -> dict[str, int]:
    """What the processor counted for one image (Linux's perf), from a few runs and many; empty where it may not."""

    def counted(runs: int) -> dict[str, int]:
        code = f"{REPEATED}; [r.run([x]) for _ in range({runs})]"
        asked = ["perf", "stat", "-x", ",", "-e", ",".join(EVENTS), sys.executable, "-c", code, *files]
        lines = subprocess.run(asked, capture_output=True, text=True, check=False).stderr.splitlines()
        fields = [line.split(",") for line in lines]
        return {f[2].removesuffix(":u"): int(f[0]) for f in fields if len(f) > 2 and f[0].isdigit()}

    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/model.podar", f"{folder}/input.npy"]
        fast.save(files[0])
        np.save(files[1], x.numpy())
        few, many = counted(10), counted(60)
    return {event: (many[event] - few[event]) // 50 for event in few}


def sgemm() -> float:
    """GFLOP/s of a dense product of square matrices on this core: what is within reach of its peak."""
    a = torch.randn(1024, 1024)
    times = []
    for _ in range(5):
        start = time.process_time()
        torch.mm(a, a)
        times.append(time.process_time() - start)
    return round(2 * 1024**3 / min(times) / 1e9, 1)


def flat(value: Any) -> Tensor:
    """The largest tensor among the outputs (of a detector: its raw predictions)."""
    found: list[Tensor] = []

    def walk(v: Any) -> None:
        if isinstance(v, Tensor):
            found.append(v)
        elif isinstance(v, dict):
            list(map(walk, v.values()))
        elif isinstance(v, (tuple, list)):
            list(map(walk, v))

    walk(value)
    return max(found, key=Tensor.numel).float()


def key(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["model"], line["amount"], line.get("pattern", "unstructured"), line.get("batch", 1)


def table(machine: dict[str, Any]) -> str:
    """One processor's figures as a page's section."""
    best = "AVX-512" if "avx512f" in machine["processor"]["instruction_sets"] else "AVX2"
    lower = next((line["lower"]["level"] for line in machine["lines"] if "lower" in line), "lower level")
    lines = [
        f"### A processor with {best}",
        "",
        f"`{machine['command']}`, {machine['processor']['name']}, one thread, "
        + ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
        + ". CPU milliseconds; dense in the three runtimes, sparse in podar's.",
        "",
        "| network | zeros | batch | ONNX Runtime | OpenVINO f32 | torch | podar | times the best "
        f"| {lower} forced | weights, of dense |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for line in machine["lines"]:
        ms, size = line["ms"], line["bytes"]
        pattern = "" if line.get("pattern", "unstructured") == "unstructured" else f", {line['pattern']} blocks"
        lines.append(
            f"| {line['model']} | {line['amount']:.0%}{pattern} | {line.get('batch', 1)} | {ms['onnxruntime']:.1f} | "
            f"{ms['openvino']:.1f} | {ms['torch']:.1f} | {ms['podar']:.1f} | **{line['ratio']:.2f}** | "
            f"{line['lower']['ratio'] if 'lower' in line else ''} | {size['programs'] / size['dense_weights']:.2f} |"
        )
    for line in machine["lines"]:
        if "pointwise" in line:
            alone = line["pointwise"]
            lines += [
                "",
                f"{line['model']}, its {alone['layers']} 1×1 convolutions alone, inside the network: "
                f"{alone['onnxruntime_ms']:.2f} ms dense in ONNX Runtime (by its profile), {alone['podar_ms']:.2f} ms "
                f"in podar's: **{alone['ratio']:.2f}** times.",
            ]
    for line in machine["lines"]:
        if line["model"] == "resnet50" and line["amount"] == 0.9 and line.get("batch", 1) == 1:
            lines += ["", *by_class(line)]
    seen = [line for line in machine["lines"] if line.get("counters")]
    if seen:
        lines += [
            "",
            "ResNet-50, what the processor counted for one image (Linux's perf):",
            "",
            "| zeros | cycles | instructions a cycle | mispredicted branches | loads that missed the first cache |",
            "| --- | --- | --- | --- | --- |",
        ]
    for line in seen:
        n, blocks = line["counters"], line.get("pattern", "")
        lines.append(
            f"| {line['amount']:.0%} {blocks} | {n['cycles'] / 1e6:.0f} M | {n['instructions'] / n['cycles']:.2f} | "
            f"{n['branch-misses'] / 1e6:.2f} M | {n['L1-dcache-load-misses'] / 1e6:.1f} M |"
        )
    return "\n".join(lines)


def by_class(line: dict[str, Any]) -> list[str]:
    """GFLOP/s on nonzeros of each class of shapes, and its share of a dense product's on the same core."""
    classes: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for layer in line["layers"]:
        if layer["sparse"] and layer.get("positions", 1) > 1:
            classes.setdefault((layer["weight"][2], layer["positions"], layer["weight"][1]), []).append(layer)
    rows = [
        f"ResNet-50 at 90 %, batch 1, each class of its layers inside the network (a dense product reaches "
        f"{line.get('sgemm_gflops', 1):.0f} GFLOP/s on this core):",
        "",
        "| kernel | output | inputs | layers | ms | GFLOP/s on nonzeros | share |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (kernel, positions, inputs), layers in sorted(classes.items(), key=lambda c: (c[0][0], -c[0][1], c[0][2])):
        side, took = round(positions**0.5), sum(layer["ms"] for layer in layers)
        speed = sum(layer["ms"] * layer["gflops"] for layer in layers) / took
        rows.append(
            f"| {kernel}×{kernel} | {side}×{side} | {inputs} | {len(layers)} | {took:.2f} | {speed:.0f} | "
            f"{speed / line.get('sgemm_gflops', 1):.0%} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", action="append")
    parser.add_argument("--amount", action="append", type=float)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    machines: list[dict[str, Any]] = json.loads(RESULT.read_text()) if RESULT.exists() else []
    if not options.table:
        torch.set_num_threads(1)
        np.random.default_rng(0)
        here = processor().to_json()
        kind = here["instruction_sets"]
        old = [m for m in machines if m["processor"]["instruction_sets"] == kind]
        lines = {key(line): line for m in old for line in m["lines"]}
        for case in CASES:
            if options.only and case["model"] not in options.only:
                continue
            if options.amount and case["amount"] not in options.amount:
                continue
            if options.batch and case.get("batch", 1) != options.batch:
                continue
            rounds = options.rounds if case.get("batch", 1) == 1 else 5
            lines[key(case)] = measured(case, rounds)
            shown = {k: v for k, v in lines[key(case)].items() if k != "layers"}
            print(json.dumps(shown), file=sys.stderr, flush=True)
        measured_here = {
            "command": "python benchmarks/sparse_engine.py",
            "processor": here,
            "versions": {
                n: version(n) for n in ("torch", "onnxruntime", "openvino", "podar-native")
            } | {"python": platform.python_version()},
            "lines": [lines[key(c)] for c in CASES if key(c) in lines],
        }  # fmt: skip
        machines = [measured_here, *(m for m in machines if m not in old)]
        write_atomic(RESULT, json.dumps(machines, indent=1) + "\n")
    text = DOCUMENT.read_text()
    tables = "\n\n".join(table(machine) for machine in machines)
    begin, end = "<!-- table -->", "<!-- end of table -->"
    head, rest = text.split(begin)
    write_atomic(DOCUMENT, f"{head}{begin}\n{tables}\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    main()
