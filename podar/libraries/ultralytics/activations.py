"""Activations that a configuration may name: from a list, their arguments read as numbers, nothing evaluated."""

from __future__ import annotations

import ast
import math

from torch import nn

from podar.errors import PodarError, nearest

NAMES = tuple(
    "CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh Identity LeakyReLU LogSigmoid Mish PReLU ReLU ReLU6 RReLU "
    "SELU SiLU Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink Threshold".split()
)
_LONGEST = 200


def activation(text: object, of: str) -> nn.Module:
    """The activation that a configuration names: `nn.SiLU()`, `SiLU`, `torch.nn.LeakyReLU(0.1, inplace=True)`.

    **Arguments:** `of`: the file and the place in it, for messages.

    **Raises:** `PodarError` for anything but a name of `NAMES` with numbers, True, False or a short word as arguments.
    """
    name, args, kwargs = _parts(text, of)
    try:
        return getattr(nn, name)(*args, **kwargs)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PodarError(f"{of}: the activation {str(text)[:80]!r} cannot be made: {error}.") from error


def canonical(text: object, of: str) -> str:
    """The same activation as Ultralytics writes it, `nn.LeakyReLU(0.1)`: what its own parser makes of that is known.

    **Raises:** As `activation`.
    """
    name, args, kwargs = _parts(text, of)
    given = [repr(value) for value in args] + [f"{key}={value!r}" for key, value in kwargs.items()]
    return f"nn.{name}({', '.join(given)})"


def _parts(text: object, of: str) -> tuple[str, list[object], dict[str, object]]:
    if not isinstance(text, str) or len(text) > _LONGEST:
        raise PodarError(f"{of}: its activation is {str(text)[:80]!r}: name one of torch.nn, such as nn.SiLU().")
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _refused(text, of) from None
    call = node if isinstance(node, ast.Call) else None
    name = ast.unparse(call.func if call else node).removeprefix("torch.").removeprefix("nn.")
    if name not in NAMES:
        near = nearest(name, NAMES) if name.isidentifier() else None
        if near:
            raise PodarError(f"{of}: there is no activation {text!r}; did you mean nn.{near}()?")
        raise _refused(text, of)
    args = [_plain(value, text, of) for value in call.args] if call else []
    kwargs = {key.arg or "": _plain(key.value, text, of) for key in call.keywords} if call else {}
    if "" in kwargs:
        raise _refused(text, of)
    return name, args, kwargs


def _plain(node: ast.expr, text: str, of: str) -> object:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise _refused(text, of) from None
    if isinstance(value, (int, float)) and abs(value) <= 1e6 and math.isfinite(value):
        return value
    if isinstance(value, str) and value in ("none", "tanh"):  # GELU's
        return value
    raise _refused(text, of)


def _refused(text: object, of: str) -> PodarError:
    return PodarError(
        f"{of}: its activation {str(text)[:80]!r} is none that podar knows, and nothing of a file is run as Python: "
        "name one of torch.nn with numbers as its arguments, such as nn.SiLU() or nn.LeakyReLU(0.1)."
    )
