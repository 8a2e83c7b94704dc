"""save ∘ load ≡ identity, without a pickle; what is missing, damaged or of another architecture is said."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import podar
from podar.errors import PodarError
from podar.plans.saving import plan_of
from tests.graph.random_networks import INPUT, Attention, Network, Residual


def build() -> Network:
    torch.manual_seed(0)
    return Network(8, [Residual(8, 6, nn.ReLU()), Attention(8, 2, 4, 1)], flat=False).eval()


def equal(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("times", [0, 1, 3])
def test_load_undoes_save(tmp_path: Path, times: int) -> None:
    model = build()
    for _ in range(times):
        podar.prune(model, INPUT, "channels=0.7", scope="local")
    folder = podar.save(model, tmp_path / "a" / "b")
    loaded = podar.load(folder, build)
    assert equal(model, loaded) and not loaded.training
    assert plan_of(loaded) == plan_of(model) and len(plan_of(model).steps) == max(1, times)
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        assert torch.equal(model(x), loaded(x))
    podar.prune(loaded, INPUT, "channels=0.7", scope="local")  # and again
    assert sorted(p.name for p in folder.iterdir()) == ["model.safetensors", "plan.json"]


def test_tied_weights_and_other_types_survive(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.fc, self.out = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
            self.out.weight = self.embed.weight
            self.register_buffer("count", torch.tensor(3))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.out(self.fc(self.embed(ids)).relu())

    model = Tied().eval()
    podar.prune(model, torch.zeros(1, 3, dtype=torch.long), "channels=0.5")
    loaded = podar.load(podar.save(model, tmp_path / "x"), Tied)
    assert equal(model, loaded) and loaded.out.weight is loaded.embed.weight  # pyright: ignore

    half = build().half()
    podar.apply(half, podar.plan(podar.trace(build(), INPUT), "channels=0.5", scope="local"))
    assert equal(half, podar.load(podar.save(half, tmp_path / "half"), lambda: build().half()))


def test_the_plan_rides_along_with_copies() -> None:
    model = build()
    podar.prune(model, INPUT, "channels=0.5", scope="local")
    assert type(model.__dict__["podar_plan"]) is str
    assert plan_of(copy.deepcopy(model)) == plan_of(model)


def test_what_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    model = build()
    podar.prune(model, INPUT, "channels=0.5", scope="local")
    folder = podar.save(model, tmp_path / "x")
    with pytest.raises(PodarError, match="missing"):
        podar.load(tmp_path, build)
    with pytest.raises(PodarError, match="does not have|expects"):
        podar.load(folder, lambda: nn.Linear(2, 2))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PodarError, match="damaged"):
        podar.load(folder, build)
    (folder / "model.safetensors").write_bytes(whole)
    (folder / "plan.json").write_text('{"podar_plan": 1}')
    with pytest.raises(PodarError, match="damaged"):
        podar.load(folder, build)
    podar.save(nn.Linear(2, 2), tmp_path / "y")
    (folder / "plan.json").write_text((tmp_path / "y" / "plan.json").read_text())
    with pytest.raises(PodarError, match="does not fit"):
        podar.load(folder, build)
    (tmp_path / "file").write_text("")
    with pytest.raises(PodarError, match="is a file"):
        podar.save(model, tmp_path / "file")
