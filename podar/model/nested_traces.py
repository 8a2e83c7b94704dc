"""A trace inside a forward that is being traced: the inner one works as if the outer one were not there."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

from torch.overrides import (
    _get_current_function_mode_stack,  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    _pop_mode,  # pyright: ignore[reportPrivateUsage]
    _push_mode,  # pyright: ignore[reportPrivateUsage]
)
from torch.utils._python_dispatch import _disable_current_modes  # pyright: ignore[reportPrivateUsage]


@contextlib.contextmanager
def outside_of_other_traces() -> Generator[None]:
    """Leave the modes of an outer trace, which belong to this thread alone, and go back to them at the end."""
    stack: list[Any] = _get_current_function_mode_stack()
    first = next((k for k, mode in enumerate(stack) if getattr(mode, "shows_calls_to_a_trace", False)), None)
    if first is None:
        yield
        return
    modes = [_pop_mode() for _ in stack[first:]]
    try:
        with _disable_current_modes():
            yield
    finally:
        for mode in reversed(modes):
            _push_mode(mode)
