"""The register of back ends: each is one function that prepares a float file for its encodings in whole numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from podar.errors import check_known, require
from podar.quantization.samples import Samples
from podar.runtimes import RUNTIMES


@dataclass(frozen=True)
class Encoding:
    """One way to write the model in fewer bits.

    - `name`: what tables call it, such as `"U8S8 per channel"`.
    - `write(path, left_out)`: writes it; the layers of these names stay float.
    """

    name: str
    write: Callable[[Path, Collection[str]], None] = field(repr=False)


@dataclass(frozen=True)
class Prepared:
    """A float file, made ready.

    - `encodings`: those that make sense for this model on this processor, all of them.
    - `layers`: names of the layers that may go back to float one by one, in the order of the network.
    - `held`: what stays float in every encoding, known by the graph: name → why.
    """

    encodings: tuple[Encoding, ...]
    layers: tuple[str, ...] = ()
    held: Mapping[str, str] = field(default_factory=dict)


Prepare = Callable[[Path, Samples, Path], Prepared]


@dataclass(frozen=True)
class Backend:
    """One quantizer, and the runtime that runs what it writes.

    - `name`: what is asked for. `runtime`: the name of the runtime, in most cases the same.
    - `format`: the export format of its float files.
    - `suffix`: the ending of what it writes.
    - `packages`, `extra`: what is imported for it, and podar's extra that brings it.
    - `prepare(file, samples, folder)`: the float file ready for its encodings; `folder` is for what lies between.
    """

    name: str
    runtime: str
    format: str
    suffix: str
    packages: tuple[str, ...]
    extra: str
    help: str
    prepare: Prepare = field(repr=False)

    def imported(self) -> None:
        """See that its packages are here.

        **Raises:** `PodarError` where one is not installed; the sentence names podar's extra that brings it.
        """
        RUNTIMES[self.runtime].imported()
        for package in self.packages:
            require(package, self.extra)


_backends: dict[str, Backend] = {}
BACKENDS: Mapping[str, Backend] = _backends
"""Every back end by its name."""


def backend(
    name: str,
    *,
    format: str,
    suffix: str,
    packages: tuple[str, ...] = (),
    extra: str,
    help: str = "",
    runtime: str | None = None,
) -> Callable[[Prepare], Prepare]:
    """Register a function `prepare(file, samples, folder) -> Prepared`; `Backend` says what the arguments mean.

    `runtime`: None where the back end is called like it.

    ```python
    @backend("openvino", format="onnx", suffix=".xml", packages=("nncf",), extra="quantization")
    def prepare(file: Path, samples: Samples, folder: Path) -> Prepared: ...
    ```
    """

    def register(prepare: Prepare) -> Prepare:
        _backends[name] = Backend(name, runtime or name, format, suffix, packages, extra, help, prepare)
        return prepare

    return register


def unregister(name: str) -> None:
    """Take a back end out of the register again."""
    del _backends[name]


def known(name: str) -> Backend:
    """The back end of that name.

    **Raises:** `UsageError` where there is none.
    """
    check_known("runtime that podar quantises for,", str(name), BACKENDS)
    return BACKENDS[name]
