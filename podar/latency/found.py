"""The predicted and the measured latency of a cut model: plain data for results, summaries and reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Found:
    """Milliseconds of one run.

    **Attributes:**

    - `dense`: of the model before the cut.
    - `predicted`: of the smaller one, by the table of its layers.
    - `measured`: of the smaller one, timed in turn with the dense one; None where the table is of another device.
    - `runtime`: name and version; `threads`; `processor`: its name.
    """

    dense: float
    predicted: float
    measured: float | None
    runtime: str
    threads: int
    processor: str

    @property
    def reached(self) -> float:
        """The measured latency, or else the predicted one."""
        return self.predicted if self.measured is None else self.measured

    def __str__(self) -> str:
        seen = "not measured here" if self.measured is None else f"{self.measured:.3g} ms measured"
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        return (
            f"latency {self.dense:.3g} ms → {self.predicted:.3g} ms predicted, {seen} "
            f"({self.runtime}, {threads}, {self.processor})"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data, for a run's summary."""
        return asdict(self)
