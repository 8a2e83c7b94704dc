"""A folder that podar saved: model.safetensors, plan.json, and source.json, which names the dense architecture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from podar.errors import PodarError
from podar.libraries.register import find_library, library, workshop_of
from podar.trust import user_code
from podar.trust.plain import Unreadable, read_json

if TYPE_CHECKING:
    from torch import nn

    from podar.workshops import Source, Workshop

FORM = "FOLDER"
SOURCE = "source.json"
_SLACK, _SHARE = 1 << 30, 100  # bytes that a dense model may take: so many, and so many for each of the file
_FETCHING = ("pretrained", "weights", "weights_backbone", "checkpoint_path")  # the weights lie in the folder


class _Spec(BaseModel):
    """What source.json holds."""

    model_config = ConfigDict(extra="ignore", strict=True)
    model: str = Field(min_length=1, max_length=4096)
    model_args: dict[str, Any] = {}
    modules: list[str] = []


def is_saved(folder: str | Path) -> bool:
    """Whether a folder holds what `podar.save` writes."""
    folder = Path(folder).expanduser()
    return (folder / "plan.json").is_file() and (folder / "model.safetensors").is_file()


def _complete(incomplete: str) -> list[str]:
    beginning = Path(incomplete or "./")
    folder = beginning if not incomplete or incomplete.endswith("/") else beginning.parent
    if not folder.is_dir():
        return []
    return [str(p) for p in sorted(folder.iterdir()) if p.is_dir() and is_saved(p) and str(p).startswith(incomplete)]


def _workshop(model: str) -> Workshop:
    """That of the dense architecture's library; podar's own where the folder names none, which opening it will say."""
    try:
        named = _read(Path(model).expanduser()).model
    except PodarError:
        named = ""
    return workshop_of("" if is_saved(named) else named)


@library(FORM, help="a folder that podar saved", accepts=is_saved, complete=_complete, workshop=_workshop, on_disk=True)
def open_model(model: str, model_args: dict[str, Any], trust: bool) -> Source:
    """A pruned model: the dense architecture that source.json names, with the folder's plan and weights.

    A source.json that names a Python file needs `trust`, since opening a folder is no consent to run a program.

    **Raises:** `PodarError` where source.json is missing or damaged, or names what is no longer there.
    """
    folder = Path(model).expanduser().resolve()
    if model_args:
        raise PodarError(f"{model} holds a pruned model as it is, so --model-arg has no meaning here.")
    spec = _read(folder)
    found = find_library(spec.model)
    if found is None or found.form == FORM:
        raise PodarError(f"{folder / SOURCE} names the model {spec.model[:200]!r}, which podar does not find.")
    if found.runs_code and not trust:
        raise PodarError(
            f"{model} was made from {spec.model}, and building it runs that file: add --trust if that is right."
        )
    for file in spec.modules:
        if not user_code.is_taken(file):
            if not trust:
                raise PodarError(f"{folder / SOURCE} needs {file}: add --module {file} if that file may be run.")
            user_code.take([file])
    given = {key: value for key, value in spec.model_args.items() if key not in _FETCHING}
    unpruned = found.opened(spec.model, given, trust)

    from podar.model.bounds import within_memory
    from podar.plans.saving import load

    # What the folder names may be anything: a pruned model is no hundredth of its dense one.
    most = _SLACK + _SHARE * (folder / "model.safetensors").stat().st_size

    def dense() -> nn.Module:
        with within_memory(model, most):
            return unpruned.dense()

    return unpruned.replaced(called=model, make=lambda: load(folder, dense).eval(), notes=())


def _read(folder: Path) -> _Spec:
    path = folder / SOURCE
    if not path.is_file():
        raise PodarError(
            f"{folder} holds no {SOURCE}, so podar does not know its architecture: give that as MODEL and the folder "
            "as --weights, or load it in Python with podar.load(folder, build)."
        )
    try:
        return _Spec.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise PodarError(f"{path} is damaged ({place}: {first['msg'][:100]}).") from error
    except Unreadable as error:
        raise PodarError(f"{path} is damaged ({error}).") from error
