"""How each layer is computed: variants are tried inside the network, where weights and activations are cold."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from podar.errors import PodarError, require
from podar.files import write_atomic

if TYPE_CHECKING:
    from podar_native import Choice, Network

# What is tried. Input blocks keep a pass's inputs in L1, tiles trade list overhead against the same cache.
_INPUT_BLOCKS = (0, 32, 64, 128)
_TILES = (4, 6, 8, 14)
_STRIPS = (512, 1024, 2048)
_DENSE = ((8, 3), (4, 5))  # rows and tile of the kernels that multiply zeros too
_FULL_AT_MOST = 1 << 26  # weights, for which the time of these kernels is measured beside the sparse ones
_DENSE_FROM = 0.3  # below this density, kernels that multiply zeros too were never the fastest


@dataclass(frozen=True)
class LayerSpeed:
    """One layer: its share of nonzero weights, whether zeros are skipped, its time, its speed on nonzeros.

    `crossover`: the share of nonzeros below which skipping zeros is faster, as measured in the network; None where it
    was not (no search, a kernel that knows no zeros).
    """

    name: str
    density: float
    sparse: bool
    milliseconds: float
    gflops: float
    variant: str
    crossover: float | None = None

    def __str__(self) -> str:
        how = "sparse" if self.sparse else "dense"
        below = "" if self.crossover is None else f" (sparse pays below {self.crossover:.0%})"
        return (
            f"{self.name}: {self.density:.0%} nonzero{below}, {how} ({self.variant}), "
            f"{self.milliseconds:.3f} ms, {self.gflops:.1f} GFLOP/s on nonzeros"
        )


def choose(network: Network, inputs: Sequence[np.ndarray], *, tune: bool) -> tuple[bytes, list[LayerSpeed]]:
    """The program of a network, and what was decided for each of its layers.

    `inputs`: one batch of example inputs; `tune`: search (or remember) variants instead of the rules of thumb.
    """
    native = require("podar_native", extra="sparse")
    program = native.build(network)
    crossovers: dict[str, float | None] = {}
    if tune:
        layers = native.describe(program)["layers"]
        keys = {layer["name"]: _key(native, layer) for layer in layers}
        whole = hashlib.sha256("".join(sorted(keys.values())).encode()).hexdigest()
        remembered = _read()
        if any(key not in remembered for key in (*keys.values(), whole)):
            choices, strip, crossovers = _search(native, network, inputs, layers)
            found = {
                keys[name]: asdict(choice) | {"crossover": crossovers.get(name)} for name, choice in choices.items()
            }
            _write(remembered | found | {whole: strip})
        else:
            entries = {name: dict(remembered[key]) for name, key in keys.items()}
            crossovers = {name: entry.pop("crossover", None) for name, entry in entries.items()}
            choices = {name: native.Choice(**entry) for name, entry in entries.items()}
            strip = int(remembered[whole])
        program = native.build(network, choices, strip=strip)
    return program, _decisions(program, inputs, crossovers)


def _search(
    native: Any, network: Network, inputs: Sequence[np.ndarray], layers: Sequence[dict[str, Any]]
) -> tuple[dict[str, Choice], int, dict[str, float | None]]:
    """Every variant is given to all layers at once; each layer keeps the one that was fastest where it stands.

    **Returns:** The choices, the strip length, and each layer's crossover.
    """
    best: dict[str, tuple[float, Choice]] = {}
    sparse: dict[str, float] = {}

    def offer(choices: dict[str, Choice], tiles: Sequence[int]) -> None:
        program = native.build(network, choices)
        for tile in tiles:
            times = profile(native.with_tile(program, tile), inputs, runs=3).tolist()
            for layer in native.describe(program)["layers"]:
                took, choice = times[layer["op"]], choices.get(layer["name"])
                if _skips_zeros(layer):
                    sparse[layer["name"]] = min(took, sparse.get(layer["name"], took))
                if choice and (layer["name"] not in best or took < best[layer["name"]][0]):
                    best[layer["name"]] = took, native.Choice(choice.rows, choice.input_block, tile)

    density = {layer["name"]: layer["nonzeros"] / max(1, np.prod(layer["weight"])) for layer in layers}
    widest = max((layer["weight"][1] * layer["groups"] for layer in layers), default=0)
    for block in _INPUT_BLOCKS:
        if block < widest:
            offer({layer["name"]: native.Choice(1, block) for layer in layers}, _TILES)
    for rows, tiles in ((8, (3,)), (4, (5, 7))):
        fitting = [
            layer["name"] for layer in layers
            if layer["groups"] == 1 and (density[layer["name"]] >= _DENSE_FROM or layer["rows"] > 1)
        ]  # fmt: skip
        for block in _INPUT_BLOCKS[:3] if fitting else ():
            offer({name: native.Choice(rows, block) for name in fitting}, tiles)
    choices = {name: choice for name, (_, choice) in best.items()}
    totals = {
        strip: profile(native.build(network, choices, strip=strip), inputs, runs=3).sum() for strip in (0, *_STRIPS)
    }
    dense = _dense_times(native, network, inputs, layers) if sparse else {}
    crossovers = {name: min(1.0, density[name] * dense[name] / sparse[name]) for name in sparse if name in dense}
    return choices, min(totals, key=totals.__getitem__), {name: c or None for name, c in crossovers.items()}


def _dense_times(
    native: Any, network: Network, inputs: Sequence[np.ndarray], layers: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """Each layer's nanoseconds in the kernels that multiply zeros too: in the same network with full weights."""
    if sum(np.prod(layer["weight"]) for layer in layers) > _FULL_AT_MOST:
        return {}
    full = copy.copy(network)
    full.nodes = [
        replace(node, settings=node.settings | {"weight": np.full_like(node.settings["weight"], 1e-3)})
        if node.kind == "conv" else node
        for node in network.nodes
    ]  # fmt: skip
    fitting = [layer["name"] for layer in layers if layer["groups"] == 1]
    found: dict[str, float] = {}
    for rows, tile in _DENSE:
        program = native.with_tile(native.build(full, {name: native.Choice(rows, 0) for name in fitting}), tile)
        times = profile(program, inputs, runs=3).tolist()
        for layer in native.describe(program)["layers"]:
            if layer["name"] in fitting:
                found[layer["name"]] = min(times[layer["op"]], found.get(layer["name"], float("inf")))
    return found


