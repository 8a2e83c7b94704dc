"""Words and readers that the flags of several stages share."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from podar.errors import UsageError

PROTECT = "A layer that stays as it is; may be repeated."
WEIGHT_SCOPE = "Who competes: global, local, uniform, er, erk or sensitivity."
WEIGHT_IMPORTANCE = "What a weight's worth is judged by."
RATE = "Peak learning rate. Default: chosen for the model."


def importances() -> Iterable[str]:
    """The names of all criteria."""
    from podar.criteria import CRITERIA

    return CRITERIA


def runtimes() -> Iterable[str]:
    """The names of all runtimes."""
    import podar.measuring  # noqa: F401  # the sparse engine registers itself, too
    from podar.runtimes import RUNTIMES

    return RUNTIMES


def fractions(flag: str) -> Callable[[list[str]], dict[str, float]]:
    """A reader of `["layer1*=0.5"]`, which becomes `{"layer1*": 0.5}`.

    ```python
    >>> fractions("--ratios")(["layer1*=0.5"])
    {'layer1*': 0.5}

    ```
    """

    def read(pairs: list[str]) -> dict[str, float]:
        found: dict[str, float] = {}
        for pair in pairs:
            pattern, equals, kept = pair.rpartition("=")
            try:
                found[pattern] = float(kept)
            except ValueError:
                equals = ""
            if not equals or not pattern:
                raise UsageError(f"{flag} {pair}: write layer=fraction, for example layer1.0.conv1=0.5.")
        return found

    return read
