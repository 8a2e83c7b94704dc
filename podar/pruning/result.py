"""What `podar.prune` did: costs before and after, what went, and how near the targets are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from podar.compensation import Compensation
from podar.errors import PodarError
from podar.graph import Graph
from podar.graph.cost import Cost, Shares
from podar.plans.plan import Plan
from podar.plans.surgery import removed_mask
from podar.pruning.moves import Allocation
from podar.pruning.target import Target


@dataclass(frozen=True, repr=False)
class Result:
    """What `podar.prune` did: print it for a table. Costs and removed indices are worked out when first asked for.

    **Attributes:**

    - `model`: the pruned model: the object that was passed in, wrappers and all.
    - `plan`: what was removed.
    - `graph`: the trace of the model as it was passed in.
    - `allocation`: what is left of each family of units.
    - `blocks`: names of the residual blocks that went as a whole (`depth=True`).
    - `rest`: the trace without those blocks, which the allocation is for; None where none went.
    - `targets`: what was asked for.
    - `prefix`: what wrappers put before the names of the model inside, as "module."; plan and graph have bare names.
    - `compensation`: what was solved anew, what was left and why; None where compensation was not asked for.
    - `measured`: by metric, what was predicted and measured, for targets that are measured.
    """

    model: nn.Module
    plan: Plan
    graph: Graph
    allocation: Allocation
    blocks: tuple[str, ...] = ()
    rest: Graph | None = None
    targets: tuple[Target, ...] = ()
    prefix: str = ""
    compensation: Compensation | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def latency(self) -> Any:
        """What was predicted and measured for a target of latency (`podar.latency.Found`), or None."""
        return self.measured.get("latency")

    @cached_property
    def before(self) -> Cost:
        """Cost of the model as it was passed in."""
        return self.graph.cost()

    @cached_property
    def after(self) -> Cost:
        """Cost of the pruned model."""
        return (self.rest or self.graph).costs.cost(self.allocation.share)

    def reached(self, target: Target) -> tuple[float, float]:
        """What the model cost before the cut, and what it costs now, by the metric of a target."""
        before = target.price(self.graph, Shares(np.ones(len(self.graph.families))))
        known = self.measured.get(target.kind)
        if known is not None:
            return known.dense, known.reached
        return before, target.price(self.rest or self.graph, Shares(self.allocation.share))

    def missed(self, visibly: float = 0.05) -> list[str]:
        """A sentence for each target that was missed by more than this share of it."""
        found = []
        for target in self.targets:
            before, after = self.reached(target)
            goal = target.value if target.absolute else target.value * before
            off = after / goal - 1
            if not target.metric.counts and (off if target.most else abs(off)) > visibly:
                found.append(
                    f"target {target}: the nearest that this model's widths allow is {after / before:.3f} of dense "
                    f"({target.metric.told(after)})"
                )
        return found

    @cached_property
    def removed(self) -> dict[str, dict[int, Tensor]]:
        """For each tensor (under every tied name) and dimension the indices that went, as the model was passed in.

        Where groups of a convolution lose different inputs, `removed_mask` has the full story.
        """
        found = {
            name: {cut.dim: torch.tensor(cut.array) for cut in cuts if cut.groups == 1}
            for name, cuts in self.plan.cuts.items()
        } | {name: {0: torch.arange(shape[0] if shape else 1)} for name, shape in self.plan.dropped().items()}
        return {self.prefix + name: gone for name, gone in found.items()}

    def removed_mask(self, name: str) -> Tensor:
        """BoolTensor of the dense shape of a parameter or buffer: True where an element was removed.

        **Raises:** `PodarError`: the model as passed in had no tensor of that name.
        """
        name = name.removeprefix(self.prefix)
        if name not in self.graph.shapes:
            raise PodarError(f"the model has no parameter or buffer named {name!r}")
        if name in self.plan.dropped():
            return torch.ones(self.graph.shapes[name], dtype=torch.bool)
        return removed_mask(self.graph.shapes[name], self.plan.cuts.get(name, ()))

    def __str__(self) -> str:
        """Costs before and after, and what was cut, as a table."""
        before, after = self.before.to_json(), self.after.to_json()
        rows = [("", "before", "after", "kept")]
        rows += [(name, f"{was:,}", f"{now:,}", _share(now, was)) for name, was, now in _named(before, after)]
        widths = [max(len(row[k]) for row in rows) for k in range(4)]
        lines = [
            "  ".join([f"{row[0]:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:]))])
            for row in rows
        ]
        graph = self.rest or self.graph
        cut = sum(bool((self.allocation.share[list(g.families)] < 1).any()) for g in graph.groups)
        lines.append(f"{cut} of {len(graph.groups)} groups cut, {len(graph.frozen)} axes frozen")
        if self.blocks:
            lines.append(f"whole blocks that went: {', '.join(self.blocks)}")
        lines += [str(found) for found in self.measured.values()]
        if self.compensation is not None:
            lines.append(self.compensation.headline)
        return "\n".join(lines)

    def __repr__(self) -> str:
        before, after = self.before, self.after
        return (
            f"Result({type(self.model).__name__}: parameters {before.params:,} → {after.params:,}, "
            f"MACs {before.macs:,} → {after.macs:,})"
        )


def _named(before: Mapping[str, int], after: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Costs as users call them, before and after."""
    titles = {"params": "parameters", "macs": "MACs", "bytes": "bytes", "memory_bytes": "bytes of activations"}
    return [(title, before[key], after[key]) for key, title in titles.items()]


def _share(now: int, was: int) -> str:
    return f"{100 * now / was:.1f} %" if was else "–"
