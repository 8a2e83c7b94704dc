"""The patterns by which users name layers: shell patterns over the paths of modules and parameters."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable


def patterns(given: str | Iterable[str] | None) -> tuple[str, ...]:
    """Patterns as a tuple; a string is one pattern, not its letters.

    ```python
    >>> patterns("model.encoder")
    ('model.encoder',)

    ```
    """
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(given)


def means(pattern: str, *paths: str) -> bool:
    """Whether a pattern means something that bears these paths: one of them itself, or a module above it.

    ```python
    >>> means("layer1", "layer1.0.conv1.weight"), means("*conv2", "layer1.0.conv1.weight")
    (True, False)

    ```
    """
    return any(fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, pattern + ".*") for path in paths)
