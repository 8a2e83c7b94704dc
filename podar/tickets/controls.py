"""The controls of a ticket search: the same masks with other weights, and other masks with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from podar.criteria.register import generator_for

_OTHER = 1_000_003  # added to a seed: another draw, the same each time


def built(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A model from `build` with its random numbers from a seed; the caller's stay as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def built_anew(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A model whose weights are drawn anew, also where `build` loads a checkpoint or draws the same each time."""
    first, other = built(build, seed), built(build, seed + _OTHER)
    known = first.state_dict()
    if all(torch.equal(tensor, known[name]) for name, tensor in other.state_dict().items()):
        with torch.random.fork_rng():
            torch.manual_seed(seed + _OTHER)
            for module in other.modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()
    return other


def random_masks(masks: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Masks that keep as many weights of each layer, chosen at random."""
    found = {}
    for k, (name, mask) in enumerate(masks.items()):
        order = torch.randperm(mask.numel(), generator=generator_for(mask, seed + _OTHER + k), device=mask.device)
        flat = torch.zeros(mask.numel(), dtype=torch.bool, device=mask.device)
        flat[order[: int(mask.sum())]] = True
        found[name] = flat.view(mask.shape)
    return found
