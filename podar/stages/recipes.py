"""Recipe: which stages make a model smaller, in what order, with what options. Plain data, YAML in and out."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from podar.errors import PodarError, UsageError, nearest
from podar.trust.plain import read_yaml


class Stage(BaseModel):
    """Options of one stage; `title` is its name in a recipe. Where several texts are taken, one may stand alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: ClassVar[str]

    @field_validator("*", mode="before")
    @classmethod
    def _one_of_several(cls, value: Any, info: ValidationInfo) -> Any:
        several = cls.model_fields[str(info.field_name)].annotation == tuple[str, ...]
        return (value,) if several and isinstance(value, str) else value


class Prune(Stage):
    """Cut channels, heads and units: the arguments of `podar.prune`. `target` may be left out where `ratios` are given,
    `outputs` empty keeps all. `importance` None: what serves such a model best (`Source.importance`)."""

    title = "prune"
    target: str | None = None
    importance: str | None = None
    scope: str = "global"
    ratios: dict[str, float] = {}
    protect: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    multiple_of: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    depth: bool = False

    @field_validator("target", mode="before")
    @classmethod
    def _target_text(cls, value: Any) -> Any:
        """`target: {macs: 0.5}` reads better in YAML than "macs=0.5"; both are taken."""
        if isinstance(value, Mapping) and len(value) == 1:
            return "=".join(str(part) for part in next(iter(value.items())))
        return value

    @field_validator("multiple_of", mode="before")
    @classmethod
    def _multiple(cls, value: Any) -> Any:
        if value is None:  # recipes of older versions
            return "auto"
        if value != "auto" and (type(value) is not int or value < 1):
            raise ValueError(f"multiple_of is {value!r}, give a whole number of at least 1, or auto")
        return value

    @model_validator(mode="after")
    def _something_asked(self) -> Prune:
        if self.target is None and not self.ratios:
            raise ValueError(
                "target is missing; say what must remain, such as macs=0.5 (--target on the command line), or of some "
                "layers alone with ratios (--ratios layer1.0.conv1=0.5)"
            )
        if self.target is None and self.depth:
            raise ValueError("depth weighs whole blocks against channels for a target; add one, such as macs=0.5")
        return self

    def __str__(self) -> str:
        """What is asked for."""
        asked = [] if self.target is None else [self.target]
        return ", ".join([*asked, *(f"{pattern}={kept:g}" for pattern, kept in self.ratios.items())])


class Sparsify(Stage):
    """Make weights zero: the arguments of `podar.sparsify`.

    `permute`: reorder channels first, so that an N:M pattern keeps more.
    `reconstruct`: what stays takes over the work of what goes, from some training pictures without their labels.
    `schedule`: not now but while the next `finetune` trains: "one-shot", "iterative", "cubic" or "rigl".
    """

    title = "sparsify"
    amount: float | None = None
    pattern: str = "unstructured"
    scope: str = "global"
    importance: str = "magnitude"
    amounts: dict[str, float] = {}
    protect: tuple[str, ...] = ()
    rounds: int | None = Field(default=None, ge=1)
    permute: bool = False
    reconstruct: bool = False
    schedule: str | None = None

    def __str__(self) -> str:
        how = f", {self.schedule} schedule" if self.schedule else ", reconstructed" if self.reconstruct else ""
        amount = "" if self.amount is None else f"{100 * self.amount:g} % zeros, "
        return f"{amount}{self.pattern}, {self.scope}, by {self.importance}{how}"


class Ticket(Stage):
    """Search a lottery ticket: the arguments of `podar.find_ticket`."""

    title = "ticket"
    rounds: int = Field(default=10, ge=1)
    amount: float = Field(default=0.2, gt=0, lt=1)
    rewind: int = Field(default=0, ge=0)
    seeds: int = Field(default=3, ge=1)
    controls: tuple[str, ...] = ()
    every: int = Field(default=1, ge=1)
    epochs: int = Field(default=5, ge=1)
    lr: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=128, ge=1)
    scope: str = "global"
    importance: str = "magnitude"
    protect: tuple[str, ...] = ()
    early_bird: float | None = Field(default=None, gt=0, lt=1)

    def __str__(self) -> str:
        back = f"step {self.rewind}" if self.rewind else "initialisation"
        seeds = "1 seed" if self.seeds == 1 else f"{self.seeds} seeds"
        return f"{self.rounds} rounds of {100 * self.amount:g} %, rewound to {back}, {seeds}"


