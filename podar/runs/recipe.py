"""Recipe: which stages make a model smaller, in what order, with what options. Plain data, YAML in and out."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from podar.errors import PodarError, UsageError, did_you_mean
from podar.files import no_file
from podar.stages import StageOptions, recipe_stages, stage_of
from podar.trust.plain import read_yaml


class Recipe(BaseModel):
    """A model, its data, and the stages it goes through.

    `deterministic`: nothing that makes the model depends on the clock, so that the same seed gives the same model.

    In YAML each stage is a mapping of one key, its name:

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
    stages: tuple[StageOptions, ...] = Field(min_length=1)

    @field_validator("stages", mode="before")
    @classmethod
    def _stages_by_title(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise ValueError("stages is a list, such as - prune: {target: macs=0.5}")
        return tuple(stage if isinstance(stage, StageOptions) else _stage(stage) for stage in value)

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
        """What later stages need must come before them, and each stage must fit in."""
        order = [stage_of(options) for options in self.stages]
        names = [stage.name for stage in order]
        for at, stage in enumerate(order):
            if not stage.changes_model and names.count(stage.name) > 1:
                raise ValueError(f"{stage.name} stands twice among the stages; once is enough")
            if not stage.changes_model and any(later.changes_model for later in order[at:]):
                raise ValueError(f"{stage.name} comes before a stage that changes the model; move it to the end")
            if (other := next((name for name in stage.after if name in names[at + 1 :]), None)) is not None:
                good_for = f", so that {stage.so_that}" if stage.so_that else ""
                raise ValueError(f"{stage.name} comes before {other}; exchange them{good_for}")
        for stage in order:
            if stage.needs_data and self.data is None:
                raise ValueError(f"{stage.name} needs a data set; add data: NAME (--data on the command line)")
        for options in self.stages:
            options.fit(self)
        return self

    @model_serializer(mode="wrap")
    def _with_names(self, plain: Any) -> dict[str, Any]:
        return {**plain(self), "stages": [{stage_of(o).name: o.model_dump(mode="json")} for o in self.stages]}


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
        raise PodarError(no_file(Path(path), "recipe")) from error
    if not isinstance(data, dict):
        raise UsageError(f"the recipe {path} is no mapping: begin with model: and stages:.")
    return make(data, of=str(path))


def to_yaml(recipe: Recipe) -> str:
    """The recipe as YAML that `read` takes, without what is left at its default."""
    plain = recipe.model_dump(mode="json", exclude_defaults=True)
    plain["stages"] = [{stage_of(o).name: o.model_dump(mode="json", exclude_defaults=True)} for o in recipe.stages]
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _stage(value: Any) -> StageOptions:
    """The options of one stage from `{name: options}`, or from its bare name where every option has a default."""
    if isinstance(value, str):
        value = {value: None}
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ValueError(f"{value!r} is no stage; write its name and its options, such as prune: {{target: macs=0.5}}")
    name, options = next(iter(value.items()))
    known = recipe_stages()
    if name not in known:
        hint = did_you_mean(str(name), known, list_all=True)
        raise ValueError(f"there is no stage {name!r}{hint.rstrip('.')}")
    try:
        return known[name].options.model_validate(options or {})
    except ValidationError as error:
        raise ValueError(f"{name}: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    """The first thing that a validation found wrong, as one sentence without a full stop."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{place} is missing"
    if problem["type"] == "extra_forbidden":
        options = [name for stage in recipe_stages().values() for name in stage.options.model_fields]
        return f"{place} is no option{did_you_mean(place, [*Recipe.model_fields, *options]).rstrip('.')}"
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return text
    return f"{place} is {problem['input']!r}, {text[:1].lower()}{text[1:]}"
