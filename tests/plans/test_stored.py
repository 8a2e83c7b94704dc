"""Whatever podar.save takes comes back to the bit, in a model that computes the same; the rest is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel

import podar
from podar.errors import PodarError
from podar.plans.saving import plan_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*script_method:DeprecationWarning",
    "ignore:.*quantiz:DeprecationWarning",
    "ignore:.*weight_norm:FutureWarning",
)
IMAGES = torch.randn(2, 3, 8, 8)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).eval()


def halved(model: nn.Module) -> nn.Module:
    podar.prune(model, IMAGES, "channels=0.5", scope="local")
    return model


def same(a: nn.Module, b: nn.Module, x: torch.Tensor = IMAGES) -> None:
    with torch.no_grad():
        torch.testing.assert_close(a.eval()(x), b.eval()(x), rtol=0, atol=0, equal_nan=True)


def given_back(model: nn.Module, folder: Path, build: Callable[[], nn.Module] = net) -> nn.Module:
    loaded = podar.load(podar.save(model, folder), build)
    before, after = model.state_dict(), loaded.state_dict()
    if before.keys() == after.keys():
        for name, tensor in before.items():
            assert tensor.dtype == after[name].dtype and torch.equal(tensor, after[name]), name
    return loaded


# Wrappers

WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "DataParallel": nn.DataParallel,
    "compiled": lambda m: torch.compile(m, backend="eager"),
    "averaged": AveragedModel,
    "averaged in parallel": lambda m: nn.DataParallel(AveragedModel(m)),
}


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("cut", [False, True])
def test_wrappers_are_left_away(tmp_path: Path, name: str, cut: bool) -> None:
    model = halved(net()) if cut else net()
    folder = podar.save(WRAPPERS[name](model), tmp_path / "x")
    loaded = podar.load(folder, net)
    assert loaded.state_dict().keys() == net().state_dict().keys() and plan_of(loaded) == plan_of(model)
    same(model, loaded)
    same(model, podar.load(folder, lambda: WRAPPERS[name](net())))


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_part_of_a_model(tmp_path: Path, name: str) -> None:
    model = nn.Sequential(halved(net()), nn.Linear(4, 2))
    wrapped = nn.Sequential(WRAPPERS[name](model[0]), model[1])
    loaded = podar.load(podar.save(wrapped, tmp_path / "x"), lambda: nn.Sequential(net(), nn.Linear(4, 2)))
    same(model, loaded)
    assert plan_of(loaded).shapes.keys() == {f"0.{n}" for n in plan_of(model[0]).shapes}


def test_plans_of_parts_and_of_the_whole(tmp_path: Path) -> None:
    def build() -> nn.Sequential:
        torch.manual_seed(1)
        return nn.Sequential(net(), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))).eval()

    model = build()
    halved(model[0])
    podar.prune(model[1], torch.zeros(1, 4), "channels=0.5")
    podar.prune(model, IMAGES, "channels=0.7", scope="local")
    same(model, given_back(model, tmp_path / "a", build))
    model = build()
    podar.prune(model, IMAGES, "channels=0.7", scope="local")
    halved(model[0])
    same(model, given_back(model, tmp_path / "b", build))


# Masks and computed weights


@pytest.mark.parametrize(
    "order", ["mask", "prune mask", "mask prune", "prune mask prune", "mask prune bake", "mask bake prune"]
)
def test_masks_come_back(tmp_path: Path, order: str) -> None:
    model: Any = net()
    for step in order.split():
        if step == "prune":
            halved(model)
        elif step == "mask":
            prune.random_unstructured(model[0], "weight", 0.5)
            prune.random_unstructured(model[3], "bias", 0.5)
            podar.sparsify(model, 0.3)
        else:
            podar.bake(model)
    loaded: Any = given_back(model, tmp_path / "x")
    same(model, loaded)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert prune.is_pruned(loaded) == prune.is_pruned(model)
    if prune.is_pruned(model):
        same(model, podar.load(tmp_path / "x", lambda: prune_like(net())))
        podar.bake(loaded)
        same(model, loaded)


def prune_like(model: Any) -> nn.Module:
    prune.identity(model[0], "weight")
    return model


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


COMPUTED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "weight norm by a hook": nn.utils.weight_norm,
    "spectral norm by a hook": nn.utils.spectral_norm,
    "a user's own": lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
}


def computing(name: str) -> nn.Sequential:
    model = net()
    COMPUTED[name](model[3])
    return model.eval()


@pytest.mark.parametrize("name", COMPUTED)
def test_computed_weights_come_back_computed_or_plain(tmp_path: Path, name: str) -> None:
    model = computing(name)
    with torch.no_grad():
        model(IMAGES)
    same(model, given_back(model, tmp_path / "x", lambda: computing(name)))
    with torch.no_grad():
        torch.testing.assert_close(podar.load(tmp_path / "x", net)(IMAGES), model(IMAGES))
    plain = net()
    same(plain, given_back(plain, tmp_path / "y", lambda: computing(name)))


@pytest.mark.parametrize("name", COMPUTED)
def test_computed_weights_that_were_cut(tmp_path: Path, name: str) -> None:
    model = computing(name)
    try:
        halved(model)
    except PodarError:
        pytest.skip("is not cut")
    with torch.no_grad():
        wanted = model(IMAGES)
        torch.testing.assert_close(given_back(model, tmp_path / "x", lambda: computing(name))(IMAGES), wanted)
        torch.testing.assert_close(podar.load(tmp_path / "x", net)(IMAGES), wanted)


# Tensors of any kind


class Odd(nn.Module):
    """Parameters and buffers of many types and memory layouts, some of them shared."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        base = torch.randn(6, 4)
        self.top, self.bottom = nn.Parameter(base[:3]), nn.Parameter(base[3:])
        self.turned = nn.Parameter(torch.randn(4, 5).t())
        self.last = nn.Parameter(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last).to(dtype))
        self.fixed = nn.Parameter(torch.arange(3), requires_grad=False)
        self.register_buffer("spread", torch.randn(1).expand(5))
        self.register_buffer("again", self.top)
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("scalar", torch.tensor(3))
        for name in ("float16", "bfloat16", "complex64", "complex128", "int8", "uint8", "bool", "float64", "uint16"):
            self.register_buffer(f"of_{name}", torch.tensor([[1, 0, 2]]).to(getattr(torch, name)))
        self.register_buffer("conjugate", torch.randn(3, dtype=torch.complex64).conj())
        self.register_buffer("nothing", torch.tensor([torch.nan, torch.inf, -0.0]))


def bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().resolve_conj().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_any_type_and_layout(tmp_path: Path, dtype: torch.dtype) -> None:
    model = Odd(dtype)
    loaded: Any = podar.load(podar.save(model, tmp_path / "x"), Odd)
    for name, tensor in model.state_dict().items():
        other = loaded.state_dict()[name]
        assert (other.dtype, other.shape, bits(other)) == (tensor.dtype, tensor.shape, bits(tensor)), name
    assert loaded.again.data_ptr() == loaded.top.data_ptr()


@pytest.mark.parametrize("kind", ["half", "bfloat16", "double"])
def test_a_model_of_another_type_comes_back_in_it(tmp_path: Path, kind: str) -> None:
    model = getattr(halved(net()), kind)()
    loaded = given_back(model, tmp_path / "x")
    assert next(loaded.parameters()).dtype == next(model.parameters()).dtype


def test_build_may_leave_values_to_the_file(tmp_path: Path) -> None:
    def build() -> nn.Module:
        with torch.device("meta"):
            return net()

    model = halved(net())
    same(model, given_back(model, tmp_path / "x", build))


def test_ties_that_only_one_side_has(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self, tied: bool) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            if tied:
                self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x))

    x = torch.randn(2, 3)
    tied, free = Two(True), Two(False)
    same(tied, given_back(tied, tmp_path / "a", lambda: Two(False)), x)
    with safe_open(str(tmp_path / "a" / "model.safetensors"), "pt") as file:
        assert len(list(file.keys())) == 3
    with pytest.raises(PodarError, match="share its memory"):
        podar.load(podar.save(free, tmp_path / "b"), lambda: Two(True))


class Counting(nn.Module):
    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state, self.fc = state, nn.Linear(2, 2)

    def get_extra_state(self) -> Any:
        return self.state

    def set_extra_state(self, state: Any) -> None:
        self.state = state


@pytest.mark.parametrize("state", [{"seen": 3, "names": ["a", None, 1.5]}, [], "text", 7, torch.arange(3.0)])
def test_extra_state_comes_back(tmp_path: Path, state: Any) -> None:
    loaded: Any = podar.load(podar.save(Counting(state), tmp_path / "x"), lambda: Counting(None))
    equal = torch.equal(loaded.state, state) if isinstance(state, torch.Tensor) else loaded.state == state
    assert type(loaded.state) is type(state) and equal


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4))


def quantized() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)))


def on_meta() -> nn.Module:
    return nn.Linear(3, 3, device="meta")


def with_buffer(make: Callable[[], torch.Tensor]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = nn.Linear(2, 2)
        model.register_buffer("held", make())
        return model

    return build


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lazy, "has no size yet"),
        (quantized, "no tensor .*quantised by torch"),
        (on_meta, "meta device"),
        (lambda: Counting({1: 2}), "_extra_state holds extra state that is no plain data"),
        (lambda: Counting((1, 2)), "_extra_state holds extra state that is no plain data"),
        (lambda: Counting({"t": torch.ones(1)}), "_extra_state holds extra state that is no plain data"),
        (with_buffer(lambda: torch.eye(3).to_sparse()), "held is a sparse tensor"),
        (
            with_buffer(lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)),
            "held is a quantized tensor",
        ),
    ],
)
def test_what_could_not_come_back_is_refused_and_leaves_nothing(tmp_path: Path, build: Any, said: str) -> None:
    with pytest.raises(PodarError, match=said):
        podar.save(build(), tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "notes", ["{", "[]", '{"complex": ["7.bias"]}', '{"computed": ["none"]}', '{"extra": 3}', '{"complex": 3}']
)
def test_damaged_notes_are_one_sentence(tmp_path: Path, notes: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = podar.save(net(), tmp_path / "x")
    path = folder / "model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt", "podar": notes})
    with pytest.raises(PodarError, match="damaged"):
        podar.load(folder, net)
    json.loads((folder / "plan.json").read_text())
