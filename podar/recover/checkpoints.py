"""The checkpoint of a training: everything that its next epoch depends on, in one file, written whole or not at all."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from podar.errors import PodarError, first_line
from podar.files import atomic_path, open_for_torch


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain data)."""
    with atomic_path(path) as unfinished, open_for_torch(unfinished) as file:
        torch.save(state, file)


def load(path: Path, signature: dict[str, Any]) -> dict[str, Any] | None:
    """What `save` wrote, or None where there is no file.

    **Raises:** `PodarError` where the file is damaged, or belongs to a training with another signature.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["signature"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise PodarError(
            f"the checkpoint {path} cannot be read ({first_line(error)}): remove it to start anew."
        ) from error
    differing = [key for key in signature if found.get(key) != signature[key]]
    if differing:
        key = differing[0]
        raise PodarError(
            f"the checkpoint {path} belongs to another training ({key} {found.get(key)} there, {signature[key]} here): "
            "remove it, or name another file."
        )
    return state
