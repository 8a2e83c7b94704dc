"""The steps of a run, derived from the stages that its recipe names, and carried out one by one."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from podar.errors import PodarError, first_line
from podar.reports.summary import Summary, parse
from podar.runs import folder
from podar.runs.recipe import Recipe
from podar.stages import CHECKPOINT_SUFFIX, Finding, Job, Stage, StageOptions, stage_of, stages


@dataclass(frozen=True)
class RunStep:
    """A stage as one run carries it out; `name` is what people see, with a number where the stage comes again."""

    name: str
    stage: Stage
    options: StageOptions

    @property
    def changes_model(self) -> bool:
        """Whether the model is saved after it."""
        return self.stage.changes_model and not self.options.deferred

    @property
    def goes_on(self) -> bool:
        """Whether an attempt that broke off left finished files with which it goes on."""
        return any(pattern.startswith(f"{folder.FILES}/") for pattern in self.stage.keeps)


@dataclass(frozen=True)
class Done:
    """A step that a run has behind it: what it found (a part of the summary), and where the model lies after it."""

    name: str
    seconds: float
    found: dict[str, Any]
    model: str | None


def check_options(recipe: Recipe) -> None:
    """Refuse names and values that make no sense, before anything is loaded.

    **Raises:** `UsageError`.
    """
    for options in recipe.stages:
        options.check(recipe)


def steps(recipe: Recipe) -> list[RunStep]:
    """The steps of a recipe in order: its stages, and those that come by themselves."""
    unasked = [s for s in stages().values() if s.comes != "asked" and (recipe.data is not None or not s.needs_data)]
    named = [stage_of(options).name for options in recipe.stages]

    def coming(when: str) -> list[RunStep]:
        found = [s for s in unasked if s.comes == when and (not s.after or set(s.after) & set(named))]
        return [RunStep(s.title, s, s.options()) for s in sorted(found, key=lambda s: bool(s.after))]

    found, at_the_end = coming("first"), []
    for options in recipe.stages:
        own = RunStep(stage_of(options).title, stage_of(options), options)
        if not own.stage.changes_model:
            at_the_end.append(own)
            continue
        found.append(own)
        if not options.deferred:
            behind = [s for s in unasked if s.comes == "behind" and own.stage.name in s.after]
            found += [RunStep(s.title, s, s.options()) for s in behind]
    return _numbered([*found, *coming("changed"), *at_the_end])


def _numbered(found: list[RunStep]) -> list[RunStep]:
    """Steps that repeat get a number, since a run remembers its steps by name."""
    seen: dict[str, int] = {}
    numbered = []
    for step in found:
        seen[step.name] = seen.get(step.name, 0) + 1
        again = f" {seen[step.name]}" if seen[step.name] > 1 else ""
        numbered.append(replace(step, name=step.name + again))
    return numbered


def worth_keeping(out: Path, state: Mapping[str, Any]) -> bool:
    """Whether a run that failed has work behind it that takes long to repeat: any checkpoint will do."""
    long = [stage for stage in stages().values() if stage.keeps]
    patterns = [f"*{CHECKPOINT_SUFFIX}", *(pattern for stage in long for pattern in stage.keeps)]
    if any(True for pattern in patterns for _ in folder.work_of(out).glob(pattern)):
        return True
    titles = {stage.title for stage in long}
    return any(re.sub(r" \d+$", "", entry["name"]) in titles for entry in state.get("done", ()))


def carry_out_step(step: RunStep, job: Job, out: Path, known: list[str], number: int) -> Done:
    """Carry out one step, always from the same beginning; the model that it changed is saved.

    **Arguments:** `known`: the finished files of the steps before. `number`: of the saved model.
    """
    import torch

    from podar.plans.saving import save

    progress = job.progress
    folder.drop_unknown(out, folder.files_in(out) if step.goes_on else known)
    job.step = step.name
    job.progress = lambda _, count, total, info: progress(step.name, count, total, info)
    job.progress("", 0, 0, {})
    began = time.perf_counter()
    with _repeatable(job.recipe, step):
        torch.manual_seed(job.recipe.seed)
        finding = step.stage.work(job, step.options)
    job.progress = progress
    found = in_summary(finding, job.found)
    job.found = parse(merged([job.found.plain(), found]), f"what the stage {step.name!r} found")
    kept = None
    if step.changes_model:
        job.graph = None
        kept = f"model-{number:02d}"
        save(job.model, job.scratch / kept)
    return Done(step.name, time.perf_counter() - began, found, kept)


@contextlib.contextmanager
def _repeatable(recipe: Any, step: RunStep) -> Iterator[None]:
    """Where a recipe is to be deterministic, let torch refuse operators that are not, while the model is changed."""
    import torch

    if not (recipe.deterministic and step.changes_model):
        yield
        return
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise PodarError(f"this model cannot be trained deterministically here ({first_line(error)}).") from error
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


def in_summary(finding: Finding, so_far: Summary) -> dict[str, Any]:
    """A finding as a part of the summary: plain data."""
    found = dict(finding.facts)
    for half in ("before", "after"):
        if figures := getattr(finding, half):
            found[half] = dict(figures)
    if finding.notes:
        found["notes"] = [*found.get("notes", so_far.notes), *map(as_sentence, finding.notes)]
    return found


def merged(parts: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> dict[str, Any]:
    """One mapping from several: later values replace earlier ones, mappings within are merged in the same way.

    ```python
    >>> merged([{"after": {"macs": 1}}, {"after": {"params": 2}}])
    {'after': {'macs': 1, 'params': 2}}

    ```
    """
    whole: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, Mapping) and isinstance(whole.get(key), Mapping)
            whole[key] = merged([whole[key], dict(value)]) if both else value
    return whole


def as_sentence(text: str) -> str:
    """A remark as a sentence of its own."""
    text = text.strip()
    if text.partition(" ")[0].replace("-", "").isalpha():  # a name such as timm:resnet18 keeps its letters
        text = text[:1].upper() + text[1:]
    return text + ("" if text.endswith((".", "!", "?")) else ".")
