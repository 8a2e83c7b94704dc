"""Keeps a model sparse while it trains: masks are applied again after each step, and may grow sparser or move."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from podar.criteria import Scorer
from podar.errors import PodarError, UsageError
from podar.sparse.layers import Weight, weights_of
from podar.sparse.masking import check_amount, check_weights, choose_masks
from podar.sparse.masks import bake
from podar.sparse.patterns import NofM, Pattern, Unstructured, parse_pattern
from podar.sparse.schedules import Schedule, parse_schedule
from podar.sparse.scopes import parse_scope

Update = Callable[[dict[str, Tensor], float], "dict[str, Tensor] | None"]
"""(masks by weight name, share of the training done) → new masks, or None where they stay."""


REST = 25  # steps of the optimizer


class Keeper:
    """Holds the masks of a model in training. Its parameters stay plain, so deepcopy, EMA, DDP and checkpoints work.

    Call `after_step(done, total)` after each step of the optimizer (`podar.finetune(after_step=keeper.after_step)`), or
    `attach(optimizer, share)` once. Moments of the optimizer may push a masked weight: it is zero again before the next
    forward.

    **Attributes:**

    - `masks`: {weight name: boolean, True stays}.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: list[Weight],
        update: Update | None = None,
        updates: int = 100,
        rest: int = 0,
    ) -> None:
        if updates < 1:
            raise UsageError(f"updates={updates}: the masks are renewed at least once in a training")
        self.model, self.weights = model, weights
        self.masks: dict[str, Tensor] = {w.name: torch.ones_like(w.parameter, dtype=torch.bool) for w in weights}
        self._update, self._updates, self._seen = update, updates, -1
        self._rest, self._since = rest, 0  # steps that an update must be apart from the last one

    def after_step(self, done: int, total: int, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Renew the masks where that is due and apply them. The gradients of the step must still be there for RigL."""
        self.step(done / total, optimizer)

    def step(self, share: float, optimizer: torch.optim.Optimizer | None = None) -> None:
        """The same, from the share of the training that is done, 0 to 1."""
        due = math.floor(min(share, 1.0) * self._updates + 1e-9)
        self._since += 1
        if self._update is not None and due > self._seen and self._since >= self._rest:
            self._seen, self._since = due, 0
            self.apply()  # what momentum moved under a mask must not look like a weight that may stay
            renewed = self._update(self.masks, due / self._updates)
            if renewed is not None:
                renewed = _agreed(renewed)
                grown = {n: m & ~self.masks[n] for n, m in renewed.items()}
                self.masks = renewed
                _forget(self.weights, grown, optimizer)
        self.apply()

    def attach(self, optimizer: torch.optim.Optimizer, share: Callable[[], float] | None = None) -> Any:
        """Have every step of an optimizer followed by `step`: right under accumulation and gradient scaling too.

        **Arguments:**

        - `share`: gives the share of the training that is done. Masks that stay as they are (`keep`) need none.

        **Returns:** A handle; `handle.remove()` ends it.

        **Raises:** `UsageError`: masks that change in the course of the training, and no `share`.

        ```python
        podar.sparse.keep(model).attach(optimizer)
        ```
        """
        if share is None and self._update is not None:
            raise UsageError(
                "these masks change in the course of the training: attach(optimizer, share) needs a function that "
                "gives the share of it that is done, such as lambda: steps_done / steps"
            )
        plain = getattr(optimizer, "optimizer", optimizer)  # Accelerate and Lightning wrap it
        return plain.register_step_post_hook(lambda o, args, kwargs: self.step(1.0 if share is None else share(), o))

    @torch.no_grad()
    def apply(self, model: nn.Module | None = None) -> None:
        """Zero what is masked, in the model or in a copy of it such as its moving average."""
        weights = self.weights if model is None else weights_of(model, computed="skip")
        for weight in weights:
            if weight.name in self.masks:
                mask = self.masks[weight.name].to(weight.parameter.device)
                weight.parameter.masked_fill_(~mask, 0.0)

    def state_dict(self) -> dict[str, Tensor]:
        """The masks, for a checkpoint."""
        return {**self.masks, ":seen": torch.tensor([self._seen, self._since])}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the masks of a checkpoint.

        **Raises:** `PodarError`: they belong to another model.
        """
        for weight in self.weights:
            mask = state.get(weight.name)
            if mask is None or mask.shape != weight.parameter.shape:
                found = "none" if mask is None else f"one of shape {tuple(mask.shape)}"
                raise PodarError(
                    f"the saved masks have {found} for {weight.name}, whose shape is {tuple(weight.parameter.shape)}: "
                    "they belong to another model"
                )
        self.masks = {w.name: state[w.name].bool().to(w.parameter.device) for w in self.weights}
        self._seen, self._since = state[":seen"].tolist()
        self.apply()


def keep(model: nn.Module, protect: str | Iterable[str] = ()) -> Keeper:
    """Hold the zeros that a model has, so that training does not fill them. Masks of torch's format are baked.

    ```python
    podar.sparsify(model, 0.9)
    podar.finetune(model, data, after_step=podar.sparse.keep(model).after_step)
    ```
    """
    weights = weights_of(bake(model), protect, computed="skip")
    keeper = Keeper(model, weights)
    keeper.masks = {w.name: w.parameter.detach() != 0 for w in weights}
    keeper.apply()
    return keeper


def gradual(
    model: nn.Module,
    amount: float | None = None,
    *,
    schedule: str | Schedule = "cubic",
    pattern: str | Pattern = "unstructured",
    scope: str = "global",
    importance: str | Scorer = "magnitude",
    data: Any = None,
    loss: Any = None,
    protect: str | Iterable[str] = (),
    updates: int = 100,
) -> Keeper:
    """Sparsify in the course of a training: "one-shot", "iterative", or the "cubic" schedule of Zhu and Gupta (2017).

    **Arguments:**

    - `amount`, `pattern`, `scope`, `importance`, `data`, `loss`, `protect`: as of `podar.sparsify`.
    - `schedule`: a name, or any function from the share of the training done to the share of the amount.
    - `updates`: how often in the training the masks are chosen anew.

    **Raises:** `UsageError`, `PodarError`: as `podar.sparsify`, before anything is changed.

    ```python
    podar.finetune(model, data, after_step=podar.sparse.gradual(model, 0.9).after_step)
    ```
    """
    parsed, kind, course = parse_pattern(pattern), parse_scope(scope), parse_schedule(schedule)
    final = check_amount(amount, parsed)
    weights = _trainable(model, protect, parsed)

    def update(masks: dict[str, Tensor], share: float) -> dict[str, Tensor] | None:
        now = final * course(share)
        present, wanted = parsed, now
        if isinstance(parsed, NofM):
            present = NofM(math.ceil(parsed.of * (1 - now) - 1e-9), parsed.of)
            if present.kept == parsed.of:
                return None
        elif round(wanted * sum(m.numel() for m in masks.values())) <= sum(int((~m).sum()) for m in masks.values()):
            return None
        return choose_masks(model, weights, wanted, present, kind, importance, data, loss)

    return Keeper(model, weights, update, updates)


def rigl(
    model: nn.Module,
    amount: float,
    *,
    scope: str = "erk",
    importance: str | Scorer = "magnitude",
    data: Any = None,
    loss: Any = None,
    drop: float = 0.3,
    end: float = 0.75,
    protect: str | Iterable[str] = (),
    updates: int = 50,
) -> Keeper:
    """Train sparse from the first step on, and rewire: drop the least weights, grow where gradients are largest.

    The rigged lottery (Evci et al., ICML 2020): at each update a fraction `drop`, decayed by a cosine to 0 at `end`, of
    each layer's weights goes by magnitude, and as many come back, at zero, by the magnitude of their gradients.

    **Arguments:**

    - `amount`: fraction of the weights that is zero, always.
    - `scope`: how it spreads over layers: erk, er, uniform, local, global.
    - `importance`, `data`, `loss`: choose the first masks, as of `podar.sparsify`. Magnitude keeps what a trained
      network knows; "random" is the paper's start, for a network at its initialisation.
    - `drop`, `end`: see above.
    - `updates`: rewirings in a training, `REST` steps apart at least: what grows begins at zero, and is the first to
      drop again unless some steps have trained it.

    **Raises:** `UsageError`, `PodarError`: as `podar.sparsify`; or a `drop` outside 0 to 1.
    """
    if not 0 < drop < 1 or not 0 < end <= 1:
        raise UsageError(f"rigl needs 0 < drop < 1 and 0 < end ≤ 1, not drop={drop:g} and end={end:g}")
    amount = check_amount(amount, Unstructured())
    weights = _trainable(model, protect, Unstructured())

    def update(masks: dict[str, Tensor], share: float) -> dict[str, Tensor] | None:
        if share >= end:
            return None
        fraction = drop / 2 * (1 + math.cos(math.pi * share / end))
        return {w.name: _rewired(w, masks[w.name], fraction) for w in weights}

    keeper = Keeper(model, weights, update, updates, REST)
    keeper.masks = _agreed(
        choose_masks(model, weights, amount, Unstructured(), parse_scope(scope), importance, data, loss)
    )
    keeper._seen = 0
    keeper.apply()
    return keeper


def _rewired(weight: Weight, mask: Tensor, fraction: float) -> Tensor:
    """The mask after one drop and grow; of equal size."""
    gradient = weight.parameter.grad
    count = round(fraction * int(mask.sum()))
    count = min(count, int((~mask).sum()))
    if gradient is None or not count or not bool(torch.isfinite(gradient).all()):
        return mask
    held = weight.parameter.detach().abs().float().masked_fill(~mask, torch.inf).flatten()
    flat = mask.flatten().clone()
    flat[held.topk(count, largest=False).indices] = False
    wanted = gradient.detach().abs().float().flatten().masked_fill(flat, -torch.inf)
    flat[wanted.topk(count).indices] = True
    return flat.view(mask.shape)


def _trainable(model: nn.Module, protect: str | Iterable[str], pattern: Pattern) -> list[Weight]:
    """The weights to be kept sparse, checked; masks of torch's format are baked, their parameters stay the same."""
    weights = weights_of(model, protect)
    if not weights:
        raise PodarError(
            "nothing to sparsify: the model has no unprotected convolution, linear, embedding or recurrent weight"
        )
    check_weights(weights, pattern)
    return weights_of(bake(model), protect)


def _agreed(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Processes that train together take the masks of the first: random criteria draw differently in each."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for name, mask in masks.items():
            sent = mask.to(torch.uint8)
            torch.distributed.broadcast(sent, 0)
            masks[name] = sent.bool()
    return masks


@torch.no_grad()
def _forget(weights: list[Weight], grown: dict[str, Tensor], optimizer: torch.optim.Optimizer | None) -> None:
    """A weight that grows starts without the moments that its place gathered while it was masked."""
    if optimizer is None:
        return
    for weight in weights:
        new = grown.get(weight.name)
        for moment in optimizer.state.get(weight.parameter, {}).values():
            if new is not None and isinstance(moment, Tensor) and moment.shape == new.shape:
                moment.masked_fill_(new, 0.0)
