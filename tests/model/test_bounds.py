"""Sizes that somebody wrote are refused before the memory is there to be filled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

from podar.errors import PodarError
from podar.model.bounds import within_memory
from podar.model.building import call_builder
from podar.trust.memory import free_memory


def _arange() -> nn.Module:
    module = nn.Module()
    module.register_buffer("positions", torch.arange(10**11))
    return module


def _many() -> nn.Module:
    return nn.ModuleList(nn.Identity() for _ in range(2000))


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Linear(10**6, 10**6),
        lambda: nn.Embedding(10**11, 8),
        lambda: nn.Sequential(*(nn.Linear(1000, 1000) for _ in range(900))),
        lambda: nn.Conv2d(10**9, 64, 7),
        _arange,
        _many,
    ],
    ids=["linear", "embedding", "many", "convolution", "arange", "layers"],
)
def test_what_no_machine_holds_is_one_sentence(build: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podar.model.bounds.free_memory", lambda: 1 << 30)
    monkeypatch.setattr("podar.model.bounds._MODULES", 1000)
    began = time.monotonic()
    with pytest.raises(PodarError, match=r"^net describes a (model|tensor) of .*smaller\.$"):
        call_builder(lambda: build(), {}, of="net")
    assert time.monotonic() - began < 20


def test_what_fits_is_built_with_the_same_weights() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = build()
    assert all(
        torch.equal(a, b)
        for a, b in zip(plain.state_dict().values(), call_builder(build, {}, of="x").state_dict().values())
    )


def test_a_hollow_model_may_be_of_any_size() -> None:
    def build() -> nn.Module:
        with torch.device("meta"):
            return nn.Linear(10**7, 10**7)

    assert call_builder(build, {}, of="x").weight.is_meta


def test_other_threads_are_let_be() -> None:
    made: list[nn.Module] = []
    with within_memory("x", most=1000):
        thread = threading.Thread(target=lambda: made.append(nn.Linear(100, 100)))
        thread.start()
        thread.join()
        with pytest.raises(PodarError, match="x describes"):
            nn.Linear(100, 100)
    assert made and free_memory() > 0
    nn.Linear(100, 100)
