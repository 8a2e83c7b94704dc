"""podar.accelerate: same outputs as torch, what stays in torch, files without torch, bad input said clearly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import podar
from podar.errors import PodarError, UsageError
from podar.model.torchvision_operators import import_torchvision

native = pytest.importorskip("podar_native", reason="podar-native is not built here")

pytestmark = pytest.mark.usefixtures("cache")


def thinned(model: nn.Module, amount: float = 0.8) -> nn.Module:
    """Weights of little magnitude are zero, batch norms have statistics: a wrong fold would show."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
                threshold = module.weight.abs().flatten().quantile(amount) if module.weight.numel() < 10**6 else None
                if threshold is None:
                    module.weight[torch.rand_like(module.weight) < amount] = 0
                else:
                    module.weight[module.weight.abs() <= threshold] = 0
    return model.eval()


def imported(name: str) -> Any:
    """An optional package that imports torchvision itself."""
    import_torchvision()
    return pytest.importorskip(name)


def assert_close(one: Tensor, other: Tensor, tolerance: float = 1e-4) -> None:
    assert one.shape == other.shape
    assert (one - other).abs().max() <= tolerance * other.abs().max().clamp(min=1e-6)


@torch.no_grad()
def check(model: nn.Module, x: Tensor, **how: bool) -> podar.Accelerated:  # type: ignore[name-defined]
    fast = podar.accelerate(model, x, **({"measure": False, "tune": False} | how))
    assert_close(fast(x), model(x))
    return fast


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "densenet121"]
)
def test_torchvision_models_come_out_the_same(name: str) -> None:
    model = thinned(getattr(import_torchvision().models, name)())
    fast = check(model, torch.randn(1, 3, 64, 64))
    assert any(region.kept for region in fast.report.regions)


def test_yolo_comes_out_the_same() -> None:
    imported("ultralytics")
    from ultralytics.nn.tasks import DetectionModel

    model = thinned(DetectionModel("yolo26n.yaml", verbose=False))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        fast = podar.accelerate(model, x, measure=False, tune=False)
        found = fast(x)
    assert not fast.report.host  # attention and the boxes too run in the engine
    assert_close(found[0], expected[0])
    boxes = expected[1] if isinstance(expected[1], dict) else {}
    for name in ("one2many", "one2one"):
        for key, value in boxes.get(name, {}).items():
            if isinstance(value, Tensor):
                assert_close(found[1][name][key], value)


def test_transformer_layers_run_in_between() -> None:
    timm = imported("timm")
    check(
        thinned(timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=7)),
        torch.randn(2, 3, 64, 64),
    )


def test_convnext_and_one_dimension() -> None:
    timm = imported("timm")
    check(thinned(timm.create_model("convnext_atto", num_classes=5)), torch.randn(1, 3, 64, 64))
    sequence = nn.Sequential(nn.Conv1d(4, 8, 5, padding=2), nn.BatchNorm1d(8), nn.GELU(), nn.Conv1d(8, 6, 3, stride=2))
    check(thinned(sequence, 0.5), torch.randn(3, 4, 40))


def test_one_dimension_is_one_program() -> None:
    layers = [
        nn.Conv1d(4, 32, 9, padding=4), nn.BatchNorm1d(32), nn.SiLU(), nn.Conv1d(32, 16, 5, stride=2),
        nn.MaxPool1d(3, 2, 1), nn.Conv1d(16, 16, 3, dilation=2, groups=2), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(1),
        nn.Flatten(), nn.Linear(16, 5),
    ]  # fmt: skip
    fast = check(thinned(nn.Sequential(*layers)), torch.randn(2, 4, 64))
    assert not fast.report.host, fast.report
    assert [layer.name for layer in fast.report.regions[0].layers] == ["0", "3", "5", "9"]


