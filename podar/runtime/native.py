"""The native package, there and new enough."""

from __future__ import annotations

from types import ModuleType

from podar.errors import PodarError, require

FORMAT = 2


def check_native() -> ModuleType:
    """podar-native.

    **Raises:** `PodarError` where it is missing, or reads other programs than this podar writes.
    """
    native = require("podar_native", extra="sparse")
    if getattr(native, "FORMAT", None) != FORMAT:
        raise PodarError(
            'the installed podar-native does not fit this podar: run pip install --upgrade "podar[sparse]".'
        )
    return native
