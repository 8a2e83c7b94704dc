"""Measured: what a model costs where it runs; plain data, with the shape that summary.json has."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from podar.errors import PodarError
from podar.measuring.processors import Processor


@dataclass(frozen=True)
class Measured:
    """What one model costs, measured.

    - `params`: trainable parameters of a torch model; of a file, the numbers stored as floating-point constants
      (batch norm folded into the convolutions before it makes the two differ a little). None where unknown.
    - `macs`: multiply-adds for the example inputs; None for a file, which does not tell.
    - `bytes`: the file on disk with the weights that travel beside it, or a torch model's parameters and buffers.
    - `latency_ms`: `{"p50": …, "p95": …, "runtime": "onnxruntime 1.32.0", "threads": 1}`.
    - `memory_bytes`: peak resident memory of a child process that loads and runs it, nothing subtracted.
    - `memory_baseline_bytes`: the part of it that the interpreter and the runtime take before any model is opened.
    - `energy_joules`: joules of the processor package per run, or None.
    - `missing`: {field: the reason in a sentence} for what is None.
    - `turns_ms`: the median of each turn; turns of models measured together correspond (see `latency_ratio`).
    - `interrupted`: share of the turns in which another program got the processor: what it took counts in `latency_ms`
      and not in `turns_ms`.
    """

    params: int | None
    macs: int | None
    bytes: int
    latency_ms: dict[str, Any]
    memory_bytes: int | None
    memory_baseline_bytes: int | None
    energy_joules: float | None
    processor: Processor
    missing: dict[str, str] = field(default_factory=dict)
    turns_ms: tuple[float, ...] = field(default=(), repr=False)
    interrupted: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The keys of `before` and `after` in summary.json, as far as measuring fills them; plain JSON types."""
        return {
            "params": self.params,
            "macs": self.macs,
            "bytes": self.bytes,
            "memory_bytes": self.memory_bytes,
            "memory_baseline_bytes": self.memory_baseline_bytes,
            "latency_ms": dict(self.latency_ms),
            "energy_joules": self.energy_joules,
            "processor": self.processor.to_json(),
            "missing": dict(self.missing),
        }


def latency_ratio(before: Measured, after: Measured) -> float:
    """How long `after` takes as a fraction of `before`: the median over their turns of the ratio of turn to turn.

    Where other programs share the processor this is steadier than the ratio of the two p50, since the turns that are
    divided lie milliseconds apart, and what those programs took of a run does not count.

    **Raises:** `PodarError` when the two were not measured together (`podar.measuring.compare`).
    """
    if not before.turns_ms or len(before.turns_ms) != len(after.turns_ms):
        raise PodarError(
            "these two were not measured in turn: use podar.measuring.compare({'before': …, 'after': …}, …)."
        )
    return statistics.median(b / a for a, b in zip(before.turns_ms, after.turns_ms))
