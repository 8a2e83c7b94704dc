"""The register of metrics: each is one function that prices what is left of a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from podar.errors import UsageError, nearest

if TYPE_CHECKING:
    from torch import nn

    from podar.graph.cost import Shares
    from podar.graph.graph import Graph
    from podar.model.inputs import ExampleInputs
    from podar.pruning.options import Options

Price = Callable[["Graph", "Shares", Any], float]
"""`price(graph, left, tables)`: what `left` of the traced model costs. It falls, or stays, as less is left. `tables`:
measured times, for metrics that need them; None otherwise."""

Prepare = Callable[["nn.Module", "ExampleInputs", "Graph", "Options"], Any]
"""`prepare(model, example_inputs, graph, options)`: the tables for a model, made once before anything is priced."""

_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


class Measuring(Protocol):
    """Tables of a metric whose prices predict what can be measured: a plan is then measured before it is taken.

    `widths`: the multiple of channels at which the price is lowest, for `multiple_of="auto"`.
    """

    @property
    def widths(self) -> int: ...

    def predicted(self, graph: Graph, left: Shares) -> float:
        """The predicted cost of what is left of a graph, as exactly as it can be told for one plan."""
        ...

    def measured(self, candidate: nn.Module) -> float | None:
        """The measured cost of a smaller model; None where it cannot be measured here."""
        ...

    def found(self, predicted: float, measured: float | None) -> Any:
        """What the result of a cut shows of prediction and measurement."""
        ...


@dataclass(frozen=True)
class Metric:
    """One thing that a target can be given in.

    **Attributes:**

    - `name`, `price`: "macs" of `target="macs=0.5"`, and the function that prices it.
    - `unit`: of amounts. Counts (no unit) and bytes ("B") take k, M, G and T before it: 2M, 300kB. Others are written
      as they are: 8ms.
    - `example`: a target that the command's help shows.
    - `counts`: it counts the units that stay, of every group where the scope is local. Such targets are fractions, and
      no width is rounded to what runtimes like.
    - `prepare`: makes the `tables` of a model, for prices that are measured (`Prepare`); they may be `Measuring`.
    """

    name: str
    price: Price
    unit: str = ""
    example: str = ""
    counts: bool = False
    prepare: Prepare | None = None

    def told(self, amount: float) -> str:
        """An amount in its unit: "1,820,000", "7.94 ms"."""
        return f"{amount:,.0f}" if self.unit in ("", "B") else f"{amount:.3g} {self.unit}"

    def amount(self, text: str) -> tuple[float, bool]:
        """Read what stands behind "macs=": the number, and whether it is an amount rather than a fraction of dense.

        **Raises:** `UsageError`: no number, not above 0, or a fraction that is not below 1.
        """
        prefixes = "[kKmMgGtT]?" if self.unit in ("", "B") else ""
        unit = f"(?i:{re.escape(self.unit)})?" if self.unit else ""
        match = re.fullmatch(rf"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*({prefixes})({unit})", text)
        if match is None:
            amount = "" if self.counts else f" or an amount ({'2M' if prefixes else '8' + self.unit})"
            raise UsageError(
                f"target {self.name}={text!r} is not a number; give a fraction between 0 and 1 (0.5){amount}"
            )
        value, absolute = float(match[1]) * _PREFIXES[match[2].lower()], bool(match[2] or match[3])
        if absolute and self.counts:
            raise UsageError(f"target {self.name}={text!r}: {self.name} are given as a fraction between 0 and 1")
        if absolute and value <= 0:
            raise UsageError(f"target {self.name}={text!r} must be above 0")
        if not absolute and value == 1:
            raise UsageError(f"target {self.name}=1 keeps everything: there is nothing to do")
        if not absolute and not 0 < value < 1:
            unit = "2M" if prefixes else f"8{self.unit}"
            raise UsageError(
                f"target {self.name}={text} must be between 0 and 1 (the fraction kept), or have a unit such as {unit}"
            )
        return value, absolute

    def __str__(self) -> str:
        return self.name


_metrics: dict[str, Metric] = {}
METRICS: Mapping[str, Metric] = _metrics
"""Every metric by its name."""


def metric(
    name: str, *, unit: str = "", example: str = "", counts: bool = False, prepare: Prepare | None = None
) -> Callable[[Price], Price]:
    """Register a function `price(graph, left, tables)` as a metric; `Metric` says what the arguments mean.

    ```python
    @metric("widest", example="widest=0.5")
    def widest(graph, left, tables):
        return max(graph.costs.macs_by_module(left.families).values())
    ```
    """

    def register(price: Price) -> Price:
        _metrics[name] = Metric(name, price, unit, example or f"{name}=0.5", counts, prepare)
        return price

    return register


def unregister(name: str) -> None:
    """Take a metric out of the register again."""
    del _metrics[name]


def named(name: str) -> Metric:
    """The metric of that name.

    **Raises:** `UsageError`: there is none; the message gives the nearest.
    """
    if name not in METRICS:
        close = nearest(name, METRICS)
        raise UsageError(
            f"no target is named {name!r}; " + (f"did you mean {close!r}?" if close else f"known: {', '.join(METRICS)}")
        )
    return METRICS[name]


def examples() -> str:
    """An example of every metric, for help: "macs=0.5, channels=0.5, params=2M"."""
    return ", ".join(own.example for own in METRICS.values())