def test_an_image_without_a_batch_axis_is_no_batch_of_rows() -> None:
    layers = nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Conv2d(3, 3, 1)
    x = torch.randn(3, 3, 16, 16)[0]
    for count in range(2, 5):
        model = nn.Sequential(*layers[:count]).eval()
        with pytest.raises(PodarError, match="nothing in Sequential"):
            podar.accelerate(model, x, measure=False, tune=False)
    with pytest.raises(PodarError, match="nothing in Sequential"):
        podar.accelerate(nn.Sequential(*layers), x, measure=False, tune=False)


def test_tuned_and_remembered(tmp_path: Path) -> None:
    model = thinned(nn.Sequential(nn.Conv2d(3, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, 40, 1), nn.SiLU()), 0.9)
    x = torch.randn(1, 3, 24, 24)
    layers = check(model, x, tune=True).report.regions[0].layers
    assert all(layer.sparse and layer.crossover is not None and 0 < layer.crossover <= 1 for layer in layers)
    remembered = (tmp_path / "cache" / "sparse_variants.json").read_text()
    again = check(model, x, tune=True).report
    assert [layer.crossover for layer in again.regions[0].layers] == [layer.crossover for layer in layers]
    assert "sparse pays below" in str(again)
    assert (tmp_path / "cache" / "sparse_variants.json").read_text() == remembered
    (tmp_path / "cache" / "sparse_variants.json").write_text("{broken")
    check(model, x, tune=True)


def test_dense_layers_stay_right_and_are_said() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    fast = check(model, torch.randn(1, 3, 20, 20), tune=True, measure=True)
    assert all(not layer.sparse and layer.crossover is None for layer in fast.report.regions[0].layers)
    assert "100% nonzero, dense" in str(fast.report)


def test_batches_of_other_sizes_where_one_program_is_the_model() -> None:
    model = thinned(nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)), 0.5)
    fast = check(model, torch.randn(1, 3, 16, 16))
    x = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        assert_close(fast(x), model(x))
        strided = torch.randn(5, 16, 16, 3).permute(0, 3, 1, 2)
        assert_close(fast(strided), model(strided))


def test_inputs_that_do_not_fit() -> None:
    fast = check(thinned(nn.Sequential(nn.Conv2d(3, 8, 3))), torch.randn(1, 3, 16, 16))
    with pytest.raises(PodarError, match="prepared for inputs of 1×3×16×16 and got 1×3×18×16"):
        fast(torch.randn(1, 3, 18, 16))
    with pytest.raises(PodarError, match="takes torch.float32 and got torch.float16"):
        fast(torch.randn(1, 3, 16, 16).half())
    with pytest.raises(UsageError, match="cannot be trained"):
        fast.train()


def test_a_factor_is_never_taken_from_the_example_in_silence() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
            return self.conv(x) * scale

    x, model = torch.randn(1, 3, 8, 8), Scaled().eval()
    fast = podar.accelerate(model, {"scale": 2.0, "x": x}, measure=False, tune=False)
    compiled = torch.compile(fast, backend="eager")
    with torch.no_grad():
        assert_close(fast(x, 2.0), model(x, 2.0))
        assert_close(compiled(x, scale=2.0), model(x, 2.0))
    for run in (fast, compiled):
        with pytest.raises(PodarError, match="scale was 2.0 when"):
            run(x, scale=3.0)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_refused_with_the_reason(kind: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval().to(kind)
    with pytest.raises(PodarError, match=f"works on {str(kind).removeprefix('torch.')}"):
        podar.accelerate(model, torch.ones(1, 3, 8, 8, dtype=kind))


def test_a_level_that_this_processor_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODAR_SIMD", "avx10")
    with pytest.raises(PodarError, match="PODAR_SIMD is avx10, and this processor runs .*scalar"):
        podar.accelerate(nn.Conv2d(1, 1, 1), torch.randn(1, 1, 4, 4))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch's own loader
def test_saved_by_torch_and_loaded(tmp_path: Path) -> None:
    x = torch.randn(1, 3, 8, 8)
    for layers in ((nn.Conv2d(3, 8, 3), nn.ReLU()), (nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5))):
        fast = podar.accelerate(nn.Sequential(*layers).eval(), x, measure=False, tune=False)
        torch.save(fast, tmp_path / "fast.pt")
        again = torch.load(tmp_path / "fast.pt", weights_only=False)
        assert torch.equal(again(x), fast(x))


