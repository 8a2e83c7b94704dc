"""What only training uses is met, cut and verified like the rest, or stays as it is where nobody can see it all."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import podar
from podar.errors import PodarError

PICTURE = torch.zeros(2, 3, 8, 8)


class Heads(nn.Module):
    """A stem, a layer, and a head; two more heads in training, and something that happens between these."""

    def __init__(self, between: Callable[..., Any]) -> None:
        super().__init__()
        self.stem, self.norm, self.layer = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(8, 2, 1)
        self.one, self.deep, self.other = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1), nn.Conv2d(8, 2, 1)
        self.between = between

    def forward(self: Any, x: Tensor, targets: Tensor | None = None) -> Any:
        h = self.norm(self.stem(x)).relu()
        y = self.head(self.layer(h).relu())
        if not self.training:
            return y
        first = self.deep(self.one(h).relu())
        h = self.between(self, h, targets)
        return y, first, self.other(h)


def steps(model: nn.Module, *given: Any) -> None:
    """One training step on each."""
    model.train()
    torch.stack([y.sum() for y in model(torch.randn(2, 3, 8, 8), *given)]).sum().backward()


def looks(model: Any, h: Tensor, _: Any) -> Tensor:
    return h * 2 if h.sum() > 0.1 else h


def wants_targets(model: Any, h: Tensor, targets: Tensor | None) -> Tensor:
    if targets is None:
        raise ValueError("targets are needed in training")
    return h


def test_a_training_path_that_looks_at_values_is_run_for_real() -> None:
    model = Heads(looks)
    result = podar.prune(model, PICTURE, "channels=0.5", scope="local")
    assert result.graph.record.training is not None and result.graph.record.training.real
    assert (model.stem.out_channels, model.one.in_channels, model.one.out_channels, model.other.in_channels) == (
        *(4, 4, 3, 4),
    )
    steps(model)


def test_what_a_broken_run_met_or_held_stays_and_the_rest_is_cut() -> None:
    model = Heads(wants_targets)
    graph = podar.trace(model, PICTURE)
    reasons = {(n, d): why for n, d, why in graph.frozen}
    assert "targets are needed in training" in reasons["one.weight", 0]
    assert "broke off" in reasons["stem.weight", 0]
    assert "targets are needed in training" in reasons["other.weight", 0]
    podar.prune(model, PICTURE, "channels=0.5", scope="local")
    assert (model.stem.out_channels, model.layer.out_channels, model.one.out_channels) == (8, 4, 6)
    steps(model, torch.zeros(2))


def test_a_run_in_train_mode_that_breaks_off_at_once_freezes_nothing() -> None:
    class Strict(Heads):
        def forward(self: Any, x: Tensor, targets: Tensor | None = None) -> Any:
            if self.training and targets is None:
                raise ValueError("no")
            return super().forward(x, targets)

    graph = podar.trace(Strict(wants_targets), PICTURE)
    assert [g.name for g in graph.groups] == ["stem", "layer"]
    assert ("other.weight", 0, "evaluation does not use it, and the run in train mode broke off (ValueError: no)") in (
        graph.frozen
    )


CACHE: dict[str, int] = {}


def remembers(model: Any, h: Tensor, _: Any) -> Tensor:
    size = h.untyped_storage().nbytes()  # which no trace follows
    if CACHE.setdefault("size", size) != size:
        raise ValueError("another width")
    return h


def test_the_training_path_is_verified_too() -> None:
    CACHE.clear()
    model = Heads(remembers)
    with pytest.raises(PodarError, match="no longer runs in training"):
        podar.prune(model, PICTURE, "channels=0.5", scope="local")
    assert model.stem.out_channels == 8
    steps(model)


def drops_a_block(model: Any, h: Tensor, _: Any) -> Tensor:
    if torch.rand([]) < 0.5:
        h = h + model.layer(h)
    return functional.dropout2d(h, 0.5, model.training)


def drops_by_python(model: Any, h: Tensor, _: Any) -> Tensor:
    return h + model.layer(h) if random.random() < 0.5 else h


def drops_samples(model: Any, h: Tensor, _: Any) -> Tensor:
    keep = h.new_empty((h.shape[0],) + (1,) * (h.dim() - 1)).bernoulli_(0.7)
    return h * keep.div_(0.7) + torch.rand_like(h)


@pytest.mark.parametrize("between", [drops_a_block, drops_by_python, drops_samples])
def test_random_branches_of_training_are_no_reason_to_refuse(between: Any) -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        random.seed(seed)
        model = Heads(between)
        podar.prune(model, PICTURE, "channels=0.5", scope="local")
        assert (model.stem.out_channels, model.other.in_channels) == (4, 4)
        steps(model)


def test_one_picture_is_enough_for_a_norm_over_one_position() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head, self.more = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), nn.Linear(8, 2)
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU())

        def forward(self, x: Tensor) -> Any:
            h = self.stem(x).relu()
            y = self.head(h * self.pool(h))
            return (y, self.more(h.mean((2, 3)))) if self.training else y

    model = Pooled()
    podar.prune(model, torch.zeros(1, 3, 8, 8), "channels=0.5", scope="local")
    assert (model.stem.out_channels, model.more.in_features) == (4, 4)
    steps(model)


def by_hand(draw: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda h: h * draw(h)


NOISE: dict[str, Any] = {
    "dropout": nn.Dropout(0.5),
    "in place": nn.Dropout(0.5, inplace=True),
    "dropout1d": lambda h: functional.dropout1d(h.flatten(2), 0.5).view(h.shape),
    "dropout2d": nn.Dropout2d(0.5),
    "dropout2d in place": nn.Dropout2d(0.5, inplace=True),
    "dropout3d": lambda h: functional.dropout3d(h[..., None], 0.5)[..., 0],
    "alpha": nn.AlphaDropout(0.5),
    "feature alpha": nn.FeatureAlphaDropout(0.5),
    "functional": lambda h: functional.dropout(functional.feature_alpha_dropout(h, 0.5, True), 0.5, True),
    "by name": lambda h: torch.dropout(h, p=0.5, train=True),
    "samples": by_hand(lambda h: h.new_empty((h.shape[0], 1, 1, 1)).bernoulli_(0.5)),
    "floor": by_hand(lambda h: (0.5 + torch.rand((h.shape[0], 1, 1, 1), dtype=h.dtype)).floor_()),
    "channels": by_hand(lambda h: torch.empty(h.shape[0], h.shape[1], 1, 1).bernoulli_(0.5)),
    "probabilities": by_hand(lambda h: torch.bernoulli(torch.full((h.size(0), h.size(1), 1, 1), 0.5))),
    "ones": by_hand(lambda h: functional.dropout(torch.ones_like(h[:, :, :1, :1]), 0.5)),
    "new ones": by_hand(lambda h: functional.dropout(h.new_ones(h.shape[:2]), 0.5)[..., None, None]),
    "compared": by_hand(lambda h: (torch.rand(h.shape[:2]) > 0.5).to(h.dtype)[:, :, None, None]),
    "like": by_hand(lambda h: (torch.rand_like(h) > 0.5).float()),
    "normal": lambda h: h + torch.randn(h.shape) + torch.randn_like(h) * 0.1 + torch.normal(0.0, 1.0, h.shape),
    "distribution": by_hand(
        lambda h: torch.distributions.Bernoulli(torch.tensor(0.5)).sample((h.shape[0], h.shape[1], 1, 1))
    ),
}


@pytest.mark.parametrize("noise", NOISE)
def test_noise_is_no_relation_of_channels(noise: str) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.noise, self.head = nn.Conv2d(3, 8, 3), NOISE[noise], nn.Conv2d(8, 2, 1)
            self.idle, self.level = nn.Linear(3, 3), nn.Parameter(torch.ones(1, 1))

        def forward(self: Any, x: Tensor) -> Tensor:
            h = self.stem(x)
            return self.head(self.noise(h).tanh() if self.training else h) * self.level

    model: Any = Noisy()
    graph = podar.trace(model, PICTURE)
    assert ("idle.weight", 0, "no forward pass uses it") in graph.frozen
    assert ("level", 0, "it has one index only") in graph.frozen
    podar.prune(model, PICTURE, "channels=0.5", scope="local")
    assert model.stem.out_channels == 4
    model.train()(torch.randn(2, 3, 8, 8)).sum().backward()


def test_axes_of_one_index_need_no_run_in_train_mode() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.head, self.scale = nn.Linear(4, 8), nn.Linear(8, 2), nn.Parameter(torch.ones(1))
            self.one = nn.Conv1d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.fc(x) * self.scale) + self.one(x.mean(-1)[:, None, None])[..., 0]

    graph = podar.trace(Scaled(), torch.zeros(2, 4))
    assert graph.record.training is None
    assert {why for n, _, why in graph.frozen if n in ("scale", "one.weight", "one.bias")} == {"it has one index only"}
