"""Trains the network of `podar demo` on the 60,000 training pictures of Fashion-MNIST, or checks its checkpoint.

python examples/train_demo.py            trains, and writes podar/demo/resnet20.safetensors and resnet20.json
python examples/train_demo.py --check    prints the accuracy of the checkpoint on the 10,000 test pictures
"""

from __future__ import annotations

import json
import platform
from pathlib import Path

import torch
import typer
from rich.progress import Progress
from safetensors.torch import save

import podar
import podar.data
from podar.demo import build, load_trained
from podar.demo.network import CHECKPOINT, RECORD
from podar.files import write_atomic
from podar.recover import accuracy


def main(check: bool = False, epochs: int = 7, lr: float = 0.1, seed: int = 0, resume: Path | None = None) -> None:
    """Train with `--epochs`, `--lr` and `--seed`; `--resume FILE` keeps a checkpoint of the training there."""
    data = podar.data.load("fashion-mnist")
    if check:
        recorded = json.loads(RECORD.read_text(encoding="utf-8"))["accuracy"]
        print(f"test accuracy {accuracy(load_trained(), data.test):.4f}, recorded {recorded:.4f}")
        return
    torch.manual_seed(seed)
    model = build()
    with Progress() as bar:
        task = bar.add_task("training", total=None)

        def progress(stage: str, done: int, total: int, numbers: dict[str, float]) -> None:
            bar.update(
                task, completed=done, total=total, description=f"epoch {numbers['epoch']}, loss {numbers['loss']:.3f}"
            )

        history = podar.finetune(
            model, data, epochs=epochs, lr=lr, label_smoothing=0.05, seed=seed, checkpoint=resume, progress=progress
        )
    reached = accuracy(model, data.test)  # the only use of the test pictures
    record = {
        "accuracy": reached,
        "params": sum(p.numel() for p in model.parameters()),
        "command": f"python examples/train_demo.py --epochs {epochs} --lr {lr} --seed {seed}",
        "epochs": epochs,
        "lr": lr,
        "seed": seed,
        "precision": history.precision,
        "history": history.epochs,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "podar": podar.__version__},
    }
    write_atomic(CHECKPOINT, save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))
    write_atomic(RECORD, json.dumps(record, indent=1) + "\n")
    print(f"test accuracy {reached:.4f}; {CHECKPOINT.name} has {CHECKPOINT.stat().st_size:,} bytes")


if __name__ == "__main__":
    typer.run(main)
