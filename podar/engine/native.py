"""Checks that the package podar-native is installed and fits this podar."""

from __future__ import annotations

import os
from types import ModuleType

from podar.errors import PodarError, require

FORMAT = 3


def check_native() -> ModuleType:
    """podar-native.

    **Raises:** `PodarError` where it is missing, reads other programs than this podar writes, or `PODAR_SIMD` forces a
    level that this processor does not run.
    """
    native = require("podar_native", extra="sparse")
    if getattr(native, "FORMAT", None) != FORMAT:
        raise PodarError(
            'the installed podar-native does not fit this podar: run pip install --upgrade "podar[sparse]".'
        )
    forced = os.environ.get("PODAR_SIMD")
    if forced and forced not in native.levels():
        raise PodarError(
            f"PODAR_SIMD is {forced}, and this processor runs {', '.join(native.levels())}: set one of these."
        )
    return native
