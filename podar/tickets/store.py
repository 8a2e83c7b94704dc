"""Where a ticket search keeps what it has: each finished training at once, so that a killed search goes on."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from podar.errors import PodarError, sizes
from podar.files import atomic_path, write_atomic
from podar.tickets.curve import TicketPoint
from podar.trust.plain import loads_json, read_json

STATE = "tickets.json"


class Store:
    """Points, weights and masks of a search: in a folder, or in memory where there is none."""

    def __init__(self, folder: str | os.PathLike[str] | None, signature: dict[str, Any]) -> None:
        """Open a folder, new or of an earlier search.

        **Raises:** `PodarError`: the folder holds another search, or its state is damaged.
        """
        self.folder = None if folder is None else Path(folder)
        self.signature = json.loads(json.dumps(signature))
        self.points: list[TicketPoint] = []
        self._memory: dict[str, dict[str, Tensor]] = {}
        if self.folder is None:
            return
        state = self.folder / STATE
        if state.exists():
            try:
                data = read_json(state, nan=True)
                found, self.points = data["search"], [TicketPoint(**p) for p in data["points"]]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise PodarError(f"{state} is damaged ({error}): remove {self.folder} and search again") from error
            for key, value in self.signature.items():
                # More seeds, rounds or controls may be asked of the same search later.
                if key not in ("seeds", "rounds", "controls") and found.get(key) != value:
                    raise PodarError(
                        f"{self.folder} holds another ticket search ({key} {found.get(key)} there, {value} here): name "
                        "another folder, or remove it"
                    )

    def add(self, point: TicketPoint) -> None:
        """Note a finished training."""
        self.points.append(point)
        if self.folder is not None:
            data = {"search": self.signature, "points": [p.to_json() for p in self.points]}
            write_atomic(self.folder / STATE, json.dumps(data, indent=1) + "\n")

    def done(self, seed: int, arm: str, number: int) -> bool:
        """Whether that training is finished."""
        return any((p.seed, p.arm, p.round) == (seed, arm, number) for p in self.points)

    def put(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Keep tensors; booleans take one bit each."""
        if self.folder is None:
            self._memory[name] = {k: t.detach().cpu().clone() for k, t in tensors.items()}
            return
        from safetensors.torch import save_file

        packed, shapes = {}, {}
        for key, tensor in tensors.items():
            tensor = tensor.detach().cpu()
            if tensor.dtype == torch.bool:
                shapes[key] = list(tensor.shape)
                tensor = torch.from_numpy(np.packbits(tensor.numpy().ravel()))
            packed[key] = tensor.contiguous().clone()
        with atomic_path(self.folder / f"{name}.safetensors") as temporary:
            save_file(packed, str(temporary), metadata={"format": "pt", "bits": json.dumps(shapes)})

    def get(self, name: str) -> dict[str, Tensor]:
        """Tensors that `put` kept.

        **Raises:** `PodarError`: they are missing or damaged.
        """
        if self.folder is None:
            return self._memory[name]
        from safetensors import SafetensorError, safe_open

        path = self.folder / f"{name}.safetensors"
        try:
            with safe_open(str(path), framework="pt") as file:
                shapes = loads_json((file.metadata() or {}).get("bits", "{}"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            for key, shape in shapes.items():
                tensors[key] = _unpacked(tensors[key], shape)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise PodarError(
                f"{path} is missing or damaged ({error}): remove {self.folder} and search again"
            ) from error
        return tensors

    def has(self, name: str) -> bool:
        """Whether `put` kept something under that name."""
        if self.folder is None:
            return name in self._memory
        return (self.folder / f"{name}.safetensors").is_file()

    def checkpoint(self, name: str) -> Path | None:
        """A file for a training under way; None in memory."""
        return None if self.folder is None else self.folder / f"{name}.checkpoint"


def _unpacked(packed: Tensor, shape: list[int]) -> Tensor:
    """A mask from eight of its values a byte."""
    count = math.prod(shape)
    if packed.dtype != torch.uint8 or packed.dim() != 1 or -(-count // 8) != len(packed):
        raise ValueError(f"a mask of {sizes(shape)} does not fit its {packed.numel()} bytes")
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=count).astype(bool)).view(shape)
