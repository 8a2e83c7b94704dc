"""What a cut costs in accuracy before anything is trained: podar, compensated, beside Torch-Pruning, recalibrated.

pip install --no-deps --target /some/folder torch-pruning==1.6.0
python benchmarks/accuracy.py --peer /some/folder                     all rows that accuracy.json does not have yet
python benchmarks/accuracy.py --networks vgg --targets 0.5            some of them; without --peer podar's alone
python benchmarks/accuracy.py --networks resnet --targets 0.5 --train after them: one and five epochs of training
python benchmarks/accuracy.py --table                                 only what docs show

Every method gets the same weights, the same 512 training pictures (their labels are looked at by Taylor alone) and all
10,000 test pictures of Fashion-MNIST; one thread. accuracy.json, docs/benchmarks-accuracy.md and the table in
docs/compensation.md are written after every row. Networks that do not come with podar are trained once, and kept in
build/accuracy. Torch-Pruning takes a share of channels, not of MACs: it is searched by bisection.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accuracy_networks import NETWORKS, trained
from accuracy_page import render
from torch import Tensor, nn
from torch_pruning_peer import output_layers, torch_pruning

import podar
from podar.data import load
from podar.files import write_atomic
from podar.measuring import processor
from podar.recover import accuracy, finetune, recalibrate
from podar.runs.finishing import versions

RESULT = Path(__file__).with_suffix(".json")
CACHE = Path(__file__).parents[1] / "build" / "accuracy"
TARGETS = (0.5, 0.25, 0.125)
PICTURES, BATCH = 512, 128
CRITERIA = ("magnitude", "taylor", "bn-scale")
PEERS = {
    "magnitude": "GroupMagnitudeImportance",
    "taylor": "GroupTaylorImportance",
    "bn-scale": "BNScaleImportance",
    "lamp": "LAMPImportance",
    "fpgm": "FPGMImportance",
}
SCOPES: dict[str, dict[str, bool]] = {
    "local": {},
    "global": {"global_pruning": True},
    "isomorphic": {"global_pruning": True, "isomorphic": True},
}
NEAR, WITHIN, TRIES = 0.02, 0.02, 14  # the bisection stops at NEAR of the target; WITHIN, in shares of MACs, is good
EPOCHS = (1, 5)
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One network: dense, and what every method is given."""

    name: str
    dense: nn.Module
    macs: int
    pictures: Tensor
    labels: Tensor
    data: Any

    @property
    def example(self) -> Tensor:
        return self.pictures[:1]

    @property
    def labelled(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.pictures.split(BATCH), self.labels.split(BATCH)))

    def share(self, model: nn.Module) -> float:
        """The MACs of a cut network, counted alike for all tools."""
        return podar.trace(model, self.example).cost().macs / self.macs

    def right(self, model: nn.Module) -> float:
        """Accuracy on the test pictures; in the layout of memory that is quickest."""
        return accuracy(copy.deepcopy(model).to(memory_format=torch.channels_last), self.data.test)

    def recalibrated(self, model: nn.Module) -> nn.Module:
        fresh = copy.deepcopy(model)
        recalibrate(fresh, self.pictures.split(BATCH))
        return fresh


def case(name: str, data: Any) -> Case:
    dense = trained(name, data, CACHE)
    # The same pictures for all: drawn from all training pictures, since their order may be that of the classes.
    places = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:PICTURES]
    pictures, labels = data.train.batch(places)
    macs = podar.trace(dense, pictures[:1]).cost().macs
    return Case(name, dense, macs, pictures, labels, data)


def cut_by_podar(own: Case, target: float, criterion: str, **how: Any) -> nn.Module:
    """A copy that `podar.prune` made smaller; with its defaults but for what is given."""
    model = copy.deepcopy(own.dense)
    if criterion == "reconstruction":
        how |= {"data": own.pictures}
    else:
        how |= {"data": own.labelled, "loss": nn.functional.cross_entropy, "importance": criterion}
    podar.prune(model, own.example, f"macs={target}", **how)
    return model


