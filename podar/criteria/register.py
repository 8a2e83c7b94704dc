"""The scorer contract and the names under which criteria are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from podar.errors import QUOTED, PodarError, UsageError, did_you_mean
from podar.model.wrappers import unwrapped

Scores = Mapping[str, Tensor]
_Function = TypeVar("_Function", bound=Callable[..., Any])
Scorer = Callable[[nn.Module, Any, Any], Scores]
"""`score(model, data, loss) → {parameter name: elementwise tensor}`: each tensor has its parameter's shape. What a unit
is worth is the sum over every slice that it owns; parameters that are left out count nothing."""

UnitScorer = Callable[[Any, nn.Module, Any, Any], NDArray[np.float64]]
"""`score_units(graph, model, data, loss) → array`: what each unit of a traced model is worth, for criteria that need
the sum over a unit before they square it."""


@dataclass(frozen=True)
class Criterion:
    """One way to judge what a part of a model is worth.

    **Attributes:**

    - `score`: a `Scorer` where `scores` is "elements", a `UnitScorer` where it is "units".
    - `needs`: which of "data" and "loss" it cannot do without; one that takes a loss and is given none uses cross
      entropy, and so does not need it.
    """

    name: str
    score: Callable[..., Any]
    scores: Literal["elements", "units"] = "elements"
    needs: tuple[str, ...] = ()

    def check(self, data: Any, loss: Any) -> None:
        """**Raises:** `PodarError`: it needs data or a loss, and there is none."""
        given = {"data": data, "loss": loss}
        for missing in (need for need in self.needs if given[need] is None):
            raise PodarError(f"importance {self.name!r} needs {_NEEDED[missing]}")


_NEEDED = {
    "data": "data, and got none: pass data=, a tensor of inputs or an iterable of batches; "
    "podar.data.load(...) makes them",
    "loss": "loss=, a function of (outputs, targets)",
}

_criteria: dict[str, Criterion] = {}
CRITERIA: Mapping[str, Criterion] = _criteria
"""Every criterion by its name."""


def criterion(
    name: str, *, scores: Literal["elements", "units"] = "elements", needs: tuple[str, ...] = ()
) -> Callable[[_Function], _Function]:
    """Register a criterion, for `importance="name"` and the command line; `Criterion` says what the arguments mean.

    ```python
    @criterion("my-l3")
    def l3(model, data, loss):
        return {n: p.detach().abs() ** 3 for n, p in model.named_parameters()}
    ```
    """

    def register(function: _Function) -> _Function:
        _criteria[name] = Criterion(name, function, scores, needs)
        return function

    return register


def unregister(name: str) -> None:
    """Take a criterion out of the register again."""
    del _criteria[name]


def named(importance: str | Scorer | Criterion) -> Criterion:
    """The criterion of that name; a callable is one that scores elements.

    **Raises:** `UsageError`: no criterion has that name; the message gives the nearest.
    """
    if isinstance(importance, Criterion):
        return importance
    if not isinstance(importance, str):
        return Criterion(getattr(importance, "__name__", "a callable"), importance)
    if importance not in CRITERIA:
        hint = did_you_mean(importance, sorted(CRITERIA), QUOTED, list_all=True)
        raise UsageError(f"no importance criterion is named {importance!r}{hint}")
    return CRITERIA[importance]


class PerParameter(Mapping[str, Tensor]):
    """Scores that each element gives by itself: `compute(values)`, on a whole parameter or a part of one."""

    def __init__(self, params: Mapping[str, Tensor], compute: Callable[[Tensor], Tensor]) -> None:
        self.params, self.compute = params, compute

    def __getitem__(self, name: str) -> Tensor:
        return self.compute(self.params[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.params)

    def __contains__(self, name: object) -> bool:
        return name in self.params

    def __len__(self) -> int:
        return len(self.params)


def score(importance: str | Scorer | Criterion, model: nn.Module, data: Any = None, loss: Any = None) -> Scores:
    """Elementwise importance of every parameter that the criterion scores.

    **Arguments:**

    - `importance`: a name in `CRITERIA`, one of them, or a callable of the scorer contract.
    - `model`: the model; left as it was. Wrappers around it are left away, so names are those of the model inside.
    - `data`: batches for criteria that need them: an iterable of (inputs, targets).
    - `loss`: `loss(outputs, targets)`; cross entropy when None.

    **Raises:**

    - `UsageError`: no criterion has that name.
    - `PodarError`: a score has the wrong shape or is not finite, or the criterion needs data and got none.
    """
    chosen = named(importance)
    if chosen.scores == "units":
        raise UsageError(f"importance {chosen.name!r} scores whole units, not single weights: take another for these")
    chosen.check(data, loss)
    model = unwrapped(model)
    scores: Scores = chosen.score(model, data, loss)
    if isinstance(scores, PerParameter):
        return scores
    shapes = {n: p.shape for n, p in model.named_parameters(remove_duplicate=False)}
    for name, values in scores.items():
        if name not in shapes:
            raise PodarError(f"the importance scores name a parameter {name!r} that the model does not have")
        if values.shape != shapes[name]:
            raise PodarError(
                f"the importance of {name} has shape {tuple(values.shape)}, its parameter {tuple(shapes[name])}; "
                "a scorer returns one value an element"
            )
    return scores


def generator_for(tensor: Tensor, seed: int) -> torch.Generator:
    """A seeded random generator on the tensor's device."""
    return torch.Generator(device=tensor.device).manual_seed(seed)
