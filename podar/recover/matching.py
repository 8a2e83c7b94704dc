"""The objective that needs no labels: a pruned model's outputs come near the dense model's, whatever these are."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from podar.errors import PodarError, UsageError
from podar.model.batches import Batch, read, run, size
from podar.model.outputs import named_outputs
from podar.model.state import state_put_back
from podar.recover.losses import check_targets
from podar.recover.objectives import outputs_of
from podar.recover.recalibration import NORMS

LOOKED_AT = 4  # batches from which the spread of the dense outputs is measured
LOGITS = ("logits", "class_logits")
AWAY = 1.5  # times the error: so much more makes batch norms keep their statistics
ANSWERS = ("logits", "values")
STILL = 1e-12  # share of its own square below which the variance of a column is noise


class Matching:
    """The squared error of each output relative to its spread, or the divergence of distributions where it is logits.

    **Which outputs are logits:** those that the model itself calls `logits` or `class_logits`, of two or three axes
    with two classes or more on the last, unless the data hold targets that are no classes. A bare tensor [N, C] may as
    well be a regression, so it is compared by its values (which bring logits together, too: Kim et al., IJCAI 2021),
    unless `answers="logits"`.

    **Modes:** everything evaluates, so that outputs have the form in which they are used and nothing is dropped; batch
    norms alone train, as in fine-tuning, but for batches of one sample. Where that by itself leads away from the dense
    model (whose statistics are not those of these inputs), they evaluate.
    """

    adaptive, classes = True, False

    def __init__(self, dense: nn.Module, answers: str | None) -> None:
        if answers is not None and answers not in ANSWERS:
            raise UsageError(f"answers={answers!r}: give logits or values, or leave it away.")
        self.dense, self.answers, self.spreads = copy.deepcopy(dense).eval(), answers, dict[str, Tensor]()
        self.norms_train = False
        self.facts = {"matching": answers or "outputs"}

    def read(self, data: Any, model: nn.Module) -> Iterator[Batch]:
        """Inputs; whatever else a batch holds is not learned."""
        return read(data, model, "distillation")

    def check(self, model: nn.Module, batches: Iterator[Batch], highest: int | None) -> None:
        """Compare the forms of both models' outputs, and measure how far the dense ones spread."""
        model.eval()
        self.dense.to(next((p.device for p in model.parameters()), torch.device("cpu")))
        every: dict[str, list[Tensor]] = {}
        looked_at = list(islice(batches, LOOKED_AT))
        for k, batch in enumerate(looked_at):
            dense = self._dense(batch)
            if k == 0:
                found = _values(outputs_of(model, batch.inputs))
                _same_form(found, dense)
                if not any(tensor.requires_grad for tensor in found.values()):
                    raise PodarError("no output of the student depends on a weight that can be trained.")
            for name, tensor in dense.items():
                every.setdefault(name, []).append(tensor)
        self.spreads = {name: _spread(tensors) for name, tensors in every.items()}
        still = self._error(model, looked_at, norms_train=False)
        self.norms_train = self._error(model, looked_at, norms_train=True) <= AWAY * still

    def ready(self, model: nn.Module) -> None:
        """Everything evaluates but batch norms, where these train."""
        model.eval()
        for norm in (part for part in model.modules() if isinstance(part, NORMS)):
            norm.training = self.norms_train

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
        """The mean over the outputs."""
        dense = self._dense(batch)
        if _single(batch.inputs):
            model.eval()
        outputs = outputs_of(model, batch.inputs)
        if _single(batch.inputs):
            self.ready(model)
        found = _values(outputs)
        _same_form(found, dense)
        terms = [self._distance(name, found[name], tensor, batch.targets) for name, tensor in dense.items()]
        return torch.stack(terms).mean(), outputs

    @torch.no_grad()
    def _error(self, model: nn.Module, batches: list[Batch], *, norms_train: bool) -> float:
        """The loss before any training, with batch norms that train or not; the model is then as it was."""
        self.norms_train = norms_train
        self.ready(model)
        with state_put_back(model):
            return sum(float(self.loss(model, batch)[0]) for batch in batches)

    @torch.no_grad()
    def _dense(self, batch: Batch) -> dict[str, Tensor]:
        return _values(run(self.dense, batch.inputs))

    def _distance(self, name: str, found: Tensor, dense: Tensor, targets: Any) -> Tensor:
        found, dense = found.float(), dense.float()
        if self._is_logits(name, dense, targets):
            return functional.kl_div(
                functional.log_softmax(found, -1).flatten(0, -2),
                functional.log_softmax(dense, -1).flatten(0, -2),
                reduction="batchmean",
                log_target=True,
            )
        spread = self.spreads[name]
        if spread.dim() and (dense.dim() < 2 or dense.shape[1] != len(spread)):
            spread = spread.mean()
        if spread.dim():
            spread = spread.view(1, -1, *[1] * (dense.dim() - 2))
        return ((found - dense).square() / spread).mean()

    def _is_logits(self, name: str, dense: Tensor, targets: Any) -> bool:
        if dense.dim() not in (2, 3) or dense.shape[-1] < 2 or self.answers == "values":
            return False
        if self.answers == "logits":
            return True
        return name.rpartition(".")[2] in LOGITS and (dense.dim() == 3 or targets is None or are_classes(targets))


def are_classes(targets: Any) -> bool:
    """Whether these are class numbers or shares of classes."""
    try:
        check_targets(targets, "distillation")
    except PodarError:
        return False
    return True


def _values(outputs: Any) -> dict[str, Tensor]:
    """The outputs that are values, by their paths."""
    found = {name: tensor for name, tensor in named_outputs(outputs) if tensor.is_floating_point() and tensor.numel()}
    if not found:
        raise PodarError("the model returns no tensor of values, so there is nothing to match.")
    return found


def _same_form(found: dict[str, Tensor], dense: dict[str, Tensor]) -> None:
    """Refuse outputs that cannot be compared."""
    if found.keys() != dense.keys():
        only = sorted(found.keys() ^ dense.keys())[0]
        raise PodarError(
            f"the output {only} is one of {'the student' if only in found else 'the teacher'} alone: both must answer "
            "in the same form; where values decide what is returned, wrap both so that they return the raw outputs."
        )
    for name, tensor in dense.items():
        if found[name].shape != tensor.shape:
            which = f" in {name}" if name else ""
            raise PodarError(
                f"the teacher answers with the shape {tuple(tensor.shape)} and the student with "
                f"{tuple(found[name].shape)}{which}: both need outputs of the same shapes; where values decide how "
                "many there are, wrap both so that they return the raw outputs."
            )


def _spread(tensors: list[Tensor]) -> Tensor:
    """The variance of an output: of each column or channel (axis 1) where it has some, else of all values.

    What does not move is measured by the spread of the rest; an output that never moves by its size.
    """
    every = [tensor.double() for tensor in tensors]
    if every[0].dim() >= 2 and len({tensor.shape[1] for tensor in every}) == 1:
        flat = torch.cat([tensor.transpose(0, 1).flatten(1) for tensor in every], 1)
    else:
        flat = torch.cat([tensor.flatten() for tensor in every])[None]
    spread = flat.var(1, correction=0)
    moving = spread > STILL * flat.square().mean(1)
    rest = spread[moving].mean() if bool(moving.any()) else flat.square().mean()
    spread = torch.where(moving, spread, rest if float(rest) > 0 else torch.ones_like(rest)).float()
    return spread if len(spread) > 1 else spread[0]


def _single(inputs: Any) -> bool:
    try:
        return size(inputs) == 1
    except PodarError:
        return False
