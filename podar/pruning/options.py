"""The options of a cut, each declared once: Python, recipes and the command line all read them here."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, NamedTuple, ParamSpec, TypeVar, get_type_hints

from podar.errors import UsageError, nearest
from podar.model.patterns import patterns

AUTO = "auto"
"""Widths that runtimes like, since they pad others to them: multiples of 8 of at least 16 units, of 4 below."""

SCOPES = ("global", "local", "isomorphic", "error")

RECONSTRUCTION = "reconstruction"
"""The criterion that weighs units by what their consumers lose after the best repair: `podar.compensation.worth`."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Option:
    """What recipes and the command line are told of one option.

    **Attributes:**

    - `help`: one sentence (and its default, where that is not plain).
    - `written`: the type of its value in a recipe; None where only Python can give it.
    - `metavar`: what stands for its value in the command's help.
    - `names`: the names that it may take, where those are known: for completion and for "did you mean".
    """

    help: str
    written: Any = None
    metavar: str | None = None
    names: Callable[[], Iterable[str]] | None = None


def _criteria() -> Iterable[str]:
    from podar.criteria import CRITERIA  # it imports torch, for which the completion of other options must not wait

    return (*CRITERIA, RECONSTRUCTION)


def _scopes() -> Iterable[str]:
    return SCOPES


@dataclass(frozen=True)
class Options:
    """How a model is to be cut, beside the target: `podar.prune(model, x, "macs=0.5", options=Options(depth=True))`.

    `podar.prune` describes every field. An option of another form is refused here, before anything is run.

    **Raises:** `UsageError`: a value that makes no sense.
    """

    importance: Annotated[
        str | Callable[..., Any] | None,
        Option(
            "What a channel's worth is judged by. Default: magnitude; with --data reconstruction, on YOLO taylor.",
            str,
            names=_criteria,
        ),
    ] = None
    scope: Annotated[
        str | None,
        Option(
            f"Who competes: {', '.join(SCOPES[:-1])} or {SCOPES[-1]}. Default: {SCOPES[0]}, of reconstruction error.",
            str,
            names=_scopes,
        ),
    ] = None
    ratios: Annotated[
        Mapping[str, float] | None,
        Option("A fraction to keep of one layer (patterns work).", dict[str, float], "LAYER=KEPT"),
    ] = None
    protect: Annotated[str | Iterable[str], Option("A layer that stays as it is.", tuple[str, ...], "PATTERN")] = ()
    only: Annotated[str | Iterable[str], Option("Only this part may be cut.", tuple[str, ...], "PATTERN")] = ()
    multiple_of: Annotated[
        int | str,
        Option(
            "Round widths to multiples of this. auto, for targets of cost: 8 from 16 units on, 4 below.",
            int | Literal["auto"],
            "N",
        ),
    ] = AUTO
    widths: Annotated[int, Option("What auto rounds to from twice as many units on, half of it below.")] = 8
    data: Annotated[Any, Option("Batches of (inputs, targets), for criteria that need them.")] = None
    loss: Annotated[Any, Option("`loss(outputs, targets)`, for criteria that need it.")] = None
    outputs: Annotated[
        str | Iterable[str] | Callable[[str], bool] | None,
        Option("An output that must keep its shape (0, logits). Default: all.", tuple[str, ...], "PATH"),
    ] = None
    verify: Annotated[bool, Option("Trace the result and compare it with the plan.")] = True
    depth: Annotated[bool, Option("Whole residual blocks may go too, each weighed like one more unit.", bool)] = False
    compensate: Annotated[
        bool | None,
        Option("Solve what stays anew from the inputs. Default: where data are given.", bool),
    ] = None
    runtime: Annotated[
        str | None,
        Option("The runtime that latency is measured in. Default: the table's, else onnxruntime.", str),
    ] = None
    threads: Annotated[int, Option("On how many threads latency is measured.")] = 1
    table: Annotated[
        str | os.PathLike[str] | None,
        Option("Layers measured on another device (podar profile).", str, "FILE"),
    ] = None

    @property
    def by_reconstruction(self) -> bool:
        """Whether units go by what their consumers lose: by request, or since there are inputs and no criterion."""
        return self.importance == RECONSTRUCTION or (self.importance is None and self.data is not None)

    @property
    def compensated(self) -> bool:
        """Whether what stays is solved anew."""
        return self.data is not None if self.compensate is None else self.compensate

    def __post_init__(self) -> None:
        if self.compensate and self.data is None:
            raise UsageError("compensate=True solves the weights that stay from inputs: give some as data=")
        if self.importance == RECONSTRUCTION and self.data is None:
            raise UsageError("importance='reconstruction' measures what is lost on inputs: give some as data=")
        if self.scope is not None and self.scope not in SCOPES:
            close = nearest(str(self.scope), SCOPES)
            hint = f"did you mean {close!r}? " if close else ""
            raise UsageError(f"no scope is named {self.scope!r}; {hint}known: {', '.join(SCOPES)}")
        if self.multiple_of != AUTO and (type(self.multiple_of) is not int or self.multiple_of < 1):
            raise UsageError(f"multiple_of is {self.multiple_of!r}; give a whole number of at least 1, or {AUTO}")
        if type(self.widths) is not int or self.widths < 1:
            raise UsageError(
                f"widths is {self.widths!r}; give the multiple that runtimes like, a whole number from 1 up"
            )
        if type(self.threads) is not int or self.threads < 1:
            raise UsageError(f"threads is {self.threads!r}; give a whole number from 1 up")
        for pattern, kept in (self.ratios or {}).items():
            if not isinstance(kept, (int, float)) or not 0 < kept <= 1:
                raise UsageError(f"ratios[{pattern!r}] is {kept!r}; give the fraction kept, above 0 and at most 1")
        settled = {"ratios": dict(self.ratios or {}), "protect": patterns(self.protect), "only": patterns(self.only)}
        if self.outputs is not None and not callable(self.outputs):
            settled["outputs"] = patterns(self.outputs)
        for name, value in settled.items():
            object.__setattr__(self, name, value)


