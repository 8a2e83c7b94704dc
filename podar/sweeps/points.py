"""Which points a curve of accuracy against cost has, each as the plain recipe of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podar.errors import UsageError
from podar.libraries import find_library
from podar.sweeps.summary import Kind


@dataclass(frozen=True)
class Point:
    """One run of the curve: its name, what kind of model it makes, its folder in the sweep's own, and its recipe."""

    name: str
    kind: Kind
    folder: str
    recipe: dict[str, Any]


def pareto_points(
    model: Mapping[str, Any],
    targets: Sequence[str],
    *,
    prune: Mapping[str, Any],
    finetune: Mapping[str, Any] | None,
    format: str,
    family: Sequence[str] = (),
    sizes: Sequence[int] = (),
) -> list[Point]:
    """The points of `podar pareto`, those that take no training first.

    **Arguments:**

    - `model`: what all recipes share: `model`, `data`, `weights`, `model_args`, `seed`, …
    - `targets`: as `parse` gives them. `prune`, `finetune`: the other options of these stages; None trains nothing.
    - `format`: in which every model is exported, so that it can be measured.
    - `family`: other models, MODEL or MODEL=FILE with a checkpoint. `sizes`: sides in pixels.

    **Raises:** `UsageError` for a name or a size that stands there twice.
    """
    export = {"export": {"formats": [format]}}
    found: list[tuple[str, Kind, dict[str, Any]]] = [("dense", "dense", {**model, "stages": [export]})]
    for member in family:
        found.append((member, "family", {**_member(model, member), "stages": [export]}))
    for size in sizes:
        found.append((f"{size} px", "size", {**model, "image_size": size, "stages": [export]}))
    for target in targets:
        cut = {"prune": {**prune, "target": target}}
        train = [] if finetune is None else [{"finetune": dict(finetune)}]
        found.append((target, "target", {**model, "stages": [cut, *train, export]}))
    names = [name for name, _, _ in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        option = {"family": "--family", "size": "--imgsz"}.get(next(k for n, k, _ in found if n == twice), "--targets")
        raise UsageError(f"{option} names {twice} twice: once is enough.")
    folders: list[str] = []
    for name, kind, _ in found:
        folders.append(_folder(f"family {Path(name.rstrip('/')).name}" if kind == "family" else name, folders))
    return [Point(name, kind, folder, recipe) for (name, kind, recipe), folder in zip(found, folders)]


def parse(texts: Sequence[str]) -> list[str]:
    """The targets of `--targets macs=0.8,0.6 --targets params=2M`, each in full.

    **Raises:** `UsageError` for what is no target, none at all, or one that stands there twice.

    ```python
    >>> parse(["macs=0.8,0.6"])
    ['macs=0.8', 'macs=0.6']

    ```
    """
    from podar.pruning.target import parse_target  # reads torch

    found: dict[Any, str] = {}
    for text in texts:
        beginning = ""
        for part in text.split(","):
            named = re.fullmatch(r"\s*([^=<]*<?=)\s*(.*)", part, re.DOTALL)
            if named is not None:
                beginning, part = named[1].replace(" ", ""), named[2]
            if not beginning or not part.strip():
                raise UsageError(f"--targets {text!r} names no target: write what must remain, as macs=0.8,0.6,0.4.")
            target = f"{beginning}{part.strip()}"
            read = parse_target(target)
            if read in found:
                raise UsageError(f"--targets names {target} twice: once is enough.")
            found[read] = target
    if not found:
        raise UsageError("--targets names no target: write what must remain, as macs=0.8,0.6,0.4.")
    return list(found.values())


def parse_sizes(texts: Sequence[str]) -> list[int]:
    """The sides of `--imgsz 24,16`.

    **Raises:** `UsageError` for what is no side in pixels.
    """
    parts = [part.strip() for text in texts for part in text.split(",")]
    wrong = next((part for part in parts if not part.isdecimal() or not 0 < int(part) <= 1 << 14), None)
    if wrong is not None:
        raise UsageError(f"--imgsz {wrong!r} is no side in pixels: write whole numbers, as 24,16.")
    return [int(part) for part in parts]


def _member(model: Mapping[str, Any], member: str) -> dict[str, Any]:
    """The recipe's beginning for another model: arguments of the constructor hold for models of the same library."""
    name, weights = member, None
    if not Path(member).exists() and "=" in member:
        name, _, weights = member.partition("=")
    same = find_library(name) is find_library(model["model"])
    return {**model, "model": name, "weights": weights, "model_args": model.get("model_args", {}) if same else {}}


def _folder(name: str, taken: Sequence[str]) -> str:
    """A name for a folder: what any file system takes, and no other point has."""
    plain = re.sub(r"[^\w.=@+-]+", "-", name).strip("-.")[:80] or "point"
    number = next(k for k in range(1, len(taken) + 2) if (plain if k == 1 else f"{plain}-{k}") not in taken)
    return plain if number == 1 else f"{plain}-{number}"
