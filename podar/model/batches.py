"""Reads data batch by batch: one reader for every room, whatever people hand over as `data` (docs/data.md).

What is read is one tensor or numpy array (its first axis is the batch), an iterable of batches, one dict of keyword
arguments, a data set of samples, or an object with `.train`, whose training part counts. A batch is the inputs alone,
or a pair of inputs and targets. Inputs are a tensor, a tuple or list of arguments, or a dict of keyword arguments.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from podar.errors import PodarError
from podar.model.modes import modes_put_back
from podar.model.tensors import map_tensors, named_tensors, tensors_in, to_device
from podar.model.wrappers import unwrapped

TARGETS = ("target", "label", "truth", "annotation")
"""Parts of the names that people give to targets among the arguments of a forward."""


@dataclass(frozen=True)
class Batch:
    """What a model is given at once, and what it should answer (None where the data do not say)."""

    inputs: Any
    targets: Any = None


def labelled(data: Any, what: str, limit: int | None = None, batch_size: int = 64) -> Iterator[Batch]:
    """Batches from which a loss is computed: each must be a pair, whose second part is the targets.

    **Arguments:** `data`: see the top of this file. `what`: who asks, for messages. `limit`: how many batches are read.

    **Raises:** `PodarError` where there is no batch, a batch is no pair, or inputs are not finite.
    """
    for batch in _checked(_raw(data, what, batch_size), what, limit):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise PodarError(
                f"{what} needs (inputs, targets), the data give {_described(batch)}: where a model takes several "
                "inputs, write ((first, second), targets)"
            )
        yield _finite(Batch(batch[0], batch[1]), what)


def read(data: Any, model: nn.Module, what: str, limit: int | None = None, batch_size: int = 64) -> Iterator[Batch]:
    """Batches whose targets are not needed. Where a batch is a tuple, the model's own signature says what is an input.

    Where the signature does not tell, the model is tried once. The first batch is read, and the model perhaps run,
    before this returns, so that whoever registers hooks afterwards does not see that run.

    **Raises:** `PodarError` where there is no batch, inputs are not finite, or it cannot be known what a part is.
    """
    takes = _Taken(model)
    batches = _checked(_raw(data, what, batch_size), what, limit)
    first = _finite(_divided(next(batches), takes, what), what)
    return chain([first], (_finite(_divided(batch, takes, what), what) for batch in batches))


def supervised(
    data: Any, model: nn.Module, what: str, limit: int | None = None, batch_size: int = 64, *, whole: bool = False
) -> Iterator[Batch]:
    """Batches for a loss of the caller's own: with targets of any kind where a batch holds some, else None.

    A pair is (inputs, targets). Of a longer tuple, and of a pair for a model that needs two inputs, the model's own
    signature says what is an input, as for `read`. Of a dict, targets are what the forward has no place for, and what
    is called `label`, `target`, …; one is given as it is, several as a dict.

    **Arguments:** as of `read`. `whole`: the model computes its loss itself, so it is given everything that its forward
    takes, targets included; of a tuple that is every part, and the last part is the targets.

    **Raises:** `PodarError` where there is no batch, inputs are not finite, or it cannot be known what a part is.
    """
    takes = _Taken(model)
    for batch in _checked(_raw(data, what, batch_size), what, limit):
        yield _finite(_apart(batch, takes, what, whole), what)


def inputs_of(data: Any, model: nn.Module, what: str, limit: int | None = None, batch_size: int = 64) -> Iterator[Any]:
    """The inputs that `read` finds, without targets."""
    return (batch.inputs for batch in read(data, model, what, limit, batch_size))


def run(model: nn.Module, inputs: Any) -> Any:
    """Run the model on the inputs of a batch, on the model's device.

    A dict goes in as keyword arguments. A tuple or list goes in as arguments where the model takes so many, and as one
    argument where it takes one, or says of its first that it is a list or a tuple.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    inputs = to_device(inputs, device)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if _spread(inputs) and not _Taken(model).whole(inputs):
        return model(*inputs)
    return model(inputs)


def size(batch: Any) -> int:
    """How many samples a nested container of tensors holds: the length of the first axis of its first tensor.

    **Raises:** `PodarError` where it holds no tensor with an axis.
    """
    for tensor in tensors_in(batch):
        if tensor.dim():
            return len(tensor)
    raise PodarError("a batch holds no tensor with an axis for its samples")


