"""The scorer contract and the names under which criteria are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from podar.errors import PodarError, UsageError, nearest
from podar.model.members import Members
from podar.model.wrappers import unwrapped

Scores = Mapping[str, Tensor]
Scorer = Callable[[nn.Module, Any, Any], Scores]
"""`score(model, data, loss) → {parameter name: elementwise tensor}`: each tensor has its parameter's shape. What a unit
is worth is the sum over every slice that it owns; parameters that are left out count nothing."""

CRITERIA: dict[str, Scorer] = {}


def criterion(name: str) -> Callable[[Scorer], Scorer]:
    """Register a criterion, for `importance="name"` and the command line.

    ```python
    @criterion("my-l3")
    def l3(model, data, loss):
        return {n: p.detach().abs() ** 3 for n, p in model.named_parameters()}
    ```
    """

    def register(function: Scorer) -> Scorer:
        CRITERIA[name] = function
        return function

    return register


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


def score(importance: str | Scorer, model: nn.Module, data: Any = None, loss: Any = None) -> Scores:
    """Elementwise importance of every parameter that the criterion scores.

    **Arguments:**

    - `importance`: a name in `CRITERIA` or a callable of the scorer contract.
    - `model`: the model; left as it was. Wrappers around it are left away, so names are those of the model inside.
    - `data`: batches for criteria that need them: an iterable of (inputs, targets).
    - `loss`: `loss(outputs, targets)`; cross entropy when None.

    **Raises:**

    - `UsageError`: no criterion has that name.
    - `PodarError`: a score has the wrong shape or is not finite, or the criterion needs data and got none.
    """
    if isinstance(importance, str):
        if importance not in CRITERIA:
            close = nearest(importance, CRITERIA)
            hint = f"did you mean {close!r}?" if close else f"known: {', '.join(sorted(CRITERIA))}"
            raise UsageError(f"no importance criterion is named {importance!r}; {hint}")
        scorer = CRITERIA[importance]
    else:
        scorer = importance
    model = unwrapped(model)
    scores = scorer(model, data, loss)
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


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """Floating-point parameters by name, detached, each once."""
    return {n: p.detach() for n, p in Members(model).parameters.items() if p.is_floating_point()}


def generator_for(tensor: Tensor, seed: int) -> torch.Generator:
    """A seeded random generator on the tensor's device."""
    return torch.Generator(device=tensor.device).manual_seed(seed)
