"""Samples for calibrating and judging: whatever podar reads as data, as a model file takes it, by its inputs' names."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from podar.errors import PodarError
from podar.model.batches import Batch, collated, read, rows, samples_of, size
from podar.model.tensors import map_tensors
from podar.recover.losses import check_targets
from podar.runtimes import Port
from podar.runtimes.file_inputs import matched

CALIBRATED = 128  # samples whose ranges are measured: more move them little
JUDGED = 1000  # samples on which answers are compared
_AT_ONCE = 16
_FEW = 32  # below this many it is said


@dataclass(frozen=True)
class Samples:
    """Inputs of a model file.

    - `feeds`: small batches, each by the names of the file's inputs; `count`: samples in all of them.
    - `labels`: class numbers [count]; None where the data have none.
    - `fixed`: whether the file takes only so many samples at once as a batch holds.
    """

    feeds: tuple[dict[str, np.ndarray], ...]
    count: int
    labels: np.ndarray | None = None
    fixed: bool = False

    @property
    def first(self) -> dict[str, np.ndarray]:
        """One sample, or as many as the file takes at once where that number is fixed."""
        feed = self.feeds[0]
        return feed if self.fixed else {name: array[:1] for name, array in feed.items()}

    def part(self, count: int) -> Samples:
        """The first samples, in whole batches."""
        taken, feeds = 0, []
        for feed in self.feeds:
            if taken >= count:
                break
            feeds.append(feed)
            taken += _rows(feed)
        return Samples(tuple(feeds), taken, None if self.labels is None else self.labels[:taken], self.fixed)


def parts(data: Any) -> tuple[Any, Any]:
    """What ranges are measured on, and what answers are judged on: training and test data where both are there."""
    if isinstance(data, str):
        from podar.data import load

        data = load(data)
    if hasattr(data, "__next__"):  # it can be read once, and is read several times
        data = list(islice(data, JUDGED))
    if isinstance(data, Mapping):
        found = [data.get(name) for name in ("train", "test")]
    else:
        found = [getattr(data, name, None) for name in ("train", "test")]
    if any(part is None or callable(part) or isinstance(part, Tensor) for part in found):
        return data, None
    return found[0], found[1]


def gather(
    data: Any, model: nn.Module, inputs: Sequence[Port], called: str, limit: int, what: str = "quantization"
) -> tuple[Samples, list[str]]:
    """Samples from all over the data, at most `limit` of them, and what is to be said of them.

    **Arguments:** `model`: tells what of a batch goes into it. `inputs`: of the model file that `called` names.

    **Raises:** `PodarError` where there are none, they do not fit the file, or are not finite.
    """
    fixed = _fixed(inputs)
    feeds: list[dict[str, np.ndarray]] = []
    labels: list[np.ndarray] = []
    notes: list[str] = []
    count = 0
    for batch in read(_spread(data, limit), model, what):
        in_batch = size(batch.inputs)
        step = fixed or _AT_ONCE
        known = _classes(batch, notes)
        if known is not None and len(known) != in_batch:
            raise PodarError(f"a batch of the data holds {in_batch} samples and {len(known)} labels: give one each.")
        for start in range(0, in_batch, step):
            if count >= limit or (fixed and start + step > in_batch):
                break
            stop = min(start + step, in_batch)
            part = rows(batch.inputs, start, stop, in_batch)
            feeds.append(matched(called, inputs, _by_place(part), advice="; give data of the file's shape"))
            count += stop - start
            if known is not None:
                labels.append(known[start:stop])
        if count >= limit:
            break
    if not feeds:
        raise PodarError(f"{called} takes {fixed} samples at once, and no batch of the data holds so many.")
    every = np.concatenate(labels) if labels and sum(map(len, labels)) == count else None
    return Samples(tuple(feeds), count, every, bool(fixed)), notes


def check_telling(samples: Samples) -> list[str]:
    """Refuse samples whose ranges say nothing of others; what is to be said where there are few.

    **Raises:** `PodarError` for one sample, the same one again and again, or constant inputs.
    """
    for name in samples.feeds[0]:
        arrays = [feed[name] for feed in samples.feeds]
        if arrays[0].dtype.kind == "f" and min(map(np.min, arrays)) == max(map(np.max, arrays)):
            raise PodarError(
                f"the data for quantization are constant (every value of {name} is {arrays[0].flat[0]:g}), so no range "
                "can be measured: give real inputs."
            )
    if samples.count == 1:
        raise PodarError(
            "the data for quantization hold one sample, and ranges measured on it would cut off what others need: give "
            "a hundred, or at least a few."
        )
    first = {name: array[:1] for name, array in samples.feeds[0].items()}
    if all(np.array_equal(a, np.broadcast_to(first[n], a.shape)) for feed in samples.feeds for n, a in feed.items()):
        raise PodarError(
            f"the data for quantization hold one sample {samples.count} times, and ranges measured on it would cut off "
            "what others need: give different ones."
        )
    few = f"ranges were measured on {samples.count} samples alone; a hundred tell them better"
    return [few] if samples.count < _FEW else []


class FileModel(nn.Module):
    """An opened model file as a torch module, so that what reads data or evaluates models takes it."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session
        names = [port.name if port.name.isidentifier() else f"input_{k}" for k, port in enumerate(session.inputs)]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])

        def forward(*args: Any, **kwargs: Any) -> Any:
            given = list(signature.bind(*args, **kwargs).arguments.values())
            return self._run([np.ascontiguousarray(tensor.detach().cpu().numpy()) for tensor in given])

        forward.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
        self.forward = forward

    def _run(self, arrays: list[np.ndarray]) -> Any:
        fixed, count = _fixed(self.session.inputs), len(arrays[0])
        step = fixed or count
        found: list[list[np.ndarray]] = []
        for start in range(0, count, step):
            piece = [array[start : start + step] for array in arrays]
            short = step - len(piece[0])  # a fixed batch is filled up with its first sample
            filled = [np.concatenate([a, *[a[:1]] * short]) if short else a for a in piece]
            found.append([np.atleast_1d(out)[: step - short] for out in self.session.run(filled)])
        joined = [np.concatenate([outs[k] for outs in found]) for k in range(len(self.session.outputs))]
        tensors = [torch.from_numpy(array) for array in joined]
        names = [port.name for port in self.session.outputs]
        return tensors[0] if len(tensors) == 1 else dict(zip(names, tensors))