def profile(program: bytes, inputs: Sequence[np.ndarray], runs: int = 5) -> np.ndarray:
    """Nanoseconds of each operator for one batch, the fastest of some runs, on one thread."""
    native = require("podar_native", extra="sparse")
    runner = native.Runner(program)
    runner.run(inputs)
    return np.min([runner.profile(*inputs) for _ in range(runs)], axis=0)


def _decisions(
    program: bytes, inputs: Sequence[np.ndarray], crossovers: Mapping[str, float | None]
) -> list[LayerSpeed]:
    """Each layer's time inside the network."""
    native = require("podar_native", extra="sparse")
    times = profile(program, inputs) / inputs[0].shape[0]
    found = []
    for layer in native.describe(program)["layers"]:
        nanoseconds = max(float(times[layer["op"]]), 1.0)
        size = int(np.prod(layer["weight"]))
        variant = f"rows {layer['rows']}, inputs {layer['input_block'] or 'all'}, tile {layer['tile'] or 'auto'}"
        found.append(
            LayerSpeed(
                layer["name"], layer["nonzeros"] / size, _skips_zeros(layer), nanoseconds / 1e6,
                2 * layer["nonzeros"] * layer["positions"] / nanoseconds, variant, crossovers.get(layer["name"]),
            )
        )  # fmt: skip
    return found


def _skips_zeros(layer: dict[str, Any]) -> bool:
    """Whether a layer's lists leave out most of its zeros: outputs that share offsets store some."""
    size = int(np.prod(layer["weight"]))
    return 2 * (size - layer["stored"]) > size - layer["nonzeros"]


# --- what was found, remembered -------------------------------------------------------------------------------------


def _key(native: Any, layer: dict[str, Any]) -> str:
    """A layer by what its speed depends on: the processor and level, its shape, its density to a hundredth."""
    level = os.environ.get("PODAR_SIMD") or native.levels()[0]
    density = round(layer["nonzeros"] / max(1, np.prod(layer["weight"])), 2)
    facts = (native.__version__, _machine(), level, layer["kind"], layer["weight"], layer["groups"], layer["positions"],
             density, layer["rows"])  # fmt: skip
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]


def _machine() -> str:
    """The processor's name as far as the system tells it: variants found on one say little about another."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line
    return platform.processor() or platform.machine()


def _file() -> Path:
    cache = os.environ.get("PODAR_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "podar"
    return Path(cache) / "sparse_variants.json"


def _read() -> dict[str, Any]:
    try:
        remembered = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}  # none yet, or damaged: it is only a memory
    return remembered if isinstance(remembered, dict) else {}


def _write(remembered: dict[str, Any]) -> None:
    with contextlib.suppress(OSError, PodarError):  # a read-only home: the search is made again next time
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_atomic(_file(), json.dumps(remembered))
