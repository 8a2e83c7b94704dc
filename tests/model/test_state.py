"""What a model remembers of its runs is put back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from podar.model.state import state_put_back


class Remembers(nn.Module):
    """Counts its calls, keeps an average, and caches by shape."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.BatchNorm1d(3)
        self.register_buffer("average", torch.zeros(3))
        self.register_buffer("count", torch.zeros(()))
        self.calls, self.cache, self.seen, self.last = 0, dict[int, Tensor](), list[int](), None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.count += 1
        self.average = 0.9 * self.average + 0.1 * x.mean(0)
        self.cache[len(x)] = x
        self.seen.append(len(x))
        self.last = x
        return self.inner(x)


def test_a_model_forgets_its_runs() -> None:
    model = Remembers().train()
    model(torch.ones(2, 3))
    before = {k: v for k, v in vars(model).items() if k[0] != "_"}
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    cache, seen = dict(model.cache), list(model.seen)
    with state_put_back(model):
        setattr(model, "other", 1)  # noqa: B010
        model(torch.zeros(5, 3))
    assert {k: v for k, v in vars(model).items() if k[0] != "_"} == before
    assert model.cache == cache and model.seen == seen and not hasattr(model, "other")
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name])


def test_what_is_changed_on_purpose_stays_and_an_error_changes_nothing() -> None:
    model = Remembers().eval()
    assert model.inner.running_mean is not None
    with pytest.raises(ValueError, match="broken"), state_put_back(model) as meant:
        model.inner.running_mean.fill_(7)
        meant.add(id(model.inner.running_mean))
        model(torch.ones(2, 3))
        raise ValueError("broken")
    assert (model.inner.running_mean == 7).all() and model.calls == 0
