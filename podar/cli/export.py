"""podar export: write a deployable file of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from podar.cli.app import app
from podar.cli.options import Data, ImageSize, Model, ModelArg, Modules, Trust, Weights, complete_formats
from podar.cli.output import common, print_json, working

if TYPE_CHECKING:
    from podar.workshops import Source


@app.command()
def export(
    model: Model,
    format: Annotated[str, typer.Option(help="The file's format.", autocompletion=complete_formats)] = "onnx",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: the model's name.")] = None,
    weights: Weights = None,
    model_arg: ModelArg = None,
    data: Data = None,
    module: Modules = None,
    trust: Trust = False,
    image_size: ImageSize = None,
) -> None:
    """Write a deployable file and check it against the model; with --data on real inputs."""
    from podar.cli import console
    from podar.sources.naming import parse_model_args
    from podar.sources.opening import open_source

    with working("export"):
        source = open_source(
            model,
            data,
            weights=weights,
            model_args=parse_model_args(model_arg or ()),
            modules=module or (),
            trust=trust,
            image_size=image_size,
        )
        exported = _export_file(source, format, out)
    if common.json:
        print_json(exported)
    else:
        console.out().print(
            f"{exported['file']}: {exported['bytes']:,} bytes, agrees with the model to {exported['parity']:.1e} "
            f"in {exported['runtime']}.",
            markup=False,
        )


def _export_file(source: Source, format: str, out: Path | None) -> dict[str, Any]:
    """Export the model of a source; checked on test images where the source has data.

    **Raises:** `UsageError` for an unknown format; `PodarError` as `podar.export`.
    """
    from podar.sources.naming import check_format

    check_format(format, source.spec["model"])
    folder, stem = (Path(), source.name) if out is None else (out.parent, out.stem)
    exported = source.workshop.export(source.model, source.inputs(), folder=folder, stem=stem, format=format)
    return {
        "file": str(exported.path),
        "files": [str(path) for path in exported.files],
        "format": exported.format,
        "bytes": exported.bytes,
        "parity": exported.parity,
        "runtime": exported.runtime,
        "dynamic_batch": exported.dynamic_batch,
    }