class Finetune(Stage):
    """Train the cut model: the options of `podar.finetune`. `distill`: the unpruned model is the teacher.

    `precision`: "fp32" or "bf16", with ", channels_last" where that layout is wanted; None, or "auto": the fastest of a
    few timed steps, decided once for the run. `settings`: further arguments of the model's own trainer (Ultralytics),
    where it has one.
    """

    title = "finetune"
    epochs: int = Field(default=5, ge=1)
    lr: float | None = Field(default=None, gt=0)
    batch_size: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    distill: bool = True
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    precision: str | None = None
    settings: dict[str, Any] = {}

    @field_validator("precision")
    @classmethod
    def _auto_is_none(cls, value: str | None) -> str | None:
        return None if value == "auto" else value


class Export(Stage):
    """Write deployable files, of the dense and of the pruned model, each checked against its model."""

    title = "export"
    formats: tuple[str, ...] = Field(min_length=1)


class Measure(Stage):
    """Measure dense and pruned in turn: the first exported format, or torch where nothing was exported."""

    title = "measure"
    seconds: float = Field(default=3.0, gt=0)
    threads: int = Field(default=1, ge=1, le=4096)


STAGES: dict[str, type[Stage]] = {stage.title: stage for stage in (Prune, Sparsify, Ticket, Finetune, Export, Measure)}


_CHANGING = {"prune", "sparsify", "ticket", "finetune"}


class Recipe(BaseModel):
    """A model, its data, and the stages it goes through.

    `deterministic`: nothing that makes the model depends on the clock, so that the same seed gives the same model.

    In YAML each stage is a mapping of one key, its title:

    ```yaml
    model: timm:resnet18
    model_args: {num_classes: 10}
    weights: resnet18.safetensors
    data: photographs/
    stages:
      - prune: {target: macs=0.5, scope: isomorphic}
      - finetune: {epochs: 10}
      - export: {formats: [onnx]}
      - measure: {threads: 1}
    ```
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str | None = None
    model: str
    model_args: dict[str, Any] = {}
    modules: tuple[str, ...] = ()
    weights: str | None = None
    data: str | None = None
    image_size: int | None = Field(default=None, ge=1, le=1 << 14)
    seed: int = 0
    deterministic: bool = False
    stages: tuple[Prune | Sparsify | Ticket | Finetune | Export | Measure, ...] = Field(min_length=1)

    @field_validator("stages", mode="before")
    @classmethod
    def _stages_by_title(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise ValueError("stages is a list, such as - prune: {target: macs=0.5}")
        return tuple(stage if isinstance(stage, Stage) else _stage(stage) for stage in value)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str | None) -> str | None:
        """It becomes the name of a folder."""
        if value is not None and not (re.fullmatch(r"[\w][\w .+@=-]{0,99}", value) and value.strip() == value):
            raise ValueError(f"name is {value[:80]!r}; give letters, digits and - _ . + = @, without / and not hidden")
        return value

    @model_validator(mode="before")
    @classmethod
    def _within_bounds(cls, value: Any) -> Any:
        """Numbers that a machine has, and texts that a file can be called."""
        pending = [value]
        while pending:
            part = pending.pop()
            if isinstance(part, int) and abs(part) >= 1 << 53:
                raise ValueError(f"the number {str(part)[:40]} is too large")
            if isinstance(part, float) and not math.isfinite(part):
                raise ValueError(f"{part} is no number that an option can have")
            if isinstance(part, str) and (len(part) > 4096 or "\0" in part):
                raise ValueError(f"the text {part[:40]!r} is too long, or holds a NUL")
            if isinstance(part, Mapping):
                pending += [*part, *part.values()]
            elif isinstance(part, (list, tuple)):
                pending += part
        return value

    @model_validator(mode="after")
    def _order(self) -> Recipe:
        """What later stages need must come before them."""
        titles = [stage.title for stage in self.stages]
        for single in ("export", "measure"):
            if titles.count(single) > 1:
                raise ValueError(f"{single} stands twice among the stages; once is enough")
            if single in titles and set(titles[titles.index(single) :]) & _CHANGING:
                raise ValueError(f"{single} comes before a stage that changes the model; move it to the end")
        if "measure" in titles and "export" in titles[titles.index("measure") :]:
            raise ValueError("measure comes before export; exchange them, so that the exported file is measured")
        for trained in ("finetune", "ticket"):
            if trained in titles and self.data is None:
                raise ValueError(f"{trained} needs a data set; add data: NAME (--data on the command line)")
        for at, stage in enumerate(self.stages):
            if isinstance(stage, Sparsify) and stage.schedule and "finetune" not in titles[at:]:
                raise ValueError(
                    f"the {stage.schedule} schedule works while a model trains; add a finetune stage after sparsify "
                    "(--data and --epochs on the command line)"
                )
            if self.deterministic and isinstance(stage, Finetune) and (stage.seconds or "time" in stage.settings):
                raise ValueError(
                    "finetune stops after a time, which is another step each time it runs, and the recipe is to be "
                    "deterministic; leave seconds away (--seconds, time=) or deterministic"
                )
        if "ticket" in titles[1:]:
            raise ValueError("ticket trains from the beginning, so it comes first; move it there")
        return self

    @model_serializer(mode="wrap")
    def _with_titles(self, plain: Any) -> dict[str, Any]:
        return {**plain(self), "stages": [{stage.title: stage.model_dump(mode="json")} for stage in self.stages]}

    @property
    def formats(self) -> tuple[str, ...]:
        """Names of the formats that the recipe exports, the one to measure first."""
        return next((stage.formats for stage in self.stages if isinstance(stage, Export)), ())


def make(data: Mapping[str, Any], of: str = "the recipe") -> Recipe:
    """A recipe from plain data.

    **Arguments:** `of`: where the data come from, for messages.

    **Raises:** `UsageError` that names the first key that is wrong, what is wrong with it, and the nearest known key.

    ```python
    >>> make({"model": "timm:resnet18", "stages": [{"prune": {"target": "macs=0.5"}}]}).stages[0].target
    'macs=0.5'

    ```
    """
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{of}: {_first(error)}.") from error


def read(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe from a YAML file.

    **Raises:** `PodarError` for a missing file or one that is not YAML; `UsageError` as `make`.
    """
    try:
        data = read_yaml(path)
    except PodarError as error:
        if Path(path).exists():
            raise PodarError(f"the recipe {error}") from error
        folder = Path(path).parent
        near = nearest(Path(path).name, [p.name for p in folder.iterdir()]) if folder.is_dir() else None
        hint = f"; did you mean {folder / near}?" if near else "."
        raise PodarError(f"there is no recipe {path}{hint}") from error
    if not isinstance(data, dict):
        raise UsageError(f"the recipe {path} is no mapping: begin with model: and stages:.")
    return make(data, of=str(path))


