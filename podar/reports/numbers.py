"""Numbers as people read them: three or four digits and a unit. Shared words of the report and the terminal's table."""

from __future__ import annotations

_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(value: float) -> str:
    """272474 → "272 k"; 40813184 → "40.8 M"."""
    for step, unit in _STEPS:
        if abs(value) >= 0.9995 * step:
            return f"{_digits(value / step)} {unit}"
    return f"{value:,.0f}"


def byte_size(value: float) -> str:
    """Bytes in decimal units, as file managers show them: 1104512 → "1.10 MB"."""
    short = count(value)
    return f"{short}B" if short[-1].isalpha() else f"{short} B"


def milliseconds(value: float) -> str:
    """0.0421 → "0.042 ms"; 12.345 → "12.3 ms"; 2500 → "2.50 s"."""
    return f"{_digits(value / 1000)} s" if value >= 1000 else f"{_digits(value)} ms"


def duration(seconds: float) -> str:
    """75.2 → "1 min 15 s"."""
    if seconds < 60:
        return f"{_digits(seconds)} s" if seconds >= 0.1 else f"{_digits(seconds * 1000)} ms"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def percent(fraction: float) -> str:
    """0.9312 → "93.12 %"."""
    return f"{100 * fraction:.2f} %"


def ratio(kept: float | None) -> str:
    """After as a multiple of before: "0.50×", or a dash where before was 0."""
    return "–" if kept is None else f"{kept:.2f}×"


def percentage_points(before: float, after: float) -> str:
    """A change of a fraction in percentage points, with its sign: (0.93, 0.92) → "−1.00 pts"."""
    change = 100 * (after - before)
    sign = "−" if round(change, 2) < 0 else "+" if round(change, 2) > 0 else "±"
    return f"{sign}{abs(change):.2f} pts"


def _digits(value: float) -> str:
    size = abs(value)
    places = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.9995 else 3
    return f"{value:,.{places}f}"
