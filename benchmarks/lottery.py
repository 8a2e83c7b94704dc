"""Lottery tickets on Fashion-MNIST: the experiment of Frankle and Carbin (2019), with every control and several seeds.

    python benchmarks/lottery.py                          goes on where an earlier call was stopped
    python benchmarks/lottery.py --seeds 5 --epochs 20    another search, in another folder (--work)

Theirs: MNIST, a 300-100 MLP, Adam at 1.2e-3, 20 % of the weights a round; best at 21.1 % of the weights, equal to dense
at 3.6 %. Here: Fashion-MNIST, all 60,000 training pictures, the same MLP and a small convolutional network, the same
optimizer and rate. lottery.json is renewed after every finished training; `smallest` is the least density whose mean
test accuracy is within one standard error of the dense mean, for tickets and for each control.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import podar
from podar.data import load
from podar.files import write_atomic
from podar.measuring import processor
from podar.tickets.curve import ARMS, TicketPoint, curve, smallest_density

RESULT = Path(__file__).with_suffix(".json")
RATE, BATCH = 1.2e-3, 128
CONTROLS = ("reinit", "random", "finetune")


def mlp() -> nn.Module:
    """LeNet-300-100: 266,610 parameters."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def cnn() -> nn.Module:
    """Two convolutions and two linear layers: 26,698 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 7 * 7, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {"mlp-300-100": mlp, "small-cnn": cnn}


def trainer(images: Tensor, labels: Tensor, epochs: int) -> Any:
    """Adam at a constant rate over standardised pictures in memory, without augmentation, as in the paper."""
    steps = len(images) // BATCH

    def train(model: nn.Module, after_step: Any, start: int, seed: int, checkpoint: Path | None) -> None:
        optimizer = torch.optim.Adam(model.parameters(), RATE, fused=True)
        generator, total = torch.Generator().manual_seed(seed), epochs * steps
        for epoch in range(epochs):
            order = torch.randperm(len(images), generator=generator)
            for step in range(steps):
                done = epoch * steps + step
                if done < start:
                    continue
                places = order[step * BATCH : (step + 1) * BATCH]
                functional.cross_entropy(model(images[places]), labels[places]).backward()
                optimizer.step()
                optimizer.zero_grad()
                after_step(done + 1, total)

    return train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--every", type=int, default=4, help="controls run at every so many rounds")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--work", type=Path, help="masks and weights of the search; runs/lottery-EPOCHS when not given")
    options = parser.parse_args()
    options.work = options.work or Path(f"runs/lottery-{options.epochs}")
    torch.set_num_threads(1)

    data = load(options.data)
    images, labels = data.train.batch(torch.arange(len(data.train)))
    tests, answers = data.test.batch(torch.arange(len(data.test)))
    train = trainer(images, labels, options.epochs)

    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            right = [model(x).argmax(1) == y for x, y in zip(tests.split(1000), answers.split(1000))]
        return float(torch.cat(right).float().mean())

    def note(stage: str, done: int, total: int, numbers: dict[str, float]) -> None:
        write(options, data)
        print(f"{stage} {done}/{total} {numbers}", flush=True)

    for seed in range(options.seeds):
        for name, build in NETWORKS.items():
            podar.find_ticket(
                build, rounds=options.rounds, amount=0.2, seeds=(seed,), controls=CONTROLS, every=options.every,
                folder=options.work / name, train=train, evaluate=evaluate, progress=note,
            )  # fmt: skip
    write(options, data)


def write(options: argparse.Namespace, data: Any) -> None:
    """What is finished so far."""
    networks = {}
    for name, build in NETWORKS.items():
        state = options.work / name / "tickets.json"
        if not state.is_file():
            continue
        points = [TicketPoint(**p) for p in json.loads(state.read_text(encoding="utf-8"))["points"]]
        finished = {arm: curve(points, arm) for arm in ARMS}
        dense = finished["ticket"][0]
        networks[name] = {
            "parameters": sum(p.numel() for p in build().parameters()),
            "dense_accuracy": dense.accuracy,
            "dense_standard_error": dense.error,
            "smallest_density_within_one_standard_error": {arm: smallest_density(points, arm) for arm in ARMS},
            "most_accurate": {arm: max(c, key=lambda p: p.accuracy).to_json() for arm, c in finished.items() if c},
            "curves": {arm: [p.to_json() for p in c] for arm, c in finished.items()},
            "points": [p.to_json() for p in points],
        }
    found = {
        "command": shlex.join(["python", "benchmarks/lottery.py", *sys.argv[1:]]),
        "data": f"{data.name}: {len(data.train)} training and {len(data.test)} test pictures",
        "training": f"Adam {RATE:g}, batches of {BATCH}, {options.epochs} epochs, rewound to initialisation",
        "pruning": f"20 % of the remaining weights a round, global magnitude, {options.rounds} rounds",
        "seeds_planned": options.seeds,
        "paper": {"data": "MNIST", "network": "300-100 MLP", "best_density": 0.211, "equal_to_dense_density": 0.036},
        "arms": ARMS,
        "versions": {"podar": podar.__version__, "torch": str(torch.__version__)},
        "processor": str(processor()),
        "networks": networks,
    }
    write_atomic(RESULT, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