def demo(data: str = "fashion-mnist-demo") -> Recipe:
    """What `podar demo` does: half of the MACs, recovery for as long as three minutes allow, ONNX, both measured."""
    stages: list[dict[str, Any]] = [
        {"prune": {"target": "macs=0.5"}},
        {"finetune": {"epochs": 8, "lr": 0.03, "batch_size": 64, "label_smoothing": 0.0, "seconds": 112}},
        {"export": {"formats": ["onnx"]}},
        {"measure": {}},
    ]
    return make({"name": "demo", "model": "demo", "data": data, "stages": stages})


def to_yaml(recipe: Recipe) -> str:
    """The recipe as YAML that `read` takes, without what is left at its default."""
    plain = recipe.model_dump(mode="json", exclude_defaults=True)
    plain["stages"] = [{stage.title: stage.model_dump(mode="json", exclude_defaults=True)} for stage in recipe.stages]
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _stage(value: Any) -> Stage:
    """One stage from `{title: options}`, or from its bare title where every option has a default."""
    if isinstance(value, str):
        value = {value: None}
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ValueError(f"{value!r} is no stage; write its name and its options, such as prune: {{target: macs=0.5}}")
    title, options = next(iter(value.items()))
    if title not in STAGES:
        near = nearest(str(title), STAGES)
        raise ValueError(
            f"there is no stage {title!r}; " + (f"did you mean {near}?" if near else f"known: {', '.join(STAGES)}")
        )
    try:
        return STAGES[title].model_validate(options or {})
    except ValidationError as error:
        raise ValueError(f"{title}: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    """The first thing that a validation found wrong, as one sentence without a full stop."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{place} is missing"
    if problem["type"] == "extra_forbidden":
        known = {**Recipe.model_fields}
        for stage in STAGES.values():
            known.update(stage.model_fields)
        near = nearest(place, known)
        return f"{place} is no option" + (f"; did you mean {near}?" if near else "")
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return text
    return f"{place} is {problem['input']!r}, {text[:1].lower()}{text[1:]}"
