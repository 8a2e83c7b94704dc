"""find_ticket: iterative magnitude pruning with rewinding, its controls, over several seeds, resumable."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from podar.criteria import Scorer
from podar.data import Dataset
from podar.errors import QUOTED, PodarError, UsageError, check_known
from podar.model.patterns import patterns
from podar.recover import accuracy, finetune
from podar.sparse.early_bird import EarlyBird
from podar.sparse.keeper import Keeper
from podar.sparse.layers import Weight, weights_of
from podar.sparse.masking import check_weights, choose_masks
from podar.sparse.patterns import Unstructured
from podar.sparse.scopes import parse_scope
from podar.tickets.controls import built, built_anew, random_masks
from podar.tickets.curve import ARMS, TicketPoint
from podar.tickets.store import Store
from podar.tickets.ticket import Tickets, load

AfterStep = Callable[[int, int], None]
Train = Callable[[nn.Module, AfterStep, int, int, "Path | None"], Any]
"""train(model, after_step, start, seed, checkpoint): trains in place, all but its first `start` steps, calls
`after_step(done, total)` after each, orders the data by `seed`, and may keep its place in the file `checkpoint`."""


def find_ticket(
    build: Callable[[], nn.Module],
    data: Any = None,
    *,
    rounds: int = 10,
    amount: float = 0.2,
    rewind: int = 0,
    seeds: int | Sequence[int] = 3,
    controls: str | Iterable[str] = (),
    every: int = 1,
    epochs: int = 5,
    lr: float | None = None,
    batch_size: int = 128,
    scope: str = "global",
    importance: str | Scorer = "magnitude",
    protect: str | Iterable[str] = (),
    early_bird: float | None = None,
    folder: str | os.PathLike[str] | None = None,
    train: Train | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    progress: Callable[[str, int, int, dict[str, float]], None] | None = None,
) -> Tickets:
    """Search winning tickets: train, remove the least weights, rewind the rest, and again (Frankle and Carbin, 2019).

    **Arguments:**

    - `build`: () → the model; its weights are drawn under `torch.manual_seed(seed)`.
    - `data`: what `podar.finetune` takes. A `podar.data.Dataset` is tested on its test split.
    - `rounds`: how often weights go; after round r a fraction (1 − amount)^r remains.
    - `amount`: fraction of the remaining weights that goes each round.
    - `rewind`: 0: to the initialisation; k: to the weights after k steps of the dense training (Frankle et al., 2020).
    - `seeds`: how many, or which. Each is a search of its own.
    - `controls`: any of "reinit" (the same mask, weights drawn anew), "random" (random masks of equal layer densities),
      "finetune" (trained on from the round before instead of rewound).
    - `every`: controls run at every so many rounds, and at the last.
    - `epochs`, `lr`, `batch_size`: of each training, as of `podar.finetune`.
    - `scope`, `importance`, `protect`: as of `podar.sparsify`.
    - `early_bird`: break off the trainings that only serve to find a mask once it has settled to this mask distance,
      such as 0.1 (You et al., 2020); the last round always trains in full, and so do the controls.
    - `folder`: where every finished training is written at once; the same call goes on from there after a kill.
    - `train`: instead of `podar.finetune`: train(model, after_step, start, seed, checkpoint).
    - `evaluate`: model → accuracy, a fraction.
    - `progress`: called as progress(stage, done, total, numbers).

    **Returns:** Tickets: .points, .curve(arm), .smallest(arm), .ticket(round, seed), .model.

    **Raises:** `UsageError`: options that make no sense. PodarError: nothing to prune, no data, rounds that would empty
    the model, a folder that holds another search.

    ```python
    tickets = podar.find_ticket(build, podar.data.load("fashion-mnist"), rounds=12, controls=("reinit",))
    tickets.smallest("ticket"), tickets.smallest("reinit")
    ```
    """
    arms = ("ticket", *dict.fromkeys(patterns(controls)))
    chosen = _checked(rounds, amount, rewind, seeds, arms[1:], every)
    if data is None and (train is None or evaluate is None):
        raise PodarError("a ticket search trains again and again: give data, or train= and evaluate=")
    if train is None and epochs < 1:
        raise UsageError(f"epochs={epochs} trains nothing: give 1 or more")
    kind, notes = parse_scope(scope), []
    first = built(build, chosen[0])
    weights = weights_of(first, protect)
    if not weights:
        raise PodarError("no ticket to find: the model has no unprotected convolution, linear or recurrent weight")
    total = sum(w.parameter.numel() for w in weights)
    if round(total * (1 - amount) ** rounds) < len(weights):
        raise UsageError(
            f"rounds={rounds} of amount={amount:g} would leave {round(total * (1 - amount) ** rounds)} of {total} "
            f"weights for {len(weights)} layers: choose fewer rounds or a smaller amount"
        )
    check_weights(weights, Unstructured())
    signature = {
        "amount": amount, "rewind": rewind, "rounds": rounds, "seeds": list(chosen), "controls": list(arms[1:]),
        "epochs": epochs if train is None else None, "scope": kind,
        "importance": importance if isinstance(importance, str) else getattr(importance, "__name__", "callable"),
        "early_bird": early_bird, "weights": {w.name: list(w.parameter.shape) for w in weights},
    }  # fmt: skip
    if evaluate is None and not isinstance(data, Dataset):
        notes.append("Accuracy is that on the training data, since no evaluate= was given.")
    judge = evaluate if evaluate is not None else _accuracy_on(data.test if isinstance(data, Dataset) else data)
    teach = train if train is not None else _finetuning(data, epochs, lr, batch_size)
    search = _Search(
        build, Store(folder, signature), teach, judge, patterns(protect), amount, rewind, kind, importance, data,
        early_bird, rounds,
    )  # fmt: skip
    _run(search, chosen, arms, every, progress)
    points = [p for p in search.store.points if p.seed in chosen and p.round <= rounds and p.arm in arms]
    return Tickets(tuple(points), arms, chosen, rounds, tuple(notes), build, search.store)


def _run(search: _Search, seeds: Sequence[int], arms: Sequence[str], every: int, progress: Any) -> None:
    rounds, store = search.rounds, search.store
    cells = [
        (seed, number, arm)
        for seed in seeds
        for number in range(rounds + 1)
        for arm in arms
        if arm == "ticket" or (number and (number % every == 0 or number == rounds))
    ]
    for at, (seed, number, arm) in enumerate(cells):
        if progress is not None:
            progress("ticket", at, len(cells), {"seed": seed, "round": number})
        if not store.done(seed, arm, number):
            store.add(search.cell(seed, arm, number))


def _accuracy_on(tested: Any) -> Callable[[nn.Module], float]:
    return lambda model: accuracy(model, tested)


def _finetuning(data: Any, epochs: int, lr: float | None, batch_size: int) -> Train:
    """`podar.finetune` in fp32: whichever precision is fastest today would make seeds incomparable tomorrow."""

    def train(model: nn.Module, after_step: AfterStep, start: int, seed: int, checkpoint: Path | None) -> None:
        finetune(
            model,
            data,
            epochs=epochs,
            lr=lr,
            batch_size=batch_size,
            precision="fp32",
            seed=seed,
            skip=start,
            checkpoint=checkpoint,
            after_step=after_step,
        )

    return train


class _Settled(Exception):
    """The mask that a training is to find does not change any more."""


@dataclass
class _Search:
    """One search: how to make, train and judge a model, and where what was found is kept."""

    build: Callable[[], nn.Module]
    store: Store
    train: Train
    evaluate: Callable[[nn.Module], float]
    protect: tuple[str, ...]
    amount: float
    rewind: int
    scope: str
    importance: str | Scorer
    data: Any
    early_bird: float | None
    rounds: int

    def cell(self, seed: int, arm: str, number: int) -> TicketPoint:
        """Train one arm at one round and judge it; a ticket's training also gives the next round's mask."""
        began, name = time.perf_counter(), f"seed{seed}-{arm}{number:02d}"
        model = self._start(seed, arm, number)
        weights = weights_of(model, self.protect)
        keeper = Keeper(model, weights)
        if number:
            masks = self.store.get(f"seed{seed}-mask{number:02d}")
            keeper.masks = random_masks(masks, seed) if arm == "random" else masks
            keeper.apply()
        # What was drawn anew has no history to go on from, and what was trained before has all of it behind it.
        skipped = self.rewind if number and arm in ("ticket", "random") else 0
        share = self._train(model, keeper, seed, skipped, name, searching=arm == "ticket" and number < self.rounds)
        keeper.apply()
        reached = float(self.evaluate(model))
        if arm == "ticket":
            self.store.put(f"seed{seed}-trained{number:02d}", model.state_dict())
            if number < self.rounds:
                self.store.put(f"seed{seed}-mask{number + 1:02d}", self._drawn(model, weights, number + 1))
        checkpoint = self.store.checkpoint(name)
        if checkpoint is not None:
            with suppress(FileNotFoundError):
                checkpoint.unlink()
        total = sum(m.numel() for m in keeper.masks.values())
        density = sum(int(m.sum()) for m in keeper.masks.values()) / total
        return TicketPoint(seed, arm, number, density, reached, share, time.perf_counter() - began)

    def _start(self, seed: int, arm: str, number: int) -> nn.Module:
        """The weights that a training begins with."""
        if arm == "reinit":
            return built_anew(self.build, seed)
        model = built(self.build, seed)
        if number == 0:
            if not self.store.has(f"seed{seed}-initial"):
                self.store.put(f"seed{seed}-initial", model.state_dict())
            load(model, self.store, f"seed{seed}-initial")
            if not self.rewind:
                self.store.put(f"seed{seed}-start", model.state_dict())
        else:
            load(model, self.store, f"seed{seed}-trained{number - 1:02d}" if arm == "finetune" else f"seed{seed}-start")
        return model

    def _train(self, model: nn.Module, keeper: Keeper, seed: int, skipped: int, name: str, searching: bool) -> float:
        """Train under the masks; returns the share of the training that was done."""
        dense = name.endswith("ticket00")
        bird = None
        if searching and self.early_bird is not None:
            number = int(name[-2:]) + 1
            bird = EarlyBird(lambda: self._drawn(model, keeper.weights, number), self.early_bird)
        last = [0, 1]

        def after_step(done: int, total: int) -> None:
            last[:] = done, total
            keeper.apply()
            if dense and self.rewind and done == self.rewind:
                self.store.put(f"seed{seed}-start", model.state_dict())
            if bird is not None and bird.after_step(done, total) and (done >= self.rewind or not dense):
                raise _Settled

        # A bird that went on from a checkpoint would not know the masks before it, and settle later.
        checkpoint = self.store.checkpoint(name) if bird is None else None
        with suppress(_Settled):
            self.train(model, after_step, skipped, seed, checkpoint)
        if dense and not self.store.has(f"seed{seed}-start"):
            raise UsageError(f"rewind={self.rewind} lies beyond the {last[1]} steps of the training")
        # Nothing left to do: the checkpoint was that of a whole training, which was killed before it was noted.
        return last[0] / last[1] if last[0] else 1.0

    def _drawn(self, model: nn.Module, weights: list[Weight], number: int) -> dict[str, Tensor]:
        """The mask of a round, from weights as they are trained; what is gone stays gone."""
        part = 1 - (1 - self.amount) ** number
        return choose_masks(model, weights, part, Unstructured(), self.scope, self.importance, self.data)


def _checked(
    rounds: int, amount: float, rewind: int, seeds: int | Sequence[int], controls: Sequence[str], every: int
) -> tuple[int, ...]:
    """The seeds, after everything else made sense."""
    if rounds < 1:
        raise UsageError(f"rounds={rounds}: a search prunes at least once")
    if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not 0 < amount < 1:
        raise UsageError(
            f"amount={amount!r} is the fraction of the remaining weights that goes each round, such as 0.2"
        )
    if isinstance(rewind, bool) or not isinstance(rewind, int) or rewind < 0:
        raise UsageError(f"rewind={rewind!r}: write 0 for the initialisation, or a number of steps")
    if every < 1:
        raise UsageError(f"every={every}: controls run at every round (1) or at every so many")
    known = [arm for arm in ARMS if arm != "ticket"]
    for control in controls:
        check_known("control", control, known, QUOTED)
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen or len(set(chosen)) < len(chosen):
        raise UsageError(f"seeds={seeds!r}: give how many seeds (3), or different ones (0, 1, 2)")
    return chosen
