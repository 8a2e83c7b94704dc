"""Targets: what must remain, of which metric, exactly or at most."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from podar.errors import UsageError
from podar.pruning.metrics import METRICS, Metric
from podar.pruning.metrics.register import named

if TYPE_CHECKING:
    from podar.graph.cost import Shares
    from podar.graph.graph import Graph


@dataclass(frozen=True)
class Target:
    """What must remain: `value` is a fraction of dense, or absolute (parameters, MACs, bytes).

    **Attributes:**

    - `kind`: the name of a metric.
    - `absolute`: `value` is an amount in the metric's unit.
    - `dense`: what the model cost as it was passed in, where the graph at hand is of another one; else None.
    - `most`: what remains may be less ("macs<=0.5"), but never more.
    - `tables`: what the metric has prepared for the model.
    """

    kind: str
    value: float
    absolute: bool = False
    dense: float | None = None
    most: bool = False
    tables: Any = field(default=None, compare=False, repr=False)

    @property
    def metric(self) -> Metric:
        """The metric that the target is given in."""
        return METRICS[self.kind]

    def price(self, graph: Graph, left: Shares) -> float:
        """The price of what is left of a graph."""
        return self.metric.price(graph, left, self.tables)

    def __str__(self) -> str:
        unit = self.metric.unit if self.absolute and self.metric.unit != "B" else ""
        return f"{self.kind}{'<=' if self.most else '='}{self.value:g}{unit}"


def parse_targets(target: str | Mapping[str, float | str]) -> tuple[Target, ...]:
    """Read "macs=0.5", {"macs": 0.5}, "channels=0.5", "params=2M", "memory=300MB", "latency=8ms", and
    several: "macs<=0.5, params<=0.4", "macs=0.5, params<=0.6".

    A number between 0 and 1 is the fraction kept; with a unit (k, M, G, B) it is absolute.

    **Raises:** `UsageError`: not of that form, a fraction that is not between 0 and 1, a target of 1, which asks for
    nothing, or several of which two are of one metric or one counts units.
    """
    if isinstance(target, Mapping):
        if not target:
            raise UsageError("the target is empty: say what must remain, such as {'macs': 0.5}")
        read = [_target(str(kind), "=", str(amount)) for kind, amount in target.items()]
    else:
        parts = [re.fullmatch(r"([^=<]*)(=|<=)(.*)", part, re.DOTALL) for part in str(target).split(",")]
        if None in parts:
            raise UsageError(
                f"target {target!r} is not of the form macs=0.5; say what must remain of {', '.join(METRICS)}"
            )
        read = [_target(match[1], match[2], match[3]) for match in parts if match is not None]
    for place, wrong in enumerate(read if len(read) > 1 else ()):
        if wrong.metric.counts:
            raise UsageError(f"target {wrong} stands alone: {wrong.kind} are counted exactly, beside no other target")
        twice = next((other for other in read[:place] if other.kind == wrong.kind), None)
        if twice is not None:
            raise UsageError(f"targets {twice} and {wrong} are both of {wrong.kind}: give one of them")
    return tuple(read)


def parse_target(target: str | Mapping[str, float | str]) -> Target:
    """Read one target; see `parse_targets`.

    **Raises:** `UsageError`: it makes no sense, or there are several.
    """
    first, *others = parse_targets(target)
    if others:
        raise UsageError(f"one target at a time here, such as {first}; got {1 + len(others)}")
    return first


def _target(kind: str, sign: str, amount: str) -> Target:
    metric, most = named(kind.strip()), sign == "<="
    if most and metric.counts:
        raise UsageError(f"target {metric}<={amount.strip()}: {metric} are counted exactly, so write {metric}=0.5")
    value, absolute = metric.amount(amount.strip())
    return Target(metric.name, value, absolute, most=most)
