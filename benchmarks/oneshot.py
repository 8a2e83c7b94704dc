"""One-shot reconstruction beside magnitude at equal sparsity, without labels and without training.

    python benchmarks/oneshot.py            both parts; writes oneshot.json after each row
    python benchmarks/oneshot.py demo|vit   one of them

demo: the demo network on Fashion-MNIST, accuracy on test pictures, with and without recalibrated batch norms,
calibrated on 512 training pictures. vit: the linear layers of a Vision Transformer of timm's size, trained here on
digits brought to its resolution, since no weights can be downloaded; accuracy on digits' test pictures and the squared
error of every layer's output over that of the dense layer, calibrated on 256 pictures.
"""

from __future__ import annotations

import json
import math
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import podar
from podar.data import load
from podar.demo import load_trained
from podar.files import write_atomic
from podar.measuring import processor
from podar.recover import accuracy, finetune, recalibrate
from podar.sources.opening import open_source

RESULT = Path(__file__).with_suffix(".json")
CASES = (("unstructured", 0.8), ("2:4", 0.5), ("4x1", 0.6), ("unstructured", 0.9))
VIT = "timm:vit_tiny_patch16_224"
VIT_ARGS = {"num_classes": 10, "img_size": 64, "in_chans": 1}


def compare(
    build: Callable[[], nn.Module], images: Tensor, test: Any, train: Any, protect: tuple[str, ...], cases: Any
) -> Any:
    """A row a case: accuracies of magnitude and of reconstruction, and the layers' errors."""
    for pattern, amount in cases:
        kept = (*protect,) if pattern == "unstructured" else protect
        row: dict[str, Any] = {"pattern": pattern, "amount": amount}
        plain = build()
        podar.sparsify(plain, amount, pattern=pattern, protect=kept)
        podar.bake(plain)
        ours = build()
        start = time.perf_counter()
        errors = podar.sparse.reconstruct(ours, amount, images, pattern=pattern, protect=kept)
        row["seconds"] = time.perf_counter() - start
        podar.bake(ours)
        assert podar.sparsity(plain).zeros == podar.sparsity(ours).zeros, "unequal sparsity"
        row["sparsity"] = podar.sparsity(ours).fraction
        for name, model in (("magnitude", plain), ("reconstructed", ours)):
            row[name] = {"accuracy": accuracy(model, test)}
            if recalibrate(model, train):
                row[name]["accuracy_recalibrated"] = accuracy(model, test)
        row["layer_error"] = {
            "magnitude_masks": mean(e.masked_only for e in errors),
            "reconstructed": mean(e.error for e in errors),
            "layers": [{"name": e.name, "magnitude_masks": e.masked_only, "reconstructed": e.error} for e in errors],
        }
        yield row


def mean(values: Any) -> float:
    """Geometric: layers' errors differ by orders of magnitude."""
    return math.exp(statistics.fmean(math.log(max(v, 1e-12)) for v in values))


def demo(note: Callable[[dict[str, Any], list[Any]], None]) -> None:
    data = load("fashion-mnist-demo")
    test, train = data.test.subset(torch.arange(1000)), data.train.subset(torch.arange(2000))
    images = data.train.batch(torch.arange(512))[0]
    # The first convolution has one input channel, which no N:M divides; the classifier ten outputs, which 4 does not.
    rows: list[Any] = []
    head = {"network": "demo: ResNet-20", "data": "fashion-mnist-demo, 1,000 test pictures", "calibration": 512}
    head["dense_accuracy"] = accuracy(load_trained(), test)
    cases = {p: ("conv", "fc") if p != "unstructured" else () for p, _ in CASES}
    for pattern, amount in CASES:
        for row in compare(load_trained, images, test, train, cases[pattern], [(pattern, amount)]):
            rows.append(row)
            note(head, rows)


def vit(note: Callable[[dict[str, Any], list[Any]], None]) -> None:
    data = load("digits", image_size=VIT_ARGS["img_size"])
    source = open_source(VIT, model_args=VIT_ARGS)
    torch.manual_seed(0)
    model = source.build()
    finetune(model, data, epochs=20, lr=1e-3, batch_size=64, label_smoothing=0.0, precision="fp32")
    state = {name: t.clone() for name, t in model.state_dict().items()}

    def build() -> nn.Module:
        built = source.build()
        built.load_state_dict(state)
        return built.eval()

    images = data.train.batch(torch.arange(256))[0]
    head = {
        "network": f"{VIT} {VIT_ARGS}, linear layers of the blocks",
        "data": f"digits, {len(data.test)} test pictures; trained 20 epochs here",
        "calibration": 256,
        "dense_accuracy": accuracy(build(), data.test),
    }
    rows: list[Any] = []
    for row in compare(build, images, data.test, data.train, ("patch_embed", "head"), CASES):
        rows.append(row)
        note(head, rows)


PARTS = {"demo": demo, "vit": vit}


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    for name in sys.argv[1:] or PARTS:

        def note(head: dict[str, Any], rows: list[Any], name: str = name) -> None:
            found[name] = {
                "command": shlex.join(["python", "benchmarks/oneshot.py", name]),
                "versions": {"podar": podar.__version__, "torch": str(torch.__version__)},
                "processor": str(processor()),
                **head,
                "rows": rows,
            }
            write_atomic(RESULT, json.dumps(found, indent=1) + "\n")
            last = {k: v for k, v in rows[-1].items() if k != "layer_error"}
            errors = {k: v for k, v in rows[-1]["layer_error"].items() if k != "layers"}
            print(name, last, errors, flush=True)

        PARTS[name](note)


if __name__ == "__main__":
    main()
