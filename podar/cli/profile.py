"""podar profile: the layers of a model measured in a runtime, as a table that targets of latency are met with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from podar.cli.app import app
from podar.cli.options import Model, ModelArg, Modules, Threads, Trust, Weights, complete_runtimes
from podar.cli.output import common, print_json, working


@app.command()
def profile(
    model: Model,
    runtime: Annotated[
        str, typer.Option(help="The runtime that will serve the model.", autocompletion=complete_runtimes)
    ] = "onnxruntime",
    threads: Threads = 1,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Measure on this machine, and write the table here.")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write files and a script that measure on another device, without podar."),
    ] = None,
    weights: Weights = None,
    model_arg: ModelArg = None,
    module: Modules = None,
    trust: Trust = False,
) -> None:
    """Measure a model's layers, for --target latency=… and --table, here or on another device."""
    from podar.cli import console
    from podar.errors import UsageError
    from podar.latency.profiling import pack, profile
    from podar.latency.serving import checked_runtime
    from podar.sources.naming import parse_model_args
    from podar.sources.opening import open_source

    if (out is None) == (bundle is None):
        raise UsageError("give --out table.json to measure here, or --bundle FOLDER to measure on another device")
    checked_runtime(runtime)
    with working("profile"):
        source = open_source(
            model, weights=weights, model_args=parse_model_args(model_arg or ()), modules=module or (), trust=trust
        )
        inputs = source.inputs()
        graph = source.workshop.trace(source.model, inputs)
        if bundle is not None:
            script = pack(source.model, inputs, graph, bundle, runtime, threads)
            found = {"bundle": str(bundle), "script": str(script)}
            told = f"{bundle} is ready: on the device, python {script.name} --out table.json"
        else:
            assert out is not None
            table = profile(source.model, inputs, graph, runtime, threads)
            table.save(out)
            found = {
                "table": str(out), "runtime": table.runtime, "threads": table.threads, "processor": table.processor,
                "layers": len(table.layers),
            }  # fmt: skip
            told = f"{out}: {len(table.layers)} layers in {table.runtime} on {table.processor}"
    print_json(found) if common.json else console.out().print(told, markup=False)