class RecipeOption(NamedTuple):
    """One option as recipes and the command line have it."""

    type: Any
    default: Any
    told: Option


def recipe_options() -> dict[str, RecipeOption]:
    """The options that a recipe and the command line take, by name: `pruning.Options` without what Python alone gives.

    ```python
    >>> recipe_options()["depth"].default, "data" in recipe_options()
    (False, False)

    ```
    """
    hints = get_type_hints(Options, include_extras=True)
    told = {field.name: (hints[field.name].__metadata__[0], field.default) for field in fields(Options)}
    return {
        name: RecipeOption(own.written, default, own)
        for name, (own, default) in told.items()
        if own.written is not None
    }


def gathered(options: Options | None, given: Mapping[str, Any]) -> Options:
    """One object of the options in it and those that were given one by one beside it.

    **Raises:** `UsageError`: the two say different things of one option, or a value makes no sense.
    """
    if options is None:
        return Options(**given)
    both, usual = replace(options, **given), Options()
    for name in given:
        inside = getattr(options, name)
        if not _same(inside, getattr(usual, name)) and not _same(inside, getattr(both, name)):
            raise UsageError(f"{name} is given twice: as {name}={given[name]!r} and in options, as {inside!r}")
    return both


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and bool(one == other))


def takes_options(verb: Callable[P, R]) -> Callable[P, R]:
    """Let a verb be called with options one by one, with `options=Options(...)`, or both; it gets one object."""
    signature = inspect.signature(verb)
    own = {field.name for field in fields(Options)} & signature.parameters.keys()

    @functools.wraps(verb)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        found: dict[str, Any] = signature.bind(*args, **kwargs).arguments
        one_by_one = {name: found.pop(name) for name in [*found] if name in own}
        found["options"] = gathered(found.get("options"), one_by_one)
        return verb(**found)  # pyright: ignore[reportCallIssue]

    return called
