"""Weight norm and spectral norm: slices go from both axes, and what remains of the computed weight stays as it was."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import podar
from tests.graph.oracle import default_float64, double, noise, redraw

EXACT = 1e-9
IMAGES = torch.zeros(2, 3, 8, 8)
TOKENS = torch.zeros(2, 5, 6)
Norm = Callable[..., Any]


def old(function: Norm) -> Norm:
    def quiet(module: nn.Module, **options: Any) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return function(module, **options)

    return quiet


old_weight_norm, old_spectral_norm = old(nn.utils.weight_norm), old(nn.utils.spectral_norm)  # pyright: ignore
new_weight_norm, new_spectral_norm = parametrizations.weight_norm, parametrizations.spectral_norm
WEIGHT_NORMS, SPECTRAL_NORMS = [old_weight_norm, new_weight_norm], [old_spectral_norm, new_spectral_norm]
NORMS = WEIGHT_NORMS + SPECTRAL_NORMS


def images(norm: Norm, *middle: nn.Module, out: int = 8, **options: Any) -> nn.Module:
    """`middle` is what a test looks at; the layers beside it have the norm, too."""
    torch.manual_seed(0)
    layers = [norm(nn.Conv2d(3, 8, 3, padding=1), **options), nn.SiLU(), *middle, nn.ReLU()]
    return nn.Sequential(*layers, norm(nn.Conv2d(out, 5, 1), **options), nn.Flatten(2)).eval()


def words(norm: Norm) -> nn.Module:
    layers = [norm(nn.Embedding(9, 8)), norm(nn.Linear(8, 12)), nn.Tanh(), norm(nn.Linear(12, 3))]
    return nn.Sequential(*layers).eval()


BUILD: dict[str, Callable[[Norm], nn.Module]] = {
    "convolutions": lambda norm: images(norm, norm(nn.Conv2d(8, 12, 3)), out=12),
    "no bias": lambda norm: images(norm, norm(nn.Conv2d(8, 12, 3, bias=False)), out=12),
    "transposed": lambda norm: images(norm, norm(nn.ConvTranspose2d(8, 12, 2)), out=12),
    "transposed, by its outputs": lambda norm: images(norm, norm(nn.ConvTranspose2d(8, 12, 2), dim=1), out=12),
    "by its inputs": lambda norm: images(norm, norm(nn.Conv2d(8, 12, 3), dim=1), out=12),
    "depthwise": lambda norm: images(norm, norm(nn.Conv2d(8, 8, 3, groups=8))),
    "grouped": lambda norm: images(norm, norm(nn.Conv2d(8, 12, 3, groups=2)), out=12),
    "embeddings": words,
}


def baked(build: Callable[[], nn.Module], like: nn.Module) -> nn.Module:
    """The same model with plain weights, as torch itself makes them (which would break a copy of `like`, too)."""
    model = build().double().eval()
    model.load_state_dict(like.state_dict())
    for module in model.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
        for key in [k for k in ("weight", "weight_hh_l0") if hasattr(module, f"{k}_v") or hasattr(module, f"{k}_orig")]:
            (nn.utils.remove_spectral_norm if hasattr(module, f"{key}_orig") else nn.utils.remove_weight_norm)(  # pyright: ignore
                module, key
            )
    return model


ENDS = ("_v", "_orig", ".original1", ".original")


def plain(name: str) -> str:
    for end in ENDS:
        name = name.removesuffix(end) if "weight" in name else name
    return name.replace("parametrizations.", "")


def prepared(build: Callable[[], nn.Module], inputs: Any) -> nn.Module:
    """Dense, in float64, its singular vectors near to true ones."""
    model = redraw(build().eval()).double()
    for name, buffer in model.named_buffers():
        if name.endswith(("_u", "_v")):
            buffer.div_(buffer.norm())
    with torch.no_grad():
        model.train()(double(inputs))
        model.eval()(double(inputs))  # renews what hooks have put on the modules: then it can be copied
    return model


def difference(build: Callable[[], nn.Module], inputs: Any) -> tuple[float, Any]:
    """Largest difference between surgery and the baked model with the same slices zeroed."""
    with default_float64():
        model = prepared(build, inputs)
        dense = baked(build, model)
        result = podar.prune(model, double(inputs), "channels=0.5", scope="local")
        own = dict(dense.named_parameters())
        with torch.no_grad():
            for name in result.removed:
                tensor = own.get(plain(name))
                if tensor is not None and tensor.shape == result.removed_mask(name).shape:
                    tensor[result.removed_mask(name)] = 0
            wanted, got = dense(noise(double(inputs))), model(noise(double(inputs)))
    assert torch.isfinite(got).all()
    return float((wanted - got).abs().max() / wanted.abs().max()), result


@pytest.mark.parametrize("norm", NORMS, ids=["old weight", "new weight", "old spectral", "new spectral"])
@pytest.mark.parametrize("kind", BUILD)
def test_what_remains_of_the_weight_stays_as_it_was(norm: Norm, kind: str) -> None:
    inputs = torch.arange(8).view(2, 4) if kind == "embeddings" else IMAGES
    worst, result = difference(lambda: BUILD[kind](norm), inputs)
    assert worst < EXACT
    assert result.after.params < 0.6 * result.before.params
    layer = result.model[2 if kind != "embeddings" else 1]
    if isinstance(layer, nn.Conv2d):
        assert (layer.in_channels, layer.out_channels) == (layer.weight.shape[1] * layer.groups, layer.weight.shape[0])


@pytest.mark.parametrize("norm", WEIGHT_NORMS)
def test_one_length_for_the_whole_weight(norm: Norm) -> None:
    worst, result = difference(lambda: images(norm, norm(nn.Conv2d(8, 12, 3), dim=None), out=12, dim=None), IMAGES)
    assert worst < EXACT and result.model[2].weight.shape == (6, 4, 3, 3)


@pytest.mark.parametrize("norm", WEIGHT_NORMS)
def test_recurrent_weights(norm: Norm) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.layer, self.head = nn.Linear(6, 8), nn.GRU(8, 6, batch_first=True), nn.Linear(6, 3)
            norm(self.layer, name="weight_hh_l0")

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(self.into(x))[0])

    model = Net().eval()
    result = podar.prune(model, TOKENS, "channels=0.5", scope="local")
    assert result.after.params < result.before.params
    if norm is old_weight_norm:
        assert model.layer.hidden_size == 3 and model.layer.weight_hh_l0.shape == (9, 3)
    assert torch.isfinite(model(torch.randn(2, 5, 6))).all()


@pytest.mark.parametrize("norm", NORMS)
def test_training_goes_on(norm: Norm) -> None:
    model = images(norm, norm(nn.Conv2d(8, 12, 3)), out=12)
    podar.prune(model, IMAGES, "channels=0.5", scope="local")
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None and torch.isfinite(p).all() for p in model.parameters())
    layer: Any = model.get_submodule("2")
    if norm in SPECTRAL_NORMS:
        assert torch.allclose(torch.linalg.matrix_norm(layer.weight.flatten(1), 2), torch.ones(()), atol=0.05)
        model.eval()(torch.zeros(2, 3, 8, 8))
        assert torch.allclose(torch.linalg.matrix_norm(layer.weight.flatten(1), 2), torch.ones(()), atol=0.05)


@pytest.mark.parametrize("norm", NORMS)
def test_masks_saving_and_a_second_cut(norm: Norm, tmp_path: Path) -> None:
    def build() -> nn.Module:
        return images(norm, norm(nn.Conv2d(8, 12, 3)), out=12)

    x = torch.randn(2, 3, 8, 8)
    model = prepared(build, IMAGES).float()
    masked = copy.deepcopy(model)
    result = podar.prune(model, IMAGES, "channels=0.5", scope="local")
    assert podar.Plan.from_json(result.plan.to_json()) == result.plan
    with torch.no_grad():
        assert torch.allclose(podar.mask(masked, result.plan)(x), model(x), atol=1e-4)
    podar.prune(model, IMAGES, "channels=0.5", scope="local")
    loaded = podar.load(podar.save(model, tmp_path / "x"), build)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


def test_what_has_no_length_is_refused_and_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), new_weight_norm(nn.Conv2d(2, 4, 1)), nn.Conv2d(4, 2, 1)).eval()
    with torch.no_grad():
        model.get_parameter("1.parametrizations.weight.original1")[:, 0] = 0
        model.get_parameter("0.weight")[0] *= 100
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(podar.errors.PodarError, match="remove_weight_norm"):  # pyright: ignore
        podar.prune(model, torch.zeros(1, 3, 4, 4), "channels=0.5", scope="local")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_lengths_that_two_weights_share_freeze_both() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = new_weight_norm(nn.Linear(6, 8)), new_weight_norm(nn.Linear(8, 8))
            self.b.parametrizations.weight.original0 = self.a.parametrizations.weight.original0  # pyright: ignore
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.b(self.a(x).relu()).relu())

    graph = podar.trace(Net(), TOKENS)
    reasons = {why for n, _, why in graph.frozen if n.startswith("b.parametrizations")}
    assert any("remove_parametrizations" in why for why in reasons)


@pytest.mark.parametrize("changed", [{"partners": ()}, {"dim": 7}, {"kind": "spectral"}, {"partners": ("0.bias",)}])
def test_a_plan_that_somebody_changed_is_refused(changed: dict[str, Any]) -> None:
    def build() -> nn.Module:
        return images(new_weight_norm, new_weight_norm(nn.Conv2d(8, 12, 3)), out=12)

    plan = podar.plan(podar.trace(build(), IMAGES), "channels=0.5", scope="local")
    name = "2.parametrizations.weight.original1"
    wrong = dataclasses.replace(plan, computed={name: plan.computed[name]._replace(**changed)})
    model = build()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(podar.errors.PodarError, match="the plan"):  # pyright: ignore
        podar.apply(model, wrong)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
