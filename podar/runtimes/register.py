"""The register of runtimes: each is one function that opens a model file, declared with what it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from podar.errors import UsageError, did_you_mean, require
from podar.runtimes.session import Ready, Session

Open = Callable[[Path, int], Session]


@dataclass(frozen=True)
class Runtime:
    """One way to run a model.

    - `package`: what is imported for it; `extra`: podar's extra that brings the package.
    - `suffixes`: endings of the files that it reads; `sidecars`: endings of files that may lie beside them, in place of
      the suffix ("net.xml" and "net.bin").
    - `widths`: layers are fastest where their channels are a multiple of this.
    - `open(file, threads)`: the file as a `Session`.
    - `takes(model)`: whether it is worth while to run this file or torch module in it.
    - `weights(file)`: how many numbers the file stores as floating-point weights, or None where that cannot be told.
    - `module(module, example_inputs, threads)`: a torch module made ready to run; None where it runs only files.
    """

    name: str
    package: str
    extra: str
    suffixes: tuple[str, ...]
    sidecars: tuple[str, ...]
    widths: int
    open: Open
    takes: Callable[[Any], bool]
    weights: Callable[[Path], int | None]
    module: Callable[[Any, Any, int], Ready] | None

    def imported(self) -> ModuleType:
        """Its package.

        **Raises:** `PodarError` where it is not installed; the sentence names podar's extra that brings it.
        """
        return require(self.package, self.extra)


_runtimes: dict[str, Runtime] = {}
RUNTIMES: Mapping[str, Runtime] = _runtimes
"""Every runtime by its name. The usual one of a kind of file stands first."""


def runtime(
    name: str,
    *,
    package: str,
    suffixes: tuple[str, ...],
    sidecars: tuple[str, ...] = (),
    widths: int = 1,
    extra: str | None = None,
    takes: Callable[[Any], bool] = lambda model: True,
    weights: Callable[[Path], int | None] = lambda file: None,
    module: Callable[[Any, Any, int], Ready] | None = None,
) -> Callable[[Open], Open]:
    """Register a function `open_(file, threads) -> Session` as a runtime; `Runtime` says what the arguments mean.

    `extra`: None where it is called like the runtime.

    ```python
    @runtime("openvino", package="openvino", suffixes=(".xml",), sidecars=(".bin",), widths=8)
    def open_(file: Path, threads: int) -> Session: ...
    ```
    """

    def register(function: Open) -> Open:
        _runtimes[name] = Runtime(
            name, package, extra or name, suffixes, sidecars, widths, function, takes, weights, module
        )
        return function

    return register


def unregister(name: str) -> None:
    """Take a runtime out of the register again."""
    del _runtimes[name]


def runtime_named(name: str) -> Runtime:
    """The runtime of that name.

    **Raises:** `UsageError` where there is none.
    """
    if name not in RUNTIMES:
        raise UsageError(f"unknown runtime {name!r}{did_you_mean(name, RUNTIMES, list_all=True)}")
    return RUNTIMES[name]
