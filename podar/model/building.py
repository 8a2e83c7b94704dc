"""Calls somebody else's constructor with the user's arguments; what fails is said in one sentence."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from podar.errors import PodarError, did_you_mean
from podar.model.bounds import within_memory


def call_builder(builder: Callable[..., Any], model_args: dict[str, Any], of: str) -> nn.Module:
    """Build a model, the same one every time: random weights come from seed 0, and the caller's random state stays.

    **Arguments:** `builder`: called as `builder(**model_args)`; `model_args`: what the user gave; `of`: the MODEL
    string, for messages.

    **Returns:** The model, in eval mode.

    **Raises:** `PodarError` when the arguments do not fit, the builder fails, what it returns is no model, or the
    model would be larger than this machine's memory.
    """
    given = ", ".join(f"{key}={value!r}" for key, value in model_args.items())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            with within_memory(of):
                model = builder(**model_args)
        except PodarError:
            raise
        except Exception as error:
            what = f"{of} cannot be built{f' with {given}' if given else ''}"
            raise PodarError(f"{what}: {_reason(builder, error)}") from error
    if not isinstance(model, nn.Module):
        raise PodarError(f"{of} returned {type(model).__name__} instead of a torch.nn.Module.")
    return model.eval()


def _reason(builder: Callable[..., Any], error: Exception) -> str:
    message = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
    missing = re.search(r"missing \d+ required .*?argument.*?: '(\w+)'", message)
    if isinstance(error, TypeError) and missing:
        return f"it needs the argument {missing[1]}: add --model-arg {missing[1]}=VALUE."
    unknown = message.rpartition("unexpected keyword argument ")[2].split("'")[1:2]
    if not isinstance(error, TypeError) or not unknown:
        return f"{message}."
    names = [p.name for p in inspect.signature(builder).parameters.values() if p.kind is not p.VAR_KEYWORD]
    names.append("num_classes")  # most builders take it among their **kwargs
    return f"it knows no argument {unknown[0]!r}{did_you_mean(unknown[0], names)}"