def podars(own: Case, target: float, criterion: str) -> Row:
    """The default call; under podar's own criterion also the cut as it is, recalibrated, and solved map by map."""
    start = time.perf_counter()
    model = cut_by_podar(own, target, criterion)
    row: Row = {"seconds": time.perf_counter() - start, "macs": own.share(model), "compensated": own.right(model)}
    if criterion == "reconstruction":
        model = cut_by_podar(own, target, criterion, compensate=False)
        row |= {"cut": own.right(model), "recalibrated": own.right(own.recalibrated(model))}
        start = time.perf_counter()
        podar.compensate(model, own.dense, own.pictures, refine=False)
        row |= {"solved_seconds": time.perf_counter() - start, "solved": own.right(model)}
    return row


def cut_by_peer(own: Case, peer: Any, criterion: str, scope: str, gradients: list[Tensor], ratio: float) -> nn.Module:
    """A copy that Torch-Pruning made smaller, in one step."""
    model = copy.deepcopy(own.dense)
    for parameter, gradient in zip(model.parameters(), gradients):
        parameter.grad = gradient.clone()
    modules = dict(model.named_modules())
    peer.pruner.BasePruner(
        model,
        own.example,
        importance=getattr(peer.importance, PEERS[criterion])(),
        pruning_ratio=ratio,
        ignored_layers=[modules[name] for name in output_layers(model, own.example)],
        **SCOPES[scope],
    ).step()
    model.zero_grad(set_to_none=True)
    return model.eval()


def peers(own: Case, target: float, criterion: str, scope: str, peer: Any) -> Row:
    """Torch-Pruning at the share of channels whose MACs are nearest to the target."""
    cut = functools.partial(cut_by_peer, own, peer, criterion, scope, gradients(own) if criterion == "taylor" else [])
    low, high = 0.0, 1.0  # ratios that keep too much, and too little
    best: tuple[float, float, nn.Module | None] = (1.0, 0.0, None)
    why = ""
    for _ in range(TRIES):
        ratio = (low + high) / 2
        try:
            model = cut(ratio)
            share = own.share(model)
        except Exception as error:  # a layer that lost all its channels, most often
            why, high = f"{type(error).__name__}: {error}".splitlines()[0], ratio
            continue
        if abs(share - target) < abs(best[0] - target):
            best = (share, ratio, model)
        if abs(share - target) <= NEAR * target:
            break
        low, high = (ratio, high) if share > target else (low, ratio)
    share, ratio, model = best
    if model is None or abs(share - target) > WITHIN:
        return {"failed": f"the MACs do not come nearer to the target than {share:.3f}" + (f" ({why})" if why else "")}
    return {"macs": share, "pruning_ratio": ratio, "recalibrated": own.right(own.recalibrated(model))}


def gradients(own: Case) -> list[Tensor]:
    """Of the loss over the labelled pictures, for Taylor."""
    model = copy.deepcopy(own.dense).eval()
    for x, y in own.labelled:
        (nn.functional.cross_entropy(model(x), y) * len(x) / PICTURES).backward()
    return [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]


def after_training(model: nn.Module, own: Case) -> Row:
    """The accuracy after some epochs over all training pictures, each number of them a training of its own."""
    row: Row = {"macs": own.share(model)}
    for epochs in EPOCHS:
        fresh = copy.deepcopy(model)
        finetune(fresh, own.data, epochs=epochs, seed=0)
        row[f"epochs_{epochs}"] = own.right(fresh)
    return row


def narrowed(own: Case, target: float) -> Row:
    """The same architecture with narrower layers, trained from scratch for as many epochs as the others in sum."""
    network = NETWORKS[own.name]
    low, high = 0.0, 1.0
    for _ in range(TRIES):
        middle = (low + high) / 2
        low, high = (low, middle) if own.share(network.build(middle).eval()) > target else (middle, high)
    row: Row = {"macs": own.share(network.build(low).eval()), "width": low}
    for epochs in EPOCHS:
        torch.manual_seed(0)
        model = network.build(low)
        finetune(model, own.data, epochs=network.epochs + epochs, lr=0.1, label_smoothing=0.05, seed=0)
        row[f"epochs_{epochs}"] = own.right(model)
    return row


