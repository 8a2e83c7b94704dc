"""What users write as MODEL and as its arguments: completed, parsed, and the nearest name where there is none.

It imports no torch, since shell completion waits for it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from podar.errors import PodarError, UsageError, check_known, did_you_mean, nearest
from podar.libraries import libraries, workshop_of
from podar.trust import user_code


def take_modules(files: Iterable[str | Path], of: str, trust: bool) -> None:
    """Run Python files with layers of the user's own that a file names: those named by --module were run already.

    **Raises:** `PodarError` for one that was not, without `trust`; `of` says what names it.
    """
    for file in files:
        if not user_code.is_taken(file):
            if not trust:
                raise PodarError(f"{of} needs the file {file}: add --module {file} if that file may be run.")
            user_code.take([file])


def parse_model_args(pairs: Iterable[str], option: str = "--model-arg ") -> dict[str, Any]:
    """Turn `["num_classes=10", "act=relu"]` into `{"num_classes": 10, "act": "relu"}`: Python literals, else text.

    **Raises:** `UsageError` where a pair has no name or no `=`.

    ```python
    >>> parse_model_args(["depths=(2, 2)", "pretrained=False", "act=relu"])
    {'depths': (2, 2), 'pretrained': False, 'act': 'relu'}

    ```
    """
    parsed: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"{option}{pair}: write name=value, for example num_classes=10.")
        try:
            parsed[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed[name] = value
    return parsed


def complete_model(incomplete: str) -> list[str]:
    """Every MODEL that begins so, for shell completion; what is not installed is passed over."""
    found: list[str] = []
    for library in libraries():
        try:
            found += [name for name in library.complete(incomplete) if name.startswith(incomplete)]
        except PodarError:
            continue
    return sorted(found)


def unknown(model: str) -> str:
    """What to say of a MODEL that is of no library."""
    path = Path(model).expanduser()
    if path.is_dir():
        return f"the folder {model} holds no pruned model: podar looks for plan.json and model.safetensors in it."
    if path.is_file():
        return f"{model} is no model: give a checkpoint as --weights beside the MODEL that it belongs to."
    prefix, colon, rest = model.partition(":")
    forms = [library.form for library in libraries()]
    prefixes = [form.partition(":")[0] for form in forms if ":" in form and "." not in form]
    if colon:
        return f"there is no kind of model {prefix!r}{did_you_mean(prefix, prefixes, '{}:' + rest)}"
    begun = (*(f"{known}:" for known in prefixes), model[:1])  # what a prefix stands before, and what has none
    names = {name.rpartition(":")[2]: name for beginning in begun for name in complete_model(beginning)}
    near = nearest(model, names)
    if near:
        return f"there is no model {model!r}; did you mean {names[near]}?"
    return f"there is no model or folder {model!r}: write one of {', '.join(forms)}."


def check_format(name: str, model: str) -> None:
    """Refuse a name that no export format of such a model bears, with the nearest that one does.

    **Raises:** `UsageError`.
    """
    formats = workshop_of(model).formats()
    check_known("export format", name, formats)
    if formats[name]:
        raise UsageError(f"{name} cannot be written here: {formats[name]}.")
