"""prune: cut channels, heads, units and whole blocks until the target is met."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_origin

from pydantic import create_model, field_validator, model_validator

from podar.errors import UsageError, check_known
from podar.pruning.metrics.register import examples
from podar.pruning.options import Option, Options, RecipeOption, recipe_options
from podar.reports.sections import Section, fill_template
from podar.stages import Finding, Flag, Job, RecipeLike, StageOptions, stage
from podar.stages._figures import costs
from podar.stages._flags import fractions, runtimes
from podar.stages.measure import Measure

if TYPE_CHECKING:
    from podar.pruning.result import Result
    from podar.reports.record import RunRecord
    from podar.reports.summary import Layer

_VISIBLY = 0.05  # share of the target by which what was reached may differ before it is said
_SHOWN_LAYERS = 48  # more stand behind a click: a detector has two hundred groups


def _whole(text: str) -> int | str:
    """A whole number where the text is one."""
    return int(text) if text.lstrip("-").isdecimal() else text


def _flag(name: str, told: Option, several: bool) -> Flag:
    """How an option of `pruning.Options` stands on the command line."""
    first, stop, rest = told.help.partition(".")
    read = fractions("--ratios") if name == "ratios" else _whole if name == "multiple_of" else None
    text = f"{first}; may be repeated{stop}{rest}" if several else told.help
    choices = runtimes if name == "runtime" else told.names
    return Flag(text, metavar=told.metavar, choices=choices, read=read, rank=5)


class _Target(StageOptions):
    """What must remain; it may be left out where `ratios` are given."""

    file_options: ClassVar[tuple[str, ...]] = ("table",)

    target: Annotated[
        str | None,
        Flag(
            f"What must remain: {examples()}. Needed unless --ratios.",
            metavar="KIND=AMOUNT",
            rank=1,
        ),
    ] = None

    @field_validator("target", mode="before")
    @classmethod
    def _target_text(cls, value: Any) -> Any:
        """`target: {macs: 0.5}` reads better in YAML than "macs=0.5"; both are taken."""
        return ", ".join(f"{kind}={kept}" for kind, kept in value.items()) if isinstance(value, Mapping) else value

    @field_validator("multiple_of", mode="before", check_fields=False)
    @classmethod
    def _multiple(cls, value: Any) -> Any:
        if value is None:  # recipes of older versions
            return "auto"
        try:
            return Options(multiple_of=value).multiple_of
        except UsageError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _something_asked(self) -> _Target:
        if self.target is None and not self.asked("ratios"):
            raise ValueError(
                "target is missing; say what must remain, such as macs=0.5 (--target on the command line), or of some "
                "layers alone with ratios (--ratios layer1.0.conv1=0.5)"
            )
        if self.target is None and self.asked("depth"):
            raise ValueError("depth weighs whole blocks against channels for a target; add one, such as macs=0.5")
        return self

    def asked(self, name: str) -> Any:
        """The value of one of the options that `pruning.Options` declares."""
        return getattr(self, name)

    def check(self, recipe: RecipeLike) -> None:
        from podar.pruning.target import parse_targets

        if self.target is not None:
            parse_targets(self.target)
        if self.asked("runtime") is not None:
            check_known("runtime", self.asked("runtime"), runtimes())
        for name, option in recipe_options().items():
            if option.told.names is not None and (value := self.asked(name)) is not None:
                check_known(name, value, option.told.names())
        Options(ratios=self.asked("ratios"))  # refuses a number that is no fraction

    def __str__(self) -> str:
        """What is asked for."""
        asked = [] if self.target is None else [self.target]
        return ", ".join([*asked, *(f"{pattern}={kept:g}" for pattern, kept in self.asked("ratios").items())])


def _field(name: str, option: RecipeOption) -> Any:
    """A field of the stage's options: what may be given several times is empty where it is not given."""
    kind = get_origin(option.type)
    several = kind in (tuple, dict)
    annotation = option.type if several or option.default is not None else option.type | None
    return Annotated[annotation, _flag(name, option.told, several)], kind() if several else option.default


