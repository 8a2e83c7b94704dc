"""What quantizing found: one row an encoding, and the file that was chosen; plain data for summaries and reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FLOAT = "fp32"
"""What the float model is called among the encodings."""


@dataclass(frozen=True)
class Row:
    """One encoding, measured.

    - `bytes`: of the file. `accuracy`, `agreement`, `error`: as of `podar.quantization.judging.Judged`.
    - `latency_ms`: the fastest turn of one run, measured in turn with all others, without what other programs took.
    - `p50_ms`: the median run by the clock, with what other programs took.
    - `ratio`: the float model's latency over it: above 1 it is faster.
    - `keeps`: whether it keeps the budget. `reason`: why it could not be built or run; then nothing else is known.
    - `left_out`: layers that stay float in it, beside those that do in every encoding.
    """

    encoding: str
    bytes: int | None = None
    accuracy: float | None = None
    agreement: float | None = None
    error: float | None = None
    latency_ms: float | None = None
    p50_ms: float | None = None
    ratio: float | None = None
    keeps: bool = False
    left_out: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Quantized:
    """The outcome.

    - `path`: the file to deploy. `encoding`: what it holds; `"fp32"` where the float model stays.
    - `table`: a row for the float model, one an encoding, and one for each that was repaired by leaving layers out.
    - `verdict`: the outcome in one sentence. `notes`: what else is to be known, one sentence each.
    - `budget`: what was to be kept, as it was judged. `runtime`: with its version. `threads`: it was timed on.
    - `held`: what stays float in every encoding: name → why.
    - `beside`: other files that were timed in the same turns: name → milliseconds.
    """

    path: Path
    encoding: str
    table: tuple[Row, ...]
    verdict: str
    budget: str
    runtime: str
    threads: int
    notes: tuple[str, ...] = ()
    held: dict[str, str] | None = None
    beside: dict[str, float] | None = None

    @property
    def row(self) -> Row:
        """The row of what was chosen."""
        return next(row for row in reversed(self.table) if row.encoding == self.encoding)

    def to_json(self) -> dict[str, Any]:
        """As summary.json holds it, with plain JSON types."""
        found = {**asdict(self), "path": str(self.path), "held": self.held or {}, "beside": self.beside or {}}
        found["table"] = [{**row, "left_out": list(row["left_out"])} for row in found["table"]]
        return {**found, "notes": list(self.notes)}
