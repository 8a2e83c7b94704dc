"""One run tells all: what only training uses is met in a second one, what the model decides is told to a later one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import podar
from tests.graph.oracle import halved

PICTURE = torch.zeros(1, 3, 8, 8)


class Auxiliary(nn.Module):
    """A second head that answers in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.more = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.stem(x).relu()
        return (self.head(x), self.more(x)) if self.training else self.head(x)


def test_what_only_training_uses_is_cut_too() -> None:
    worst, result = halved(lambda: Auxiliary().eval(), PICTURE)
    assert worst < 1e-9
    assert (result.model.head.in_channels, result.model.more.in_channels) == (4, 4)
    one, other = result.model.train()(torch.randn(2, 3, 8, 8).double())
    assert one.shape == other.shape == (2, 2, 6, 6)


class Decides(nn.Module):
    """Takes another way where its activations are large; the numbers change when channels go."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        if x.sum() > self.stem.weight.abs().sum() * 3:
            x = x * 2
        return self.head(x)


def test_a_model_that_looks_at_its_activations_is_run_for_real_and_verified_on_the_same_way() -> None:
    torch.manual_seed(0)
    model = Decides().eval()
    podar.prune(model, torch.rand(1, 3, 8, 8), "channels=0.5", scope="local")
    assert model.stem.out_channels == 4


def test_the_random_state_and_the_inputs_are_left_as_they_were() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.Conv2d(4, 2, 3)), torch.randn(1, 3, 8, 8)
    before, state = x.clone(), torch.get_rng_state()
    podar.trace(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, before)
    assert not vars(x)
