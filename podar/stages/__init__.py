"""What a stage of a run is, and the register of all stages; each file in this folder is one stage.

A stage is one function under the decorator `stage`, with the class of its options:

```python
class Quantize(StageOptions):
    bits: Annotated[int, Flag("Bits of a weight.")] = 8

@stage("quantize", options=Quantize, after=("prune", "finetune"), needs_data=True, command="Store weights in 8 bits.")
def quantize(job: Job, options: Quantize) -> Finding:
    ...
    return Finding(after={"bytes": size}, facts={"quantize": {"bits": options.bits}})
```

A new stage is one new file with one such function; nothing else changes. What a recipe may hold and in which order, the
command `podar quantize` with its flags, the steps of a run, what a run that broke off goes on from, the summary, and
the sections of the report are all derived from the register. A stage of another package registers itself in the same
way when that package is imported.

The files import torch and other heavy packages inside their functions: the command line reads the register before it
knows whether anything is to be computed. Files whose names begin with an underscore help several stages.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from podar.files import atomic_path

if TYPE_CHECKING:
    from torch import nn

    from podar.graph import Graph
    from podar.reports.sections import Section
    from podar.reports.summary import Summary
    from podar.workshops import Source, Workshop

Progress = Callable[[str, int, int, dict[str, float]], None]


CHECKPOINT_SUFFIX = ".checkpoint"  # how the file of a training that is under way ends
DENSE = "dense.safetensors"  # the dense model, where a stage put another in its place


class RecipeLike(Protocol):
    """What a stage may know of the recipe in which it stands."""

    @property
    def model(self) -> str: ...
    @property
    def data(self) -> str | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def deterministic(self) -> bool: ...
    @property
    def stages(self) -> tuple[StageOptions, ...]: ...


class StageOptions(BaseModel):
    """What may be asked of a stage: the base of every stage's own class.

    In a recipe a single text may stand where several are taken. `str(options)` says in a few words what is asked for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    file_options: ClassVar[tuple[str, ...]] = ()
    """Options whose texts may name files: the run keeps their absolute paths, and notices when a file changes."""

    @field_validator("*", mode="before")
    @classmethod
    def _one_of_several(cls, value: Any, info: ValidationInfo) -> Any:
        several = cls.model_fields[str(info.field_name)].annotation == tuple[str, ...]
        return (value,) if several and isinstance(value, str) else value

    @property
    def deferred(self) -> bool:
        """Whether nothing happens yet, because a later stage is to do what is asked here."""
        return False

    def fit(self, recipe: RecipeLike) -> None:
        """Refuse a recipe in which this cannot stand.

        **Raises:** `ValueError`: one sentence without a full stop.
        """

    def check(self, recipe: RecipeLike) -> None:
        """Refuse names and values that make no sense, before anything is loaded.

        **Raises:** `UsageError`.
        """

    @classmethod
    def from_flags(cls, given: dict[str, Any], data: str | None) -> dict[str, Any] | None:
        """The options that a command line asks for; None where it leaves the stage out.

        **Arguments:** `given`: the flags' values by option. `data`: the data set that was named.

        **Raises:** `UsageError`.
        """
        return given


@dataclass(frozen=True)
class Flag:
    """How an option of a stage stands on the command line, in `Annotated[type, Flag(…)]`. Options without one do not.

    - `help`: what the help says. `metavar`: what it calls the value.
    - `name`: the flag, where it is not the option's own name with dashes. One that begins with `--no-` switches off.
    - `choices`: names that the shell completes.
    - `read`: text → value, where the text is not taken as it is.
    - `least`: the smallest number; where there is none, that of the option itself.
    - `rank`: where the flag stands in the help: 1 before --data, 2 right behind it, from 5 on behind --trust.
    - `argument`: it is no flag: its values are written without a name.
    - `asks`: what it is called in the commands of stages that this one follows. There it asks for the stage, which is
      left out where it is not given.
    """

    help: str
    metavar: str | None = None
    name: str | None = None
    choices: Callable[[], Iterable[str]] | None = None
    read: Callable[[Any], Any] | None = None
    least: float | None = None
    rank: int = 3
    argument: bool = False
    asks: str | None = None


