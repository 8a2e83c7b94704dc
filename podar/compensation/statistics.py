"""Second moments of what linear maps read, in one pass over inputs."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from podar.compensation.forms import Form
from podar.compensation.readings import Parameters, Reading, Watch
from podar.model.batches import run
from podar.model.tensors import tensors_in

ROWS_PER_COLUMN = 8
"""Rows that are drawn for each column, where the inputs give as many."""

FEWEST_ROWS = 4096


@dataclass
class Moments:
    """Sums over the rows that one linear map read; where it is read again and again they add up.

    **Attributes:**

    - `form`: how its inputs unfold.
    - `count`: rows summed up.
    - `total`: (groups, columns) sums. `products`: (groups, columns, columns) sums of products.
    """

    form: Form
    count: int
    total: Tensor
    products: Tensor

    def mean_products(self, centred: bool) -> Tensor:
        """(groups, columns, columns) mean product, about the mean where an intercept can make up for it."""
        found = self.products / self.count
        if not centred:
            return found
        mean = self.total / self.count
        return found - mean.unsqueeze(2) * mean.unsqueeze(1)


def moments(
    model: nn.Module, batches: Sequence[Any], parameters: Parameters, wanted: Container[str], seed: int
) -> dict[str, Moments]:
    """Moments by parameter name, of one pass over the inputs, summed in double precision.

    Which rows are drawn depends on the batch itself, so the order of the batches changes nothing.
    """
    found: dict[str, Moments] = {}

    def met(reading: Reading, generator: torch.Generator) -> None:
        form, x, weight = reading.form, reading.x, reading.weight
        columns = form.matrix(weight).shape[-1]
        n = form.positions(x, weight)
        take = max(1, round(max(FEWEST_ROWS, ROWS_PER_COLUMN * columns) / len(batches)))
        drawn = torch.randperm(n, generator=generator)[:take] if take < n else torch.arange(n)
        rows = form.rows(x, weight, drawn.to(x.device)).float().cpu()
        known = found.get(reading.name)
        if known is None:
            zeros = torch.zeros(rows.shape[0], columns, dtype=torch.float64)
            known = found[reading.name] = Moments(form, 0, zeros, zeros.new_zeros(*zeros.shape, columns))
        known.count += len(drawn)
        known.total += rows.double().sum(1)
        known.products += (rows.mT @ rows).double()

    for batch in batches:
        generator = torch.Generator().manual_seed(seed + checksum(batch))
        with torch.no_grad(), Watch(parameters, _only(wanted, generator, met)):
            run(model, batch)
    return found


def _only(
    wanted: Container[str], generator: torch.Generator, met: Callable[[Reading, torch.Generator], None]
) -> Callable[[Reading], None]:
    def seen(reading: Reading) -> None:
        if reading.name in wanted:
            met(reading, generator)

    return seen


def checksum(batch: Any) -> int:
    """A number made of a batch's values, used as a seed: what is drawn for a batch depends on no other batch."""
    found = 0
    for tensor in tensors_in(batch):
        found = zlib.crc32(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes(), found)
    return found
