"""The budget: what a model must keep when it is written in fewer bits, as text and as a rule."""

from __future__ import annotations

import re
from dataclasses import dataclass

from podar.errors import UsageError, did_you_mean
from podar.quantization.judging import Judged

_FORMS = "accuracy>=0.99, agreement>=0.99 or error<=0.1"
_KINDS = {"accuracy": ">=", "agreement": ">=", "error": "<="}


@dataclass(frozen=True)
class Budget:
    """What must be kept.

    - `kind`: "accuracy": the share of the float model's accuracy, with labels; "agreement": the share of samples with
      the float model's top answer; "error": the distance of the outputs over the size of the float ones, at most.
    """

    kind: str
    bound: float

    def __str__(self) -> str:
        return f"{self.kind}{_KINDS[self.kind]}{self.bound:g}"

    def measure(self, judged: Judged, floating: Judged) -> float | None:
        """What the budget bounds, of one encoding; None where it cannot be told."""
        if self.kind == "accuracy":
            both = (judged.accuracy, floating.accuracy)
            return None if both[0] is None or not both[1] else both[0] / both[1]
        return judged.agreement if self.kind == "agreement" else judged.error

    def kept(self, judged: Judged, floating: Judged) -> bool:
        """Whether an encoding keeps it."""
        found = self.measure(judged, floating)
        if found is None or judged.error is None:
            return False
        return found <= self.bound if self.kind == "error" else found >= self.bound


def parse_budget(text: str) -> Budget:
    """A budget from text.

    **Raises:** `UsageError` for one that makes no sense.

    ```python
    >>> parse_budget("accuracy>=0.99")
    Budget(kind='accuracy', bound=0.99)

    ```
    """
    if isinstance(text, Budget):
        return text
    found = re.fullmatch(r"\s*([A-Za-z_]+)\s*(<=|>=|<|>|==?)\s*([0-9.eE+-]+)\s*(%?)\s*", str(text))
    if found is None:
        raise UsageError(f"the budget {text!r} says nothing that can be checked: write {_FORMS}.")
    kind, sign, number, percent = found.groups()
    kind = kind.lower()
    if kind not in _KINDS:
        raise UsageError(f"there is no budget of {kind!r}{did_you_mean(kind, _KINDS, list_all=True)}")
    if sign != _KINDS[kind]:
        raise UsageError(f"the budget {text!r} is the wrong way round: write {kind}{_KINDS[kind]}{number}{percent}.")
    try:
        bound = float(number) / (100 if percent else 1)
    except ValueError as error:
        raise UsageError(f"the budget {text!r} holds no number: write {_FORMS}.") from error
    if kind == "error" and not 0 < bound <= 10:
        raise UsageError(f"the budget {text!r} allows no error that can be met: give a number above 0, such as 0.1.")
    if kind != "error" and not 0 < bound <= 1:
        raise UsageError(f"the budget {text!r} is no share: give a number above 0 and at most 1, such as 0.99.")
    return Budget(kind, bound)