@dataclass(frozen=True)
class Finding:
    """What a stage found: what it adds to the summary of the run.

    - `before`, `after`: figures of the dense model, and of the model as it is now.
    - `notes`: what the reader should know, one sentence each. They join those of earlier stages.
    - `facts`: any other keys of summary.json. A value replaces an earlier one; mappings are merged.
    """

    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Job:
    """A run in the making, as a stage sees it.

    - `recipe`, `source`: what is asked for, and the model and data that were opened for it.
    - `model`: as the stages so far left it; a stage changes it in place, or puts another one here.
    - `dense`: the model as it was before the run.
    - `files`: the folder of finished files, which become the run's folder.
    - `scratch`: a folder for what the stage keeps while it works. `checkpoint`: a file in it for its training's place.
    - `found`: the summary so far.
    - `progress(stage, done, total, info)`: to be called while the stage works.
    - `graph`: what tracing found in the model as it is now; None where it was not traced since it last changed.
    - `step`: the name of the step under way.
    - `settled`, `settle(what, value)`: what was decided by trying, written down before anything is made with it, so
      that a run that goes on later decides in the same way.
    """

    recipe: RecipeLike
    source: Source
    model: nn.Module
    dense: nn.Module
    files: Path
    scratch: Path
    found: Summary
    progress: Progress
    settled: dict[str, Any]
    settle: Callable[[str, Any], None]
    graph: Graph | None = None
    step: str = ""

    @property
    def workshop(self) -> Workshop:
        """Who trains, evaluates, prunes, exports and saves the model."""
        return self.source.workshop

    @property
    def was_cut(self) -> bool:
        """Whether an earlier stage took something out of the model, or made weights zero."""
        return bool(self.found.layers) or self.found.own("sparsity") is not None

    @property
    def untouched(self) -> bool:
        """Whether no stage of the recipe changes the model: it is the dense one, to the end."""
        return not any(stage_of(options).changes_model for options in self.recipe.stages)

    def keep_dense(self, model: nn.Module) -> None:
        """Take another model for the dense one: a ticket search trains its own. It outlives a broken-off run."""
        from safetensors.torch import save_file

        with atomic_path(self.scratch / DENSE) as temporary:
            save_file(dict(model.state_dict()), str(temporary))
        self.dense = model.eval()

    @property
    def checkpoint(self) -> Path:
        """Where the training of the step under way may keep its place."""
        return self.scratch / f"{self.step.replace(' ', '-')}{CHECKPOINT_SUFFIX}"


Comes = Literal["asked", "first", "behind", "changed"]
Work = Callable[[Job, Any], Finding]
_Work = TypeVar("_Work", bound=Work)


@dataclass(frozen=True)
class Stage:
    """A registered stage; the fields are the arguments of `stage`."""

    name: str
    options: type[StageOptions]
    work: Work = field(repr=False)
    title: str
    after: tuple[str, ...]
    so_that: str
    comes: Comes
    changes_model: bool
    needs_data: bool
    keeps: tuple[str, ...]
    fact: str
    command: str
    then: tuple[str, ...]
    sections: tuple[Section, ...]


_register: dict[str, Stage] = {}


def stage(
    name: str,
    *,
    options: type[StageOptions] = StageOptions,
    title: str = "",
    after: tuple[str, ...] = (),
    so_that: str = "",
    comes: Comes = "asked",
    changes_model: bool = False,
    needs_data: bool = False,
    keeps: tuple[str, ...] = (),
    fact: str = "",
    command: str = "",
    then: tuple[str, ...] = (),
    sections: tuple[Section, ...] = (),
) -> Callable[[_Work], _Work]:
    """Register a function `(job, options) → Finding` as a stage.

    **Arguments:**

    - `name`: what recipes call it. `title`: what people see, where that differs.
    - `options`: the class of its options, which belongs to this stage alone.
    - `after`: stages that must not come later in a recipe. `so_that`: what their order is good for, for the message.
    - `comes`: "asked": where a recipe names it. Stages that no recipe names come "first", "behind" each of those in
      `after`, or once the model is "changed" for the last time; where `after` is given, only if one of these ran.
    - `changes_model`: the model is saved after it. A stage that changes nothing stands once, after all that do.
    - `needs_data`: a recipe without data cannot have it.
    - `keeps`: patterns of files under the run's hidden folder that took long to make: with one of them, or with the
      stage done, a run that breaks is not given up. With one under `files/` the stage goes on with all it left there.
    - `fact`: the label under which the head of the report says what was asked for.
    - `command`: the help of `podar NAME`, where there is such a command. `then`: the stages that follow it there.
    - `sections`: what the report shows of it.

    ```python
    @stage("measure", options=Measure, after=("export",), so_that="the exported file is measured")
    def measure(job: Job, options: Measure) -> Finding: ...
    ```
    """

    def add(work: _Work) -> _Work:
        if options is not StageOptions:
            taken = next((s.name for s in _register.values() if s.options is options and s.name != name), None)
            if taken is not None:
                raise TypeError(f"{options.__name__} holds the options of the stage {taken!r} already")
        _register[name] = Stage(
            name, options, work, title or name, after, so_that, comes, changes_model, needs_data, keeps, fact, command,
            then, sections,
        )  # fmt: skip
        return work

    return add


def unregister(name: str) -> None:
    """Forget a stage that another package registered."""
    _register.pop(name, None)


def stages() -> dict[str, Stage]:
    """Every stage by its name: podar's, in the order of the files' names, and then those of other packages."""
    _import_files()
    own = {name: found for name, found in _register.items() if found.work.__module__.startswith(f"{__name__}.")}
    return dict(sorted(own.items())) | _register


@cache
def _import_files() -> None:
    """Import every stage's file once: so each registers itself by being in this folder."""
    for found in pkgutil.iter_modules(__path__):
        if not found.name.startswith("_"):
            importlib.import_module(f"{__name__}.{found.name}")


def recipe_stages() -> dict[str, Stage]:
    """The stages that a recipe may name."""
    return {name: found for name, found in stages().items() if found.comes == "asked"}


def stage_of(options: StageOptions) -> Stage:
    """The stage whose options these are."""
    return next(found for found in stages().values() if found.options is type(options))


def following(options: StageOptions, recipe: RecipeLike) -> list[str]:
    """The names of the stages that come behind this one in a recipe."""
    place = next(at for at, found in enumerate(recipe.stages) if found is options)
    return [stage_of(found).name for found in recipe.stages[place + 1 :]]


def sections() -> tuple[Section, ...]:
    """What the report shows of the stages."""
    return tuple(section for found in stages().values() for section in found.sections)
