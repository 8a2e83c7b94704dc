"""History: what a training did, epoch by epoch; plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class History:
    """One training.

    - `epochs`: for each finished epoch `epoch` (from 1), `loss` (mean over its steps), `val_accuracy` (a fraction, on
      pictures that were carved out of the training data; absent where there are none, and where no classifier is
      trained), `lr` (at its end), `seconds`; then each metric under its name, and what `evaluate` said.
    - `precision`: what it was computed in: "fp32" or "bf16", with "channels_last" where that was faster.
    - `stopped`: why it ended before its last epoch, in one sentence; None where it did not.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    precision: str = "fp32"
    stopped: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {"epochs": self.epochs, "precision": self.precision, "stopped": self.stopped}
