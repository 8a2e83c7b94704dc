"""What ends a run: the saved model, the summary and the report, among the finished files."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import Any

from podar.files import write_atomic
from podar.reports.summary import SUMMARY, parse
from podar.runs.folder import to_json
from podar.runs.recipe import Recipe
from podar.runs.steps import Done, as_sentence, merged
from podar.stages import Job, sections, stage_of

REPORT = "report.html"
_TOLD = ("torch", "numpy", "torchvision", "timm", "transformers", "ultralytics", "accelerate")
_TOLD += ("onnx", "onnxscript", "onnxruntime", "openvino", "executorch")


def finish(job: Job, state: dict[str, Any], done: list[Done]) -> None:
    """Write the model, source.json, the report and, last, the summary into `job.files`."""
    from podar.plans.saving import save
    from podar.reports import RunRecord, write

    save(job.model, job.files)
    job.workshop.save(job.model, job.files)
    write_atomic(job.files / "source.json", to_json(job.source.spec))
    found = merged(d.found for d in done)
    complete = {
        **{half: found[half] for half in ("before", "after")},
        "command": state["command"],
        "versions": {**state.get("versions", {}), **versions()},
        **found,
        "stages": {d.name: round(d.seconds, 3) for d in done},
        "recipe": {**state["recipe"], **state.get("asked", {})},
    }
    if state.get("changes"):
        changed = [as_sentence(f"{change} while the run was broken off") for change in state["changes"]]
        complete["notes"] = [*found.get("notes", ()), *changed]
    summary = parse(complete, str(job.files / SUMMARY))
    write(RunRecord.from_summary(summary, job.files), job.files / REPORT, sections())
    write_atomic(job.files / SUMMARY, to_json(complete))


def write_report(folder: Path, path: Path) -> None:
    """Write the report of a finished run again.

    **Raises:** `PodarError` where the folder holds no finished run, or its summary is damaged.
    """
    from podar.reports import RunRecord, write

    write(RunRecord.from_folder(folder), path, sections())


def opening_facts(recipe: Recipe, source: Any, state: dict[str, Any]) -> dict[str, Any]:
    """What the report says above everything else: the model, the data, and what is asked for."""
    from podar.measuring import processor

    facts = {"model": recipe.model}
    if source.about_data:
        facts["data"] = source.about_data
    for options in recipe.stages:
        if label := stage_of(options).fact:
            facts[label] = f"{facts[label]}, then {options}" if label in facts else str(options)
    facts["processor"] = str(processor())
    return {
        "title": source.title,
        "facts": {name: as_typed(fact, state) for name, fact in facts.items()},
        "notes": [as_sentence(as_typed(note, state)) for note in source.notes],
    }


def as_typed(text: str, state: dict[str, Any]) -> str:
    """A text with the model, data and weights as the user named them: their absolute paths are for another folder."""
    for key, asked in state.get("asked", {}).items():
        absolute = state["recipe"].get(key)
        if asked and absolute and asked != absolute:
            text = text.replace(absolute, asked)
    return text


def versions() -> dict[str, str]:
    """Versions of Python, podar and those of its libraries that this process has loaded."""
    found = {"podar": importlib.metadata.version("podar"), "python": platform.python_version()}
    for name in _TOLD:
        if name in sys.modules:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name)
    return found
