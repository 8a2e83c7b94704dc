"""The commands of stages, such as podar prune: flags and recipe are derived from what the stage says of its options.

A stage's command carries out a recipe of the stage itself and of those that it names as following, where the command
line asks for them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import annotated_types
import typer
from pydantic.fields import FieldInfo

from podar.cli import options
from podar.cli.output import run_recipe
from podar.stages import Flag, Stage, stages

# What every stage's command takes, by the rank at which it stands in the help.
_RUN: tuple[tuple[float, str, Any, Any], ...] = (
    (0, "model", options.Model, inspect.Parameter.empty),
    (1.5, "data", options.Data, None),
    (4.5, "out", options.Out, None),
    (4.5, "weights", options.Weights, None),
    (4.5, "model_arg", options.ModelArg, None),
    (4.5, "module", options.Modules, None),
    (4.5, "trust", options.Trust, False),
    (5.5, "image_size", options.ImageSize, None),
    (7.5, "seed", options.Seed, 0),
    (7.5, "deterministic", options.Deterministic, False),
)


@dataclass(frozen=True)
class Typed:
    """An option of a stage as a parameter of a command."""

    stage: Stage
    option: str
    flag: Flag
    field: FieldInfo
    follows: bool = False  # another stage, whose command this is

    @property
    def asks(self) -> bool:
        """Whether it asks for its stage, which is left out where it is not given."""
        return self.follows and self.flag.asks is not None

    @property
    def key(self) -> str:
        """Its name among the command's parameters: an option that asks for its stage has one of its own."""
        return (self.flag.asks or "").strip("-").replace("-", "_") if self.asks else self.option

    @property
    def several(self) -> bool:
        """Whether it may be given more than once, or has several values."""
        return get_origin(self.field.annotation) in (tuple, dict)

    @property
    def switches_off(self) -> bool:
        return (self.flag.name or "").startswith("--no-")

    def parameter(self) -> inspect.Parameter:
        """What Typer makes a flag, or an argument, of."""
        plain = [kind for kind in get_args(self.field.annotation) or (self.field.annotation,) if kind is not NoneType]
        kind = (
            list[str] if self.several else plain[0] if plain[0] in (bool, int, float, str) and len(plain) == 1 else str
        )
        default: Any = None if self.several or self.asks else self.field.default
        told: dict[str, Any] = {"help": self.flag.help, "metavar": self.flag.metavar}
        if self.flag.choices is not None:
            told["autocompletion"] = _completion(self.flag.choices)
        if self.flag.argument:
            annotation: Any = Annotated[kind | None, typer.Argument(show_default=False, **told)]
            return parameter(self.key, annotation, default)
        if kind in (int, float):
            least = next((m.ge for m in self.field.metadata if isinstance(m, annotated_types.Ge)), None)
            told["min"] = self.flag.least if self.flag.least is not None else least
        own = self.flag.name or f"--{self.option.replace('_', '-')}"
        name = (self.flag.asks or own) if self.follows else own
        if kind is bool and default is None:  # neither is what happens where nothing is said
            both = f"{name}/--no-{name.removeprefix('--')}"
            return parameter(self.key, Annotated[bool | None, typer.Option(both, **told)], None)
        if kind is bool:
            return parameter(self.key, Annotated[bool, typer.Option(name, **told)], default != self.switches_off)
        return parameter(
            self.key, Annotated[kind if default is not None else kind | None, typer.Option(name, **told)], default
        )

    def value(self, typed: Any) -> Any:
        """The option's value from what was typed."""
        if self.several and typed is None:
            typed = []
        if self.flag.read is not None:
            return self.flag.read(typed)
        return typed != self.switches_off if isinstance(typed, bool) else typed


def names() -> list[str]:
    """The names of the stages that have a command."""
    return [name for name, stage in stages().items() if stage.command]


def command(name: str) -> Any:
    """The command of a stage; None where there is none."""
    stage = stages().get(name)
    if stage is None or not stage.command:
        return None
    maker = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
    maker.command(name, help=stage.command)(_callback(stage))
    return typer.main.get_command(maker)


def _callback(stage: Stage) -> Callable[..., None]:
    """The function of a command, with the signature from which Typer makes its flags."""
    parts = [stage, *(stages()[name] for name in stage.then)]
    each = {part.name: options_of(part, follows=part is not stage) for part in parts}
    typed = {option.key: option for part in reversed(parts) for option in each[part.name]}

    def callback(**given: Any) -> None:
        from podar.runs import recipe
        from podar.sources.naming import parse_model_args

        asked = []
        for part in parts:
            if any(option.asks and given[option.key] is None for option in each[part.name]):
                continue
            own = {option.option: option.value(given[key]) for key, option in typed.items() if option.stage is part}
            if (options := part.options.from_flags(own, given["data"])) is not None:
                asked.append({part.name: options})
        planned = {
            **{name: given[name] for name in ("model", "data", "weights", "image_size", "seed", "deterministic")},
            "modules": given["module"] or (),
            "model_args": parse_model_args(given["model_arg"] or ()),
            "stages": asked,
        }
        run_recipe(recipe.make(planned, of=f"podar {stage.name}"), given["out"], trust=given["trust"])

    run = [(rank, parameter(name, annotation, default)) for rank, name, annotation, default in _RUN]
    own = [
        (option.flag.rank, option.parameter())
        for part in parts
        for option in each[part.name]
        if typed[option.key] == option
    ]
    parameters = [parameter for _, parameter in sorted([*run, *own], key=lambda ranked: ranked[0])]
    callback.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    callback.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return callback


def options_of(stage: Stage, follows: bool = False) -> list[Typed]:
    """The options of a stage that stand on the command line. `follows`: of another stage, whose command it is."""
    found = []
    for name, field in stage.options.model_fields.items():
        flag = next((told for told in field.metadata if isinstance(told, Flag)), None)
        if flag is not None:
            found.append(Typed(stage, name, flag, field, follows))
    return found


def parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    """What Typer makes a flag of."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _completion(choices: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [name for name in choices() if name.startswith(incomplete)]

    return complete
