"""Targets: what must remain, of which metric, exactly or at most."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from podar.errors import UsageError
from podar.pruning.metrics import METRICS, Metric
from podar.pruning.metrics.register import named


@dataclass(frozen=True)
class Target:
    """What must remain: `value` is a fraction of dense, or absolute (parameters, MACs, bytes).

    **Attributes:**

    - `kind`: the name of a metric.
    - `absolute`: `value` is an amount in the metric's unit.
    - `dense`: what the whole model costs, where the one that is cut is only a part of it.
    - `most`: what remains may be less ("macs<=0.5"), but never more.
    """

    kind: str
    value: float
    absolute: bool = False
    dense: float | None = None
    most: bool = False

    @property
    def metric(self) -> Metric:
        """What prices it."""
        return METRICS[self.kind]

    def __str__(self) -> str:
        return f"{self.kind}{'<=' if self.most else '='}{self.value:g}"


def parse_targets(target: str | Mapping[str, float | str]) -> tuple[Target, ...]:
    """Read "macs=0.5", {"macs": 0.5}, "channels=0.5", "params=2M", "memory=300MB", "macs<=0.5, params<=0.4".

    A number between 0 and 1 is the fraction kept; with a unit (k, M, G, B) it is absolute.

    **Raises:** `UsageError`: not of that form, a fraction that is not between 0 and 1, a target of 1, which asks for
    nothing, or several that cannot be met at once.
    """
    if isinstance(target, Mapping):
        if len(target) != 1:
            raise UsageError(f"one target at a time, such as {{'macs': 0.5}}; got {len(target)}")
        kind, amount = next(iter(target.items()))
        return (_target(kind, "=", str(amount)),)
    parts = [re.fullmatch(r"([^=<]*)(=|<=)(.*)", part, re.DOTALL) for part in str(target).split(",")]
    read: list[Target] = []
    for match in parts:
        if match is None:
            raise UsageError(
                f"target {target!r} is not of the form macs=0.5; say what must remain of {', '.join(METRICS)}"
            )
        read.append(_target(match[1], match[2], match[3]))
    for wrong in read if len(read) > 1 else ():
        if wrong.metric.counts or not wrong.most:
            raise UsageError(
                f"target {wrong}: one target at a time is met exactly; several are given as upper bounds of costs, "
                "such as 'macs<=0.5, params<=0.4'"
            )
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