Prune = create_model(
    "Prune",
    __base__=_Target,
    __module__=__name__,
    __doc__="The target, and what recipes may ask of `pruning.Options`: the arguments of `podar.prune`.",
    **{name: _field(name, option) for name, option in recipe_options().items()},
)


def _widths(record: RunRecord) -> str:
    """The width of every layer, before and after."""
    scale = 100 / max(1, max((layer.before for layer in record.layers), default=1))

    def bars(layers: tuple[Layer, ...]) -> list[tuple[Layer, float, float]]:
        """Each layer with the lengths of its two bars in percent, on one scale for all."""
        return [(layer, scale * layer.before, scale * layer.after) for layer in layers]

    return fill_template(
        Path(__file__).with_name("prune.html.jinja"),
        layers=bars(record.layers[:_SHOWN_LAYERS]),
        more_layers=bars(record.layers[_SHOWN_LAYERS:]),
        count=len(record.layers),
        untouched=sum(layer.before == layer.after for layer in record.layers),
    )


def _taken_over(record: RunRecord) -> str:
    """What compensation did to every linear map."""
    return fill_template(Path(__file__).with_name("compensation.html.jinja"), found=record.own.get("compensation"))


@stage(
    "prune",
    options=Prune,
    changes_model=True,
    fact="target",
    command="Prune a model, recover its accuracy, export it, measure it before and after, and report.",
    then=("finetune", "export", "measure", "quantize"),
    sections=(Section(50, _widths), Section(52, _taken_over)),
)
def prune(job: Job, options: _Target) -> Finding:
    """Cut the model to the target, to widths that the runtimes like which are to serve it."""
    from podar.formats import liked_widths  # reads torch, which the command line's help must not wait for

    exported = [name for stage in job.recipe.stages for name in getattr(stage, "formats", ())]
    data, loss = job.workshop.samples(job.model, job.recipe.seed)
    chosen = {name: options.asked(name) for name in recipe_options()}
    given = {name: value for name, value in chosen.items() if value not in (None, (), {})}
    importance = given.setdefault("importance", job.workshop.importance)
    asked = Options(**_served(given, job.recipe, exported), data=data, loss=loss, widths=liked_widths(exported))
    result = job.workshop.prune(
        job.model, job.source.inputs(), options.target, asked, graph=None if asked.outputs else job.graph
    )
    facts: dict[str, Any] = {
        "layers": _layers(result, {layer.name: layer.before for layer in job.found.layers}),
        "target": str(options),
        "importance": importance,
        "multiple_of": asked.multiple_of,
        "blocks": list(result.blocks),
    }
    if asked.outputs:  # the others held no widths
        facts["frozen"] = [{"name": name, "dim": dim, "reason": reason} for name, dim, reason in result.graph.frozen]
    if result.compensation is not None:
        facts["compensation"] = result.compensation.to_json()
    facts |= {name: found.to_json() for name, found in result.measured.items()}
    notes = [f"whole residual blocks went: {', '.join(result.blocks)}"] if result.blocks else []
    notes += [] if result.compensation is None else [result.compensation.sentence]
    notes += [str(found) for found in result.measured.values()]
    notes += result.missed(_VISIBLY)
    return Finding(after=costs(result.after), notes=tuple(notes), facts=facts)


def _served(given: dict[str, Any], recipe: RecipeLike, exported: list[str]) -> dict[str, Any]:
    """The options with the runtime and threads that are to serve: those of the stages that export and measure."""
    from podar.formats import FORMATS

    threads = next((stage.threads for stage in recipe.stages if isinstance(stage, Measure)), 1)
    served = {"threads": threads, **given}
    if "table" not in given and exported:
        served = {"runtime": FORMATS[exported[0]].runtime, **served}
    return served


def _layers(result: Result, first: Mapping[str, int]) -> list[dict[str, Any]]:
    """Each group's units before and after; `first`: those before an earlier cut of the same run."""
    share = result.graph.share(result.graph.removed_units(result.plan))
    return [
        {
            "name": group.name,
            "kind": group.kind,
            "before": first.get(group.name, group.size),
            "after": round(group.size * float(share[list(group.families)].mean())),
        }
        for group in result.graph.groups
    ]
