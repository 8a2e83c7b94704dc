"""Layers that go straight to their operator leave the trace of their forward, and only where that is all they do."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import podar
from podar.errors import PodarError
from podar.graph.tracing.running import observe, replay
from podar.graph.tracing.shortcuts import LAYERS

PICTURE, CLIP, ROW = torch.zeros(2, 6, 9, 9), torch.zeros(2, 6, 5, 5, 5), torch.zeros(2, 6, 9)


def chain(*layers):
    return nn.Sequential(*layers).eval()


NETWORKS = {
    "picture": (
        chain(
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8, momentum=None),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, groups=2, dilation=2, padding=2, bias=False),
            nn.BatchNorm2d(8, affine=False),
            nn.SiLU(inplace=True),
            nn.Conv2d(8, 8, 3, padding="same"),
            nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
            nn.ReLU(inplace=True),
            nn.Flatten(2),
            nn.Linear(25, 4, bias=False),
            nn.SiLU(),
        ),
        PICTURE,
    ),
    "gates": (
        chain(
            nn.Conv2d(6, 8, 1),
            nn.ReLU6(),
            nn.AdaptiveAvgPool2d((4, 3)),
            nn.Conv2d(8, 8, 1),
            nn.Hardswish(inplace=True),
            nn.AdaptiveAvgPool2d((None, 2)),
            nn.LayerNorm(2),
            nn.Conv2d(8, 8, 1),
            nn.ReLU6(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.LayerNorm([8, 1, 1], elementwise_affine=False),
            nn.Hardsigmoid(),
            nn.Sigmoid(),
        ),
        PICTURE,
    ),
    "clip": (chain(nn.Conv3d(6, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 2, 1)), CLIP),
    "row": (chain(nn.Conv1d(6, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 2, 1), nn.Linear(7, 3)), ROW),
    "without a batch": (chain(nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), PICTURE[0]),
    "without statistics": (chain(nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), PICTURE),
}


def told(record):
    steps = [(s.name, s.module, s.shapes, s.constants) for s in record.steps]
    return steps, [(p.module, p.macs, len(p.axes)) for p in record.products], record.layouts.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_trace_is_that_of_the_forward(name):
    model, x = NETWORKS[name]
    hooked = copy.deepcopy(model)
    for module in hooked.modules():
        module.register_forward_hook(lambda *_: None)  # so its forward runs
    straight, usual = observe(model, x), observe(hooked, x)
    assert told(straight) == told(usual)
    assert str(podar.trace(model, x)) == str(podar.trace(hooked, x))
    names = [[(s.name, s.module, s.shapes) for s in replay(m, x, r)] for m, r in ((model, straight), (hooked, usual))]
    assert names[0] == names[1]


def test_every_layer_is_in_some_network():
    assert {type(m) for model, _ in NETWORKS.values() for m in model} >= LAYERS.keys()


class Doubled(nn.Conv2d):
    def forward(self, input):
        return super().forward(input) * 2


def instance(layer):
    layer.forward = lambda x: nn.Conv2d.forward(layer, x) * 2
    return layer


def hooked(layer):
    layer.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    return layer


@pytest.mark.parametrize("make", [lambda: Doubled(6, 6, 1), lambda: instance(nn.Conv2d(6, 6, 1)),
                                  lambda: hooked(nn.Conv2d(6, 6, 1))])  # fmt: skip
def test_layers_that_do_more_run_their_forward(make):
    steps = observe(chain(make(), nn.Conv2d(6, 2, 1)), PICTURE).steps
    assert sorted(s.name for s in steps) == ["convolution", "convolution", "mul"]


def test_a_forward_in_the_place_of_torchs_own_is_run(monkeypatch):
    own = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: own(self, x) * 2)
    assert [s.name for s in observe(chain(nn.Conv2d(6, 2, 1)), PICTURE).steps] == ["convolution", "mul"]


@pytest.mark.filterwarnings("ignore:.*weight_norm` is deprecated")
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, nn.utils.weight_norm])
def test_a_weight_that_is_computed_is_seen(norm):
    model = nn.Sequential(norm(nn.Conv2d(6, 8, 1)), nn.ReLU(), nn.Conv2d(8, 2, 1))
    assert "_weight_norm_interface" in {s.name for s in observe(model, PICTURE).steps}


def test_a_wrong_input_gets_torchs_own_complaint():
    with pytest.raises(PodarError, match="Expected 3D"):
        podar.trace(nn.Sequential(nn.Conv2d(6, 2, 1)), torch.zeros(6, 9))