def rows(batch: Any, start: int, stop: int, count: int) -> Any:
    """Some samples of a batch of `count`: every tensor is cut along its first axis; numbers without axes stay.

    **Raises:** `PodarError` where a tensor's first axis is not the batch.
    """
    for path, tensor in named_tensors(batch, fields=True):
        if tensor.dim() and len(tensor) != count:
            where = f" {path}" if path else ""
            raise PodarError(
                f"a batch of {count} samples cannot be divided: its tensor{where} has the shape {tuple(tensor.shape)}, "
                "and the first axis must be the batch"
            )
    if isinstance(batch, Batch) and hasattr(batch.targets, "to") and not isinstance(batch.targets, Tensor):
        return Batch(rows(batch.inputs, start, stop, count), batch.targets[start:stop])  # it can slice itself
    return map_tensors(lambda tensor: tensor[start:stop] if tensor.dim() else tensor, batch)


def samples_of(data: Any) -> Any | None:
    """`data` where single samples can be taken from it by their numbers (a tensor, a data set); None otherwise."""
    if isinstance(data, np.ndarray):
        return torch.from_numpy(data)
    if isinstance(data, (list, tuple, str, bytes, Mapping)):
        return None
    return data if hasattr(data, "__getitem__") and hasattr(data, "__len__") else None


def collated(samples: Any, places: Sequence[int]) -> Any:
    """The batch of some samples of what `samples_of` gave."""
    if isinstance(samples, Tensor):
        return samples[torch.as_tensor(places)]
    if callable(getattr(samples, "batch", None)):  # podar's own splits read whole batches, many times faster
        found = samples.batch(torch.as_tensor(places))
        return found if getattr(samples, "labelled", True) else found[0]
    return torch.utils.data.default_collate([samples[int(place)] for place in places])


def training_part(data: Any) -> Any:
    """The training part of an object that has one; any other object as it is (the `train` of a module is a method)."""
    if isinstance(data, Mapping):
        return data["train"] if "train" in data and not isinstance(data["train"], Tensor) else data
    train = getattr(data, "train", None)
    return data if train is None or callable(train) else train


def validation_part(data: Any) -> Any | None:
    """The validation part of an object that has one as well as a training part, or of a dict of such parts; or None."""
    if isinstance(data, Mapping):
        parts = data if "train" in data and not isinstance(data["train"], Tensor) else {}
        return next((parts[name] for name in ("validation", "val", "valid") if name in parts), None)
    return getattr(data, "validation", None) if training_part(data) is not data else None


def _raw(data: Any, what: str, batch_size: int) -> Iterator[Any]:
    """Batches as the data give them."""
    data = training_part(data)
    samples = samples_of(data)
    if samples is not None:
        count = len(samples)
        return (collated(samples, range(k, min(k + batch_size, count))) for k in range(0, count, batch_size))
    if isinstance(data, Mapping):
        return iter([data])
    if data is None or isinstance(data, (str, bytes, nn.Module)) or not hasattr(data, "__iter__"):
        got = "none" if data is None else f"a {type(data).__name__}"
        raise PodarError(
            f"{what} needs data, and got {got}: pass data=, a tensor of inputs or an iterable of batches; "
            "podar.data.load(...) makes them"
        )
    return iter(data)


def _checked(batches: Iterator[Any], what: str, limit: int | None) -> Iterator[Any]:
    """Up to `limit` batches, and an error where there is none."""
    count = 0
    for batch in islice(batches, limit):
        count += 1
        yield batch
    if not count:
        raise PodarError(f"{what} got data without a single batch")


def _finite(batch: Batch, what: str) -> Batch:
    """Refuse NaN and infinite inputs: every statistic computed from them would be NaN too."""
    for tensor in tensors_in(batch.inputs):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise PodarError(
                f"the data for {what} hold {bad} NaN or infinite values in a batch of shape "
                f"{tuple(tensor.shape)}: repair or drop those samples"
            )
    return batch


def _described(batch: Any) -> str:
    """A batch as messages describe it: a tuple by its length, everything else by its kind."""
    return f"a {type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__


