"""The headline numbers of a run, before and after: the rows of the report's cards and of the terminal's table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from podar.reports import numbers


@dataclass(frozen=True)
class Row:
    """One headline number. `field` is its place in summary.json (`latency_ms.p50`); `change` is ready to print.

    `verdict` is "better", "worse" or "same"; `kept` is after ÷ before, for a bar (None where it says nothing).
    """

    field: str
    label: str
    before: float
    after: float
    before_text: str
    after_text: str
    change: str
    verdict: str
    kept: float | None


# Field, label, how to print it, whether more is better. A fraction changes by points, the rest by a ratio.
_LATENCY = "latency_ms.p50"
_FIELDS: tuple[tuple[str, str, Callable[[float], str], bool], ...] = (
    ("accuracy", "Accuracy", numbers.percent, True),
    ("map50", "mAP 50", numbers.percent, True),
    ("map50_95", "mAP 50–95", numbers.percent, True),
    ("agreement", "Same answers as dense", numbers.percent, True),
    ("output_error", "Output error", numbers.percent, False),
    ("macs", "MACs", numbers.count, False),
    ("params", "Parameters", numbers.count, False),
    ("nonzero", "Nonzero weights", numbers.count, False),
    ("checkpoint_bytes", "Checkpoint", numbers.byte_size, False),
    ("bytes", "File size", numbers.byte_size, False),
    (_LATENCY, "Latency p50", numbers.milliseconds, False),
    ("latency_ms.p95", "Latency p95", numbers.milliseconds, False),
    ("memory_bytes", "Peak memory", numbers.byte_size, False),
    ("energy_joules", "Energy an input", lambda joules: f"{1000 * joules:.3g} mJ", False),
)


def rows(before: Mapping[str, Any], after: Mapping[str, Any], latency_ratio: float | None = None) -> list[Row]:
    """Every headline number that both halves have, in the order to show them.

    `latency_ratio` is that of runs in turn, which a busy machine moves less than two medians: summary.json has it.

    ```python
    >>> rows({"macs": 40_000_000, "accuracy": 0.93}, {"macs": 20_000_000, "accuracy": 0.92})[1].change
    '0.50×'

    ```
    """
    found = []
    for path, label, text, more_is_better in _FIELDS:
        old, new = number(before, path), number(after, path)
        if old is None or new is None:
            continue
        kept = None if more_is_better else _kept(path, old, new, latency_ratio)
        fraction = more_is_better or path == "output_error"
        change = numbers.percentage_points(old, new) if fraction else numbers.ratio(kept)
        more = new > old if kept is None else kept > 1
        verdict = "same" if text(old) == text(new) else "better" if more == more_is_better else "worse"
        found.append(Row(path, label, old, new, text(old), text(new), change, verdict, kept))
    return found


def _kept(path: str, before: float, after: float, latency_ratio: float | None) -> float | None:
    if path == _LATENCY and latency_ratio:
        return latency_ratio
    return after / before if before else None


def number(half: Mapping[str, Any], path: str) -> float | None:
    """The number at a dotted place of one half of a summary, or None where it was not measured."""
    value: Any = half
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def sentence(before: Mapping[str, Any], after: Mapping[str, Any], latency_ratio: float | None = None) -> str:
    """The whole result in one sentence: "2.0 times fewer MACs, 1.6 times faster, 0.42 points of
    accuracy lost"."""
    parts = []
    kept, had = number(after, "nonzero"), number(before, "nonzero")
    if kept is not None and had:
        parts.append(f"{100 * kept / had:.3g} % of the weights left")
    for path, less, more in (("macs", "fewer MACs", "more MACs"), (_LATENCY, "faster", "slower")):
        old, new = number(before, path), number(after, path)
        kept = _kept(path, old, new, latency_ratio) if old and new else None
        if kept and (path != "macs" or old != new or not parts):
            times = max(kept, 1 / kept)
            if f"{times:.1f}" == "1.0":
                parts.append("as many MACs" if path == "macs" else "as fast")
            else:
                parts.append(f"{times:.1f} times {less if kept < 1 else more}")
    for path, name in (("accuracy", "accuracy"), ("map50_95", "mAP")):
        old, new = number(before, path), number(after, path)
        if old is not None and new is not None:
            change = 100 * abs(new - old)
            same = f"{change:.2f}" == "0.00"
            parts.append(
                f"the same {name}" if same else f"{change:.2f} points of {name} {'lost' if new < old else 'won'}"
            )
            break
    told = {path: number(after, path) for path in ("agreement", "output_error")}
    if told["agreement"] is not None:
        parts.append(f"the same answer as before on {numbers.percent(told['agreement'])} of the inputs")
    elif told["output_error"] is not None:
        parts.append(f"outputs {numbers.percent(told['output_error'])} off those of before")
    text = ", ".join(parts)
    return text[:1].upper() + text[1:] if text else "Pruned"
