"""Exported programs (.pt2): torch.export's own file, which torch, ExecuTorch and AOTInductor read."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from podar.errors import PodarError, first_line
from podar.files import open_for_torch
from podar.formats.flat import Flat
from podar.formats.registry import Attempt, WritingOptions, Written, file_format


@file_format("pt2", suffix=".pt2", runtime="torch", help="torch.export's own: torch, ExecuTorch, AOTInductor")
def write_pt2(flat: Flat, path: Path, options: WritingOptions) -> list[Attempt]:
    """Ways to write an exported program: any batch size, then the example's alone."""
    sizes = [True, False] if options.dynamic_batch and any(flat.batched) else [False]
    return [lambda dynamic=dynamic: _write(flat, path, dynamic) for dynamic in sizes]


def _write(flat: Flat, path: Path, dynamic: bool) -> Written:
    inputs = flat.with_batch(flat.inputs, max(flat.batch, 2)) if dynamic else flat.inputs
    size = torch.export.Dim("batch")
    shapes = tuple({0: size} if grows else None for grows in flat.batched)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(flat.module, inputs, dynamic_shapes=(shapes,) if dynamic else None)
            with open_for_torch(path) as file:
                torch.export.save(program, file)
        except OSError:
            raise
        except Exception as error:
            raise PodarError(f"torch.export cannot follow the model: {first_line(error)}.") from error
    return Written("torch.export", dynamic)
