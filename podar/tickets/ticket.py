"""Tickets: what a search found, its curve, and the winning subnetwork as a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from podar.errors import PodarError
from podar.sparse import mask_weights
from podar.tickets.controls import built
from podar.tickets.curve import CurvePoint, TicketPoint, curve, smallest_density
from podar.tickets.store import Store


@dataclass(frozen=True)
class Tickets:
    """The result of `podar.find_ticket`.

    **Attributes:**

    - `points`: every training, as it ended.
    - `arms`: "ticket" and the controls that ran.
    - `seeds`: of the search.
    - `notes`: what the reader should know, one sentence each.

    ```python
    tickets = podar.find_ticket(build, data, rounds=10, seeds=3, controls=("reinit", "random"))
    print(tickets)
    model = tickets.model
    ```
    """

    points: tuple[TicketPoint, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    rounds: int
    notes: tuple[str, ...]
    _build: Callable[[], nn.Module]
    _store: Store

    def curve(self, arm: str = "ticket") -> list[CurvePoint]:
        """Mean accuracy and its standard error against density, densest first."""
        return curve(self.points, arm)

    def smallest(self, arm: str = "ticket") -> float | None:
        """The least density within one standard error of dense (or above it); 1.0 where none is."""
        return smallest_density(self.points, arm)

    @property
    def best_round(self) -> int:
        """The round of `smallest`; where no sparse one qualifies, the most accurate sparse one."""
        least, sparse = self.smallest(), [p for p in self.curve() if p.round]
        best = max(sparse, key=lambda p: p.accuracy).round
        return next((p.round for p in sparse if p.density == least), best)

    def ticket(self, round: int | None = None, seed: int | None = None, trained: bool = False) -> nn.Module:
        """A subnetwork under masks of torch's format, its weights rewound, or as that round trained them.

        **Arguments:**

        - `round`: None: the sparsest within one standard error of dense.
        - `seed`: None: the first.

        **Raises:** `PodarError`: no such round or seed.
        """
        number = self.best_round if round is None else round
        seed = self.seeds[0] if seed is None else seed
        if seed not in self.seeds or not 0 <= number <= self.rounds:
            raise PodarError(
                f"the search has no round {number} of seed {seed}: it has rounds 0 to {self.rounds} of seeds "
                f"{', '.join(map(str, self.seeds))}"
            )
        model = built(self._build, seed)
        name = f"seed{seed}-trained{number:02d}" if trained else f"seed{seed}-start"
        load(model, self._store, name)
        if number:
            mask_weights(model, self._store.get(f"seed{seed}-mask{number:02d}"))
        return model

    @property
    def model(self) -> nn.Module:
        """The winning ticket, its weights rewound: train it with `podar.finetune(model, data)`."""
        return self.ticket()

    def to_json(self) -> dict[str, Any]:
        """Plain data for summary.json."""
        return {
            "arms": list(self.arms),
            "seeds": list(self.seeds),
            "smallest": {arm: self.smallest(arm) for arm in self.arms},
            "curves": {arm: [p.to_json() for p in self.curve(arm)] for arm in self.arms},
            "points": [p.to_json() for p in self.points],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        rows = []
        for arm in self.arms:
            for p in self.curve(arm):
                name = "dense" if p.round == 0 else arm
                rows.append(
                    f"{name:<9} {100 * p.density:6.2f} % of the weights  {100 * p.accuracy:.2f} ± {100 * p.error:.2f} %"
                )
        return "\n".join(dict.fromkeys(rows))


def load(model: nn.Module, store: Store, name: str) -> None:
    """Put a kept state into a model."""
    state = store.get(name)
    with torch.no_grad():
        for key, tensor in model.state_dict(keep_vars=True).items():
            tensor.copy_(state[key])
