"""The two errors that podar raises, optional packages, and words for messages."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable
from types import ModuleType

QUOTED = "'{}'"
"""How `did_you_mean` writes a name that stands in quotes, as in Python."""


class PodarError(ValueError):
    """Something could not be done. The message is one sentence: what was wrong, where, and what to do."""

    exit_code = 1


class UsageError(PodarError):
    """The caller asked for something that makes no sense, such as a target of 1.5."""

    exit_code = 2


def require(module: str, extra: str) -> ModuleType:
    """Import an optional package, or say how to install it.

    **Arguments:**

    - `module`: the import name, e.g. `"onnxruntime"`.
    - `extra`: podar's extra that brings it, e.g. `"onnx"`.

    **Returns:** The module.

    **Raises:** `PodarError` when the package is missing, or installed and broken.

    ```python
    >>> require("json", extra="none").loads("[1]")
    [1]

    ```
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise PodarError(missing_package((error.name or module).partition(".")[0], extra)) from error
    except (ImportError, OSError, RuntimeError) as error:
        reason = first_line(error)
        raise PodarError(
            f"the package {module} is installed but cannot be imported ({reason}): "
            f'reinstall it with pip install --force-reinstall "podar[{extra}]".'
        ) from error


def missing_package(package: str, extra: str) -> str:
    """The sentence for an optional package that is not installed, with podar's extra that brings it.

    ```python
    >>> missing_package("timm", "timm")
    'this needs the package timm, which is not installed: run pip install "podar[timm]".'

    ```
    """
    return f'this needs the package {package}, which is not installed: run pip install "podar[{extra}]".'


def absence(package: str, extra: str) -> str:
    """The same sentence where the package is not installed; "" where it is, or none is named. Nothing is imported.

    ```python
    >>> absence("json", "none")
    ''

    ```
    """
    return "" if not package or importlib.util.find_spec(package) is not None else missing_package(package, extra)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice most like `word`, or None where nothing comes near. Case does not count.

    ```python
    >>> nearest("resnet81", ["resnet18", "vit_b_16"])
    'resnet18'

    ```
    """
    by_lowercase = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(word.lower(), by_lowercase, n=1, cutoff=0.6)
    return by_lowercase[matches[0]] if matches else None


def did_you_mean(word: str, choices: Iterable[str], form: str = "{}", *, list_all: bool = False) -> str:
    """How a sentence about an unknown word ends: with the choice most like it, where one comes near.

    **Arguments:**

    - `form`: what is written around the choice, such as `"timm:{}"`, or `QUOTED`.
    - `list_all`: where no choice comes near, all of them are listed.

    ```python
    >>> "there is no scope 'globl'" + did_you_mean("globl", ["global", "local"])
    "there is no scope 'globl'; did you mean global?"

    ```
    """
    choices = list(choices)
    near = nearest(word, choices)
    if near is not None:
        return f"; did you mean {form.replace('{}', near)}?"
    return f"; known: {', '.join(choices)}." if list_all and choices else "."


def check_known(what: str, name: str, choices: Iterable[str], form: str = "{}") -> None:
    """Refuse a name that is none of `choices`.

    **Arguments:** `what`: what is named so, for the message. `form`: as of `did_you_mean`.

    **Raises:** `UsageError` with the nearest of the choices, or with all of them.
    """
    choices = list(choices)
    if name not in choices:
        raise UsageError(f"there is no {what} {name!r}{did_you_mean(name, choices, form, list_all=True)}")


def first_line(error: BaseException) -> str:
    """An error in a few words, for a sentence: its first line, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def sizes(shape: Iterable[object]) -> str:
    """A shape for a sentence.

    ```python
    >>> sizes((1, 3, 224, 224))
    '1×3×224×224'

    ```
    """
    return "×".join(map(str, shape)) or "a scalar"
