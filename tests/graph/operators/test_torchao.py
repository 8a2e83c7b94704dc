"""Models that torchao prepared for training in whole numbers lose channels, or the error says what to do first."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import podar
from podar.errors import PodarError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("torchao", exc_type=ImportError)
    import torchao.quantization as ao
    from torchao.quantization import qat
    from torchao.quantization.pt2e import quantize_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

pytestmark = pytest.mark.filterwarnings("ignore")  # torchao's own
ROWS = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()


def images() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip


def prepared(**config: Any) -> nn.Module:
    model = layers()
    ao.quantize_(model, qat.QATConfig(step="prepare", **config))  # pyright: ignore
    return model


def rows(**more: Any) -> Any:
    return qat.IntxFakeQuantizeConfig(torch.int8, "per_channel", **more)


TOKENS: Any = qat.IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
GROUPS: Any = qat.IntxFakeQuantizeConfig(torch.int8, group_size=16)


@pytest.mark.parametrize("config", [{"weight_config": rows()}, {"weight_config": rows(), "activation_config": TOKENS}])
def test_ranges_of_rows_and_tokens_do_not_stand_in_the_way(config: dict[str, Any]) -> None:
    model = prepared(**config)
    masked = copy.deepcopy(model)
    result = podar.prune(model, ROWS, "channels=0.5", scope="local")
    assert result.after.params < 0.45 * result.before.params
    with torch.no_grad():
        wanted, got = podar.mask(masked, result.plan)(ROWS), model(ROWS)
    assert torch.allclose(wanted, got, atol=1e-5 * float(wanted.abs().max()))
    model.train()
    model(ROWS).sum().backward()


@pytest.mark.parametrize("training", [True, False])
def test_programs_with_observers(training: bool) -> None:
    exported = torch.export.export(images().train(training), (IMAGES,)).module()
    config = x86.get_default_x86_inductor_quantization_config(is_qat=training)
    prepare = quantize_pt2e.prepare_qat_pt2e if training else quantize_pt2e.prepare_pt2e
    model: Any = prepare(exported, x86.X86InductorQuantizer().set_global(config))
    model(IMAGES)
    before = sum(p.numel() for p in model.parameters())
    podar.prune(model, IMAGES, "channels=0.5", scope="local")
    assert sum(p.numel() for p in model.parameters()) < 0.45 * before
    assert torch.isfinite(model(IMAGES)).all()


@pytest.mark.parametrize(
    "build",
    [
        lambda: prepared(weight_config=GROUPS),
        lambda: prepared(weight_config=GROUPS, activation_config=TOKENS),
    ],
)
def test_groups_of_inputs_stay_and_the_error_says_what_to_do(build: Callable[[], nn.Module]) -> None:
    with pytest.raises(PodarError, match=r"rounded in groups.*prune first, and prepare the model"):
        podar.prune(build(), ROWS, "channels=0.5")


@pytest.mark.parametrize("config", [ao.Int8WeightOnlyConfig, ao.Int8DynamicActivationInt8WeightConfig])
def test_what_is_quantised_is_refused(config: Callable[[], Any]) -> None:
    model = layers()
    ao.quantize_(model, config())
    with pytest.raises(PodarError, match=r"0\.weight is quantised \(Int8Tensor of torchao\).*prune the model before"):
        podar.prune(model, ROWS, "channels=0.5")
