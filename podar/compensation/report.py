"""What compensation did: for every linear map the error before and after, or why it was left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Consumer:
    """One linear map.

    **Attributes:**

    - `name`: its parameter.
    - `before`, `after`: squared error of its outputs on samples held back, as a share of the dense outputs' squared
      spread; None where it was not measured.
    - `left`: why it was left as it was; None where it was solved.
    - `few`: the inputs gave fewer rows than the map has inputs: the ridge decides the rest.
    """

    name: str
    before: float | None
    after: float | None
    left: str | None = None
    few: bool = False


@dataclass(frozen=True)
class Refinement:
    """What moving all maps together did.

    **Attributes:**

    - `before`, `after`: mean over all tensors on the way that could be compared of their squared error on samples held
      back, as a share of the dense ones' squared spread; None where it was not measured.
    - `steps`: how many were taken.
    - `left`: why the maps stayed as they were; None where they moved.
    """

    before: float | None = None
    after: float | None = None
    steps: int = 0
    left: str | None = None

    def __str__(self) -> str:
        if self.left is not None or self.before is None or self.after is None:
            return f"all maps together: left: {self.left}"
        return f"all maps together: {self.before:.4f} → {self.after:.4f} in {self.steps} steps"


@dataclass(frozen=True)
class Compensation:
    """Every linear map of the pruned model in the order in which the model reads them.

    **Attributes:**

    - `consumers`: the maps.
    - `unmeasured`: groups whose units were chosen by plain scores, and why, where units are chosen by reconstruction.
    - `failed`: why nothing was solved at all; None where something was.
    - `refined`: what moving all maps together did; None where nobody asked for it.
    """

    consumers: tuple[Consumer, ...]
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    failed: str | None = None
    refined: Refinement | None = None

    @property
    def solved(self) -> tuple[Consumer, ...]:
        """The maps that were solved anew."""
        return tuple(c for c in self.consumers if c.left is None)

    @property
    def left(self) -> tuple[Consumer, ...]:
        """The maps that were left as they were."""
        return tuple(c for c in self.consumers if c.left is not None)

    @property
    def headline(self) -> str:
        """How many maps were solved anew, in a few words."""
        return f"{len(self.solved)} of {len(self.consumers)} linear maps solved anew"

    @property
    def sentence(self) -> str:
        """What was done, for those who did not ask for it."""
        if self.failed is not None:
            return f"nothing was compensated: {self.failed}"
        plain = f"; {len(self.unmeasured)} groups were chosen by plain scores" if self.unmeasured else ""
        few = sum(c.few for c in self.consumers)
        scarce = f"; for {few} maps the inputs gave fewer rows than they have inputs: give more data" if few else ""
        together = f"; {self.refined}" if self.refined is not None and self.refined.left is None else ""
        return f"{self.headline}, from inputs without labels{together}{plain}{scarce}"

    def to_json(self) -> dict[str, Any]:
        """Plain data, for a run's summary."""
        return {
            "solved": [vars(consumer) for consumer in self.solved],
            "left": [vars(consumer) for consumer in self.left],
            "unmeasured": dict(self.unmeasured),
            "failed": self.failed,
            "refined": None if self.refined is None else vars(self.refined),
        }

    def __str__(self) -> str:
        width = max([len(c.name) for c in self.consumers], default=0)
        lines = [f"{self.headline} (error before → after)"]
        for c in self.consumers:
            numbers = "" if c.before is None or c.after is None else f"{c.before:8.4f} → {c.after:.4f}"
            notes = f"{'  left: ' + c.left if c.left else ''}{'  few inputs' if c.few else ''}"
            lines.append(f"  {c.name:<{width}}  {numbers}{notes}".rstrip())
        lines += [] if self.refined is None else [f"  {self.refined}"]
        lines += [f"  chosen by plain scores: {name}: {why}" for name, why in self.unmeasured.items()]
        lines += [] if self.failed is None else [f"  nothing was solved: {self.failed}"]
        return "\n".join(lines)