class _Taken:
    """How many arguments a model's forward takes: at least, at most, their names, and whether the first is a list."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.tried = model, dict[str, bool]()
        self.least, self.most, self.names, self.takes_list = 0, math.inf, list[str](), False
        self.keywords: set[str] | None = None  # any name
        try:
            parameters = list(inspect.signature(unwrapped(model).forward).parameters.values())
        except (TypeError, ValueError):  # compiled code does not tell: it may take any number
            return
        places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self.names = [p.name for p in places]
        self.least = sum(p.default is p.empty for p in places)
        if all(p.kind is not p.VAR_POSITIONAL for p in parameters):
            self.most = len(places)
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            self.keywords = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
        self.takes_list = bool(places) and _says_list(places[0].annotation)

    def whole(self, items: Any) -> bool:
        """Whether the items of a tuple or list are one argument of this model, not one each."""
        return not _spread(items[0]) if self.takes_list and items else len(items) > self.most

    def fits(self, count: int) -> bool:
        """Whether the model takes so many arguments."""
        return self.least <= count <= self.most

    def runs(self, inputs: Any, which: str) -> bool:
        """Whether the model in eval mode takes these inputs; tried once for each kind of answer that is asked for."""
        if which not in self.tried:
            self.tried[which] = _runs(self.model, inputs)
        return self.tried[which]


def _says_list(annotation: Any) -> bool:
    """Whether a type, or its text, is that of a list, a tuple or another sequence."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return text.partition("[")[0].rpartition(".")[2].lower() in ("list", "tuple", "sequence", "iterable")


def _spread(inputs: Any) -> bool:
    """Whether this is a tuple or list, whose items may be arguments (a packed sequence is one thing)."""
    return isinstance(inputs, (tuple, list)) and not isinstance(inputs, nn.utils.rnn.PackedSequence)


def _apart(batch: Any, takes: _Taken, what: str, whole: bool) -> Batch:
    """What of a batch goes into the model, and what are the targets of a loss."""
    if isinstance(batch, Mapping):
        rest = {name: value for name, value in batch.items() if takes.keywords and name not in takes.keywords}
        targets = {name: value for name, value in batch.items() if name in rest or _says_target(name)}
        inputs = {name: value for name, value in batch.items() if name not in rest}
        if not takes.keywords or len(targets) < len(batch):
            return Batch(inputs, next(iter(targets.values())) if len(targets) == 1 else targets or None)
        return Batch(batch)
    if not _spread(batch) or len(batch) < 2 or (takes.takes_list and takes.whole(batch)):
        return _divided(batch, takes, what)
    if whole:
        return Batch(batch, batch[-1])
    if len(batch) == 2 and (takes.least < 2 or isinstance(batch[0], Mapping) or _spread(batch[0])):
        return Batch(batch[0], batch[1])
    return _divided(batch, takes, what)


def _says_target(name: Any) -> bool:
    return any(word in str(name).lower() for word in TARGETS)


def _divided(batch: Any, takes: _Taken, what: str) -> Batch:
    """What of a batch goes into the model, and what are targets."""
    if not _spread(batch) or (takes.takes_list and takes.whole(batch)):
        return Batch(batch)
    if len(batch) == 1:
        return Batch(batch[0])
    first = batch[0]
    if isinstance(first, Mapping) or (_spread(first) and _holds_all_inputs(batch, takes)):
        rest = tuple(batch[1:])
        return Batch(first, rest[0] if len(rest) == 1 else rest)
    if len(batch) <= takes.least:
        return Batch(batch)
    if len(batch) > takes.most or len(batch) > 2:
        return _leading(batch, takes, what)
    return _pair(batch, takes, what)


def _holds_all_inputs(batch: Any, takes: _Taken) -> bool:
    """Whether the first part of a batch, a tuple or list, is all that the model takes, so that the rest are targets."""
    if not (takes.fits(len(batch[0])) or takes.whole(batch[0])):
        return False
    return not takes.fits(len(batch)) or takes.runs(batch[0], "first") or not takes.runs(batch, "whole")


def _leading(batch: Any, takes: _Taken, what: str) -> Batch:
    """Divide a batch with more parts than the model needs: as many as it takes are inputs, if that is certain."""
    if takes.least == takes.most or len(batch) == takes.most + 1:
        count = int(takes.most)
        inputs = batch[0] if count == 1 else batch[:count]
        rest = batch[count:]
        return Batch(inputs, rest[0] if len(rest) == 1 else rest)
    raise PodarError(
        f"{what} cannot know which of the {len(batch)} parts of a batch the model takes (it takes {takes.least} to "
        f"{takes.most}): write ((first, second), targets)"
    )


def _pair(batch: Any, takes: _Taken, what: str) -> Batch:
    """Divide a pair for a model that needs one input and may take a second: the second part is targets or an input."""
    first, second = batch
    name = takes.names[1].lower() if len(takes.names) > 1 else ""
    if second is None or isinstance(second, (Mapping, str, int, float)) or _says_target(name):
        return Batch(first, second)
    if name == "y" or any(isinstance(item, Mapping) for item in (second if _spread(second) else ())):
        return Batch(first, second)
    if isinstance(second, Tensor) and second.dim() <= 1 and not second.is_floating_point():
        return Batch(first, second)  # class numbers
    if not takes.runs(batch, "whole"):
        return Batch(first, second)
    if isinstance(second, Tensor) and not second.is_floating_point():
        raise PodarError(
            f"{what} cannot know whether the second part of a batch is an input or a target, since the model may take "
            f"it as {name or 'an argument'}: give the inputs alone, or a dict of them, or ((first, second), targets)"
        )
    return Batch(batch)


@torch.no_grad()
def _runs(model: nn.Module, inputs: Any) -> bool:
    """Whether the model in eval mode takes these inputs."""
    try:
        with modes_put_back(model), torch.random.fork_rng(devices=[]):
            model.eval()
            run(model, inputs)
    except Exception:  # any error of any model says the same: not these inputs
        return False
    return True
