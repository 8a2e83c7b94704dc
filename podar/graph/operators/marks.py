"""What a trace knows of each tensor: its labels, whether it is hollow, what makes it, which statistics are in it."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from podar.errors import PodarError
from podar.graph.labels import Ids
from podar.graph.record import Blocks, Makers

NOTHING: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Statistic:
    """What is known of a tensor that is made of statistics (podar/graph/operators/statistics.py).

    **Attributes:**

    - `over`: labels of the axes that they were taken over, with the reason for freezing each.
    - `divides`: it is one over a statistic: values are divided by being multiplied with it.
    - `negative`: it is minus a statistic: adding it subtracts.
    - `spread`: it was expanded along its axis again, and has labels there.
    - `scaled`: it was multiplied with a factor that has the axis (scale · mean), and is to be subtracted yet.
    """

    over: tuple[tuple[Ids, str], ...]
    divides: bool = False
    negative: bool = False
    spread: bool = False
    scaled: bool = False


class Mark:
    """What a trace knows of one tensor.

    **Attributes:**

    - `blocks`: its labels.
    - `zero`: whether it is exactly zero at an index that is removed.
    - `hollow`: it was never computed: its values mean nothing.
    - `storage`: the number of the memory that it looks at; −1 for what the run was given.
    - `makers`: parameters that make it, if multiplying them multiplies it.
    - `needs`: all parameters, and the inputs, that it depends on (as bits, see `Bits`).
    - `fresh`: a parameter or buffer that no rule has looked at yet.
    - `statistic`, `normal`, `summed`: what statistics follow (podar/graph/operators/statistics.py).
    - `trace`: which trace made the mark.
    """

    __slots__ = (
        *("blocks", "fresh", "hollow", "makers", "needs", "normal"),
        *("statistic", "storage", "summed", "trace", "zero"),
    )

    def __init__(
        self,
        zero: bool = False,
        hollow: bool = False,
        storage: int = -1,
        makers: Makers = (),
        needs: int = 0,
    ) -> None:
        self.blocks: Blocks = ()
        self.zero = zero
        self.hollow = hollow
        self.storage = storage
        self.makers = makers
        self.needs = needs
        self.statistic: Statistic | None = None
        self.normal: frozenset[int] = NOTHING  # by `id`: labels of the axes that it was divided by a statistic over
        self.summed: tuple[Ids, ...] = ()  # labels of the axes that it is the sum over, and nothing else
        self.fresh = False
        self.trace: object = None


class Marks:
    """The marks that one trace has given."""

    def __init__(self, is_original: Callable[[Tensor], bool], place: Callable[[], str]) -> None:
        """`is_original`: whether a tensor is the user's own, of which the run has another; `place` names a module."""
        self.named: dict[int, str] = {}  # by `id` of parameters and buffers, which the twin keeps
        self._is_original, self._place = is_original, place
        self._token = object()
        self._foreign: dict[int, tuple[Tensor, Mark]] = {}

    def of(self, tensor: Tensor) -> Mark:
        """What is known of a tensor; one that was never met gets a mark.

        **Raises:** `PodarError`: it belongs to the user's own model.
        """
        try:  # as `known`, which would be one more call for each tensor of each operator
            mark: Mark = tensor._podar_mark  # type: ignore[attr-defined]
            if mark.trace is self._token:
                return mark
        except AttributeError:
            pass
        known = self._foreign.get(id(tensor))
        if known is not None:
            return known[1]
        if self._is_original(tensor):
            raise PodarError(
                f"{self._place() or 'the forward, or the callable given as example_inputs,'} uses the model's weights "
                "by another way than through it (a global variable, say): use `self`, or the argument of the callable"
            )
        return self.attach(tensor, Mark(hollow=is_parameter(tensor)))

    def known(self, tensor: Tensor) -> Mark | None:
        """The mark that this trace gave a tensor (one kept in a cache may carry that of an earlier trace), if any."""
        mark = getattr(tensor, "_podar_mark", None)
        if mark is not None and mark.trace is self._token:
            return mark
        known = self._foreign.get(id(tensor))
        return None if known is None else known[1]

    def attach(self, tensor: Tensor, mark: Mark, own: bool = False) -> Mark:
        """Let a tensor have a mark. What the run or its twin has made (`own`) carries it and is left to die in peace: a
        list that kept results alive would also keep their memory from being used again, which doubles the time.
        """
        mark.trace = self._token
        if own:
            tensor._podar_mark = mark  # type: ignore[attr-defined]
        else:
            self._foreign[id(tensor)] = (tensor, mark)
        return mark

    def clear(self) -> None:
        """Let go of every tensor."""
        self._foreign.clear()
        self.named = {}


class Bits:
    """Sets of parameters as bits of an int: which ones a value depends on, directly or not."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}

    def add(self, name: str) -> int:
        """The set of one name."""
        return self.of.setdefault(name, 1 << len(self.of))

    def meet(self, names: Makers, needs: int) -> bool:
        """Whether a value that depends on `needs` depends on any of the names."""
        return any(self.of[name] & needs for name in names)


def is_parameter(tensor: Tensor) -> bool:
    """`isinstance` asks a metaclass, which takes longer than all the rest of a small operator."""
    kind = type(tensor)
    return kind is nn.Parameter or (kind is not Tensor and isinstance(tensor, nn.Parameter))


def storage(tensor: Tensor) -> int:
    """What two tensors share when one is a view of the other, memory allocated or not."""
    if tensor.layout is not torch.strided:  # a sparse one shares nothing
        return -id(tensor)
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


MASKS = (torch.bool, torch.uint8)


def is_mask(given: Any) -> bool:
    """Whether an index is a mask, of which as many elements are taken as it has marks."""
    return isinstance(given, Tensor) and given.dtype in MASKS


PLAIN = frozenset((int, float, bool, type(None), str))
"""Types of most arguments that are no tensors."""


def tensors_in(items: Iterable[Any]) -> list[Tensor]:
    """The tensors among arguments or results, in nested lists too."""
    found: list[Tensor] = []
    for item in items:
        kind = type(item)
        if kind in PLAIN:
            continue
        if kind is Tensor or kind is nn.Parameter or isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, (list, tuple)) and item and type(item[0]) is not int:  # sizes are all ints
            found += tensors_in(item)
    return found