def trainings(own: Case, target: float, rows: dict[str, Row], peer: Any) -> Iterator[tuple[str, Callable[[], Row]]]:
    """podar's default, the best peer by recalibrated accuracy, and the narrowed network."""

    def default() -> Row:
        return after_training(cut_by_podar(own, target, "reconstruction"), own)

    def rival(key: str) -> Row:
        _, criterion, scope, _ = key.split(", ")
        grads = gradients(own) if criterion == "taylor" else []
        model = cut_by_peer(own, peer, criterion, scope, grads, rows[key]["pruning_ratio"])
        return after_training(own.recalibrated(model), own)

    yield f"trained, podar, {target}", default
    theirs = {k: r["recalibrated"] for k, r in rows.items() if k.startswith("torch-pruning") and "recalibrated" in r}
    theirs = {k: value for k, value in theirs.items() if k.endswith(f", {target}")}
    if peer is not None and theirs:
        best = max(theirs, key=lambda k: theirs[k])
        yield f"trained, {best}", functools.partial(rival, best)
    yield f"trained, narrowed, {target}", functools.partial(narrowed, own, target)


def tasks(own: Case, targets: list[float], peer: Any) -> Iterator[tuple[str, Callable[[], Row]]]:
    """All rows of a network that train nothing, by key: podar's first."""
    for criterion in ("reconstruction", *CRITERIA):
        for target in targets:
            yield f"podar, {criterion}, {target}", functools.partial(podars, own, target, criterion)
    for target in targets if peer is not None else []:
        for scope in SCOPES:
            for criterion in PEERS:
                key = f"torch-pruning, {criterion}, {scope}, {target}"
                yield key, functools.partial(peers, own, target, criterion, scope, peer)


def fill(told: dict[str, Any], own: Case, asked: argparse.Namespace, peer: Any) -> None:
    """Compute the rows that are not there yet, and write after each."""
    found = told["networks"].setdefault(own.name, {})
    if "dense" not in found:
        found |= {"dense": own.right(own.dense), "macs": own.macs, "epochs": NETWORKS[own.name].epochs, "rows": {}}
        write(told)
    rows = found["rows"]

    def carry_out(todo: Iterator[tuple[str, Callable[[], Row]]]) -> None:
        for key, work in todo:
            if key in rows:
                continue
            try:
                rows[key] = work()
            except podar.PodarError as error:
                rows[key] = {"failed": str(error).splitlines()[0]}
            print(own.name, key, json.dumps(rows[key]), flush=True)
            write(told)

    carry_out((key, work) for key, work in tasks(own, asked.targets, peer) if key.startswith(asked.rows))
    for target in asked.targets if asked.train else []:
        carry_out(trainings(own, target, rows, peer))


def write(told: dict[str, Any]) -> None:
    write_atomic(RESULT, json.dumps(told, indent=1) + "\n")
    render(told)


def main() -> None:
    """Fill in the rows that the JSON does not have yet, or render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="the folder that holds Torch-Pruning")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--targets", nargs="+", type=float, choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--rows", default="", help="only those whose key starts so, such as 'podar, reconstruction'")
    parser.add_argument("--train", action="store_true", help="also one and five epochs after the cut")
    parser.add_argument("--table", action="store_true", help="only render what docs show")
    asked = parser.parse_args()
    told: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {"networks": {}}
    if asked.table:
        render(told)
        return
    torch.set_num_threads(1)
    data = load("fashion-mnist")
    told |= {
        "command": "python benchmarks/accuracy.py --peer FOLDER",
        "data": f"fashion-mnist, {len(data.test):,} test pictures; {PICTURES} training pictures for the cut",
        "methods": [
            *(f"podar, {criterion}" for criterion in ("reconstruction", *CRITERIA)),
            *(f"torch-pruning, {criterion}, {scope}" for scope in SCOPES for criterion in PEERS),
        ],
        "versions": {**versions(), "torch-pruning": "1.6.0"},
        "processor": processor().to_json(),
    }
    peer = None if asked.peer is None else torch_pruning(asked.peer)
    for name in asked.networks:
        fill(told, case(name, data), asked, peer)


if __name__ == "__main__":
    main()
