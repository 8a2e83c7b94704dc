"""Random numbers of a run come from generators of its own: torch's global one, which other threads use, is not touched.

Each draw starts from a seed of its own, so that a smaller model draws the same values wherever shapes are unchanged.
"""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

DROPPED = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}
"""Functions that drop values at random, by their names in Python. They take x, p, and whether this is training."""

Way = Callable[..., Any]


class Chance:
    """Draws of one run."""

    def __init__(self) -> None:
        self.draws = 0
        self.generators: dict[Any, torch.Generator] = {}

    def way(self, func: Any) -> Way | None:
        """How a random operator is run; None for one that draws nothing."""
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return None
        names = [a.name for a in func._schema.arguments]
        if func._schema.name == "aten::native_dropout":
            return _nothing_dropped
        for name in ("dropout_p", "dropout"):
            if name in names:
                return _without(func, name, names.index(name))
        drawing = func if "generator" in names else _with_generator(func, names)
        return _alone(func) if drawing is None else self._seeded(drawing, names)

    def _seeded(self, func: Any, names: list[str]) -> Way:
        place = names.index("generator") if "generator" in names else None

        def drawn(*args: Any, **kwargs: Any) -> Any:
            given = kwargs.get("generator")
            if place is not None and place < len(args):
                given, args = args[place], args[:place]
            if given is None:
                given = self._generator(next((a.device for a in args if isinstance(a, Tensor)), kwargs.get("device")))
            return func(*args, **{**kwargs, "generator": given})

        return drawn

    def _generator(self, device: Any) -> torch.Generator:
        made = self.generators.get(device)
        if made is None:
            made = self.generators[device] = torch.Generator(device or "cpu")
        self.draws += 1
        return made.manual_seed(self.draws)


def is_dropping(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call of a function in `DROPPED` drops values at random: it does so in training.

    The trace drops no value: which values are dropped says nothing about what axes have in common.
    """
    return bool(kwargs.get("train", args[2] if len(args) > 2 else False))


def _nothing_dropped(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.clone(), torch.ones_like(x, dtype=torch.bool)


def _without(func: Any, name: str, place: int) -> Way:
    def run(*args: Any, **kwargs: Any) -> Any:
        if place < len(args):
            return func(*args[:place], 0.0, *args[place + 1 :], **kwargs)
        return func(*args, **({**kwargs, name: 0.0} if name in kwargs else kwargs))

    return run


def _with_generator(func: Any, names: list[str]) -> Any:
    """The form of the same operator that takes a generator."""
    packet = func.overloadpacket
    for overload in packet.overloads():
        other = getattr(packet, overload)
        given = [a.name for a in other._schema.arguments]
        if "generator" in given and [n for n in given if n != "generator"] == names and _alike(func, other):
            return other
    return None


def _alike(one: Any, other: Any) -> bool:
    """Whether their arguments are of the same types (`randint_like` takes its bound as a number or as a tensor)."""
    types = {a.name: str(a.type) for a in one._schema.arguments}
    return all(types.get(a.name, str(a.type)) == str(a.type) for a in other._schema.arguments)


def _alone(func: Any) -> Way:
    """Run an operator that takes no generator; torch's global one is put back to its state at once."""

    def run(*args: Any, **kwargs: Any) -> Any:
        state = torch.get_rng_state()
        try:
            return func(*args, **kwargs)
        finally:
            torch.set_rng_state(state)

    return run