def _fixed(inputs: Sequence[Port]) -> int | None:
    """The number of samples that a file takes at once, where only that number will do."""
    sizes = {port.shape[0] if port.shape else None for port in inputs}
    return next(iter(sizes)) if len(sizes) == 1 else None


def _spread(data: Any, limit: int) -> Any:
    """Samples from all over a data set, since many lie in it class by class; other data as they are."""
    samples = samples_of(data)
    if samples is None:
        return data
    count = len(samples)
    places = np.unique(np.linspace(0, count - 1, min(limit, count)).round().astype(int)) if count else []
    return _Batches(samples, [places[k : k + 64] for k in range(0, len(places), 64)])


class _Batches(Iterable[Any]):
    """Batches of some samples, read when they are asked for."""

    def __init__(self, samples: Any, places: Sequence[Any]) -> None:
        self.samples, self.places = samples, places

    def __iter__(self) -> Any:
        return (collated(self.samples, some) for some in self.places)


def _classes(batch: Batch, notes: list[str]) -> np.ndarray | None:
    """The class numbers of a batch; None where it has none, with a remark where it has something else."""
    if batch.targets is None:
        return None
    try:
        check_targets(batch.targets, "accuracy")
    except PodarError:
        remark = "the data's targets are no class numbers, so no accuracy was measured"
        notes += [] if remark in notes else [remark]
        return None
    return (batch.targets.argmax(1) if batch.targets.is_floating_point() else batch.targets).cpu().numpy()


def _by_place(inputs: Any) -> Any:
    """A list of arguments as a tuple; tensors on the CPU."""
    return map_tensors(lambda tensor: tensor.detach().cpu(), inputs)


def _rows(feed: Mapping[str, np.ndarray]) -> int:
    return next((len(array) for array in feed.values() if array.ndim), 1)