def test_the_model_stays_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    podar.accelerate(model, torch.ones(1, 3, 8, 8), measure=False, tune=False)
    assert [part.training for part in model.modules()] == [True, True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_nothing_to_run() -> None:
    class Sorts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sort().values

    with pytest.raises(PodarError, match="nothing in Sorts can run"):
        podar.accelerate(Sorts(), torch.randn(1, 5))
    with pytest.raises(UsageError, match="holds no tensor"):
        podar.accelerate(Sorts(), ())


def test_a_model_that_export_cannot_follow() -> None:
    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(PodarError, match=r"torch\.export cannot follow Asks"):
        podar.accelerate(Asks(), torch.randn(1, 5))


def test_a_missing_or_old_native_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "FORMAT", 0)
    with pytest.raises(PodarError, match="does not fit this podar"):
        podar.accelerate(nn.Conv2d(1, 1, 1), torch.randn(1, 1, 4, 4))
    monkeypatch.setitem(sys.modules, "podar_native", None)
    with pytest.raises(PodarError, match=r"podar\[sparse\]"):
        podar.accelerate(nn.Conv2d(1, 1, 1), torch.randn(1, 1, 4, 4))


def test_nan_and_infinity_go_through_where_weights_are() -> None:
    model = nn.Conv2d(2, 3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])[:, :, None, None])
    x = torch.ones(1, 2, 4, 4)
    x[0, 0, 0, 0], x[0, 0, 1, 1], x[0, 1, 2, 2] = float("nan"), float("inf"), 1e-42
    fast = podar.accelerate(nn.Sequential(model, nn.ReLU()), x, measure=False, tune=False)
    with torch.no_grad():
        found, expected = fast(x), model(x).relu()
    keeps = [0, 2]  # channel 1 has no weight on the channel that holds NaN: torch multiplies it by zero, the engine not
    assert torch.equal(found[:, keeps].isnan(), expected[:, keeps].isnan())
    assert torch.equal(found[:, keeps].isinf(), expected[:, keeps].isinf())
    assert found[:, 1].isfinite().all()


def test_export_and_compile_see_the_operator() -> None:
    model = thinned(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), 0.5)
    x = torch.randn(1, 3, 12, 12)
    fast = check(model, x)
    program = torch.export.export(fast, (x,))
    assert "podar.run_sparse" in str(program.graph)
    with torch.no_grad():
        assert_close(program.module()(x), model(x))
        assert_close(torch.compile(fast, backend="eager")(x), model(x))
    torch.library.opcheck(
        torch.ops.podar.run_sparse.default, (fast.network._program_0, [x], "4,10,10"), test_utils="test_faketensor"
    )


def test_the_file_runs_without_torch(tmp_path: Path) -> None:
    model = thinned(import_torchvision().models.resnet18(num_classes=10))
    x = torch.randn(2, 3, 64, 64)
    fast = check(model, x)
    fast.save(tmp_path / "r18.podar")
    np.save(tmp_path / "x.npy", x.numpy())
    script = (
        "import sys, numpy, podar_native\n"
        "run = podar_native.Runner(sys.argv[1] + '/r18.podar', verify=True)\n"
        "numpy.save(sys.argv[1] + '/y.npy', run(numpy.load(sys.argv[1] + '/x.npy'))[0])\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    with torch.no_grad():
        assert_close(torch.from_numpy(np.load(tmp_path / "y.npy")), model(x))


def test_no_file_for_a_model_in_pieces(tmp_path: Path) -> None:
    class Pieces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).flip(2))

    fast = check(thinned(Pieces(), 0.5), torch.randn(1, 3, 8, 8))
    with pytest.raises(PodarError, match=r"no single program: flip\.default"):
        fast.save(tmp_path / "pieces.podar")
    assert not (tmp_path / "pieces.podar").exists()
