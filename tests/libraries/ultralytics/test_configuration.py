"""Configurations come from anybody: rows name layers, activations are from a list, nothing is run, nothing explodes."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from podar.errors import PodarError
from podar.libraries.ultralytics import architectures, make_ready, open_model
from podar.libraries.ultralytics.building import build
from podar.libraries.ultralytics.configuration import checked

PLAIN: dict[str, Any] = {
    "nc": 2,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "C2f", [16, True]]],
    "head": [[[0, 1], 1, "Detect", ["nc"]]],
}
make_ready()
fired: list[str] = []


@pytest.fixture(scope="module")
def small() -> nn.Module:
    from ultralytics.nn.tasks import DetectionModel

    return build(DetectionModel, PLAIN, "x.yaml")


def fire(*args: Any) -> str:
    fired.append("fired")
    return "fired"


def test_every_architecture_of_ultralytics_passes_unchanged() -> None:
    from ultralytics.nn.tasks import yaml_model_load

    for name in architectures():
        raw: Any = yaml_model_load(name)
        found = checked(raw, of=name)
        for section in ("backbone", "head"):
            for row, original in zip(found[section], raw[section], strict=True):
                assert row[:3] == list(original[:3])
                if row[2] != "TorchVision":
                    assert row[3] == list(original[3]), name


@pytest.mark.parametrize(
    "row",
    [
        [-1, 1, "torch_safe_load", ["weights.pt"]],
        [-1, 1, "check_file", ["http://example.org/x.yaml"]],
        [-1, 1, "yaml_model_load", ["x.yaml"]],
        [-1, 1, "DetectionModel", ["x.yaml"]],
        [-1, 1, "YAML", []],
        [-1, 1, "LOGGER", []],
        [-1, 1, "__builtins__", []],
        [-1, 1, "os.system", ["true"]],
        [-1, 1, "torch.load", ["x.pt"]],
        [-1, 1, "nn.Module.__init_subclass__", []],
        [-1, 1, "nn.utils", []],
        [-1, 1, "nn.Parameter", [1]],
        [-1, 1, "nn.__loader__", []],
        [-1, 1, "nn.init", []],
        [-1, 1, "torchvision.ops.nms", []],
        [-1, 1, "torchvision.ops.__spec__", []],
        [-1, 1, "", []],
        [-1, 1, None, []],
        [-1, 1, ["Conv"], [8]],
        [-1, 1, "TorchVision", [512, "fasterrcnn_resnet50_fpn", "DEFAULT"]],
        [-1, 1, "TorchVision", [512, "../resnet18", "DEFAULT"]],
        [-1, 1, "Conv", ["__import__('os')"]],
        [-1, 1, "Conv", ["ast"]],
        [-1, 1, "Conv", [10**9, 3]],
        [-1, 1, "Conv", [float("nan"), 3]],
        [-1, 1, "Conv", [[[[[[[1]]]]]]]],
        [-1, 1, "Conv", {"c2": 8}],
        [-1, 10**9, "Conv", [8]],
        [-1, -1, "Conv", [8]],
        [-1, "2", "Conv", [8]],
        [7, 1, "Conv", [8]],
        [-9, 1, "Conv", [8]],
        [[], 1, "Concat", [1]],
        [True, 1, "Conv", [8]],
        [-1, 1, "Conv"],
        "Conv",
    ],
)
def test_a_row_that_names_no_layer_or_holds_no_plain_data(row: Any) -> None:
    config = copy.deepcopy(PLAIN)
    config["backbone"].insert(1, row)
    with pytest.raises(PodarError, match=r"^x\.yaml: row 1 of backbone"):
        checked(config, of="x.yaml")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("nc", 0),
        ("nc", 10**9),
        ("nc", "2"),
        ("nc", True),
        ("ch", -3),
        ("reg_max", 10**6),
        ("depth_multiple", 1e9),
        ("width_multiple", float("nan")),
        ("scales", [1, 2]),
        ("scales", {"n": [1, 1]}),
        ("scales", {"n": [1, 1e6, 1024]}),
        ("kpt_shape", [17]),
        ("backbone", {}),
        ("head", [[-1, 1, "Conv", [8]]] * 1000),
        ("names", {0: "a\x1b[2J"}),
        ("names", fire),
        (5, 5),
    ],
)
def test_other_keys(key: Any, value: Any) -> None:
    with pytest.raises(PodarError, match=r"^x\.yaml"):
        checked({**PLAIN, key: value}, of="x.yaml")


@pytest.mark.parametrize("config", [None, [], "x", {}, {"backbone": []}, {"backbone": [], "head": []}])
def test_what_is_no_configuration(config: Any) -> None:
    with pytest.raises(PodarError, match="describes no Ultralytics model"):
        checked(config, of="x.yaml")


@pytest.mark.parametrize(
    "activation",
    [
        f"__import__({__name__!r}).fire()",
        "nn.SiLU() if fire() else 0",
        "nn.utils.skip_init(nn.SiLU)",
        "nn.Linear(9, 9)",
        "nn.SiLU(inplace=fire())",
        "nn.SiLU(*[1])",
        "nn.SiLU(**{})",
        "(lambda: 0)()",
        "nn.SiLU().register_forward_hook(print)",
        "nn.LeakyReLU(1e999)",
        "nn.PReLU(100000000000)",
        "nn.SiLU()" + " " * 1000,
        "(" * 150,
        7,
        ["nn.SiLU()"],
    ],
)
@pytest.mark.parametrize("way", ["yaml", "checkpoint", "head"])
def test_an_activation_is_not_evaluated(tmp_path: Path, activation: Any, way: str, small: nn.Module) -> None:
    """In a YAML, in a checkpoint's own configuration, and where a model gets another head."""
    model: Any = copy.deepcopy(small)
    with pytest.raises(PodarError, match="activation"):
        if way == "yaml":
            (tmp_path / "x.yaml").write_text(yaml.safe_dump({**PLAIN, "activation": activation}))
            open_model(str(tmp_path / "x.yaml"), {}, True).make()
        elif way == "checkpoint":
            model.yaml["activation"] = activation
            torch.save({"model": model}, tmp_path / "x.pt")
            open_model(str(tmp_path / "x.pt"), {}, False).make()
        else:
            from podar.libraries.ultralytics.heads import with_head

            model.yaml["activation"] = activation
            with_head(model, nc=5)
    assert fired == []


@pytest.mark.parametrize(
    ("written", "kind", "attribute", "value"),
    [
        ("nn.ReLU()", nn.ReLU, "inplace", False),
        ("torch.nn.ReLU()", nn.ReLU, "inplace", False),
        ("SiLU", nn.SiLU, "inplace", False),
        ("nn.LeakyReLU(0.1, inplace=True)", nn.LeakyReLU, "negative_slope", 0.1),
        ("nn.GELU('tanh')", nn.GELU, "approximate", "tanh"),
    ],
)
def test_known_activations_reach_every_convolution(
    tmp_path: Path, written: str, kind: type[nn.Module], attribute: str, value: Any
) -> None:
    from ultralytics.nn.modules import Conv

    before = Conv.default_act
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({**PLAIN, "activation": written}))
    model: Any = open_model(str(tmp_path / "x.yaml"), {}, False).make()
    assert Conv.default_act is before
    acts = {type(m.act) for m in model.model[:2].modules() if isinstance(m, Conv)}
    assert acts == {kind}
    assert getattr(model.model[0].act, attribute) == value
    assert isinstance(eval(model.yaml["activation"], {"nn": nn}), kind)  # the form that plain Ultralytics reads


@pytest.mark.parametrize(
    "rows",
    [
        [[-1, 1, "Conv", [60000, 3]], [-1, 1, "Conv", [60000, 3]]],
        [[-1, 1, "Conv", [4096, 3]], [-1, 200, "Conv", [4096, 3]]],
        [[-1, 1, "Conv", [64, 3, 1]]] + [[-1, 1, "nn.Upsample", [None, 2]]] * 8 + [[-1, 1, "Conv", [64, 3, 1]]],
        [[-1, 1, "nn.Linear", [65536, 65536]]] * 3,
    ],
)
def test_a_model_that_would_fill_the_memory_is_refused_first(tmp_path: Path, rows: list[Any]) -> None:
    head = [[[len(rows) - 1], 1, "Detect", ["nc"]]]
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({"nc": 2, "backbone": rows, "head": head}))
    with pytest.raises(PodarError, match="takes more than"):
        open_model(str(tmp_path / "x.yaml"), {}, False).make()


def test_torchvision_layers_download_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fire)
    config = {
        "nc": 2,
        "backbone": [[-1, 1, "TorchVision", [512, "resnet18", "DEFAULT", True, 2]]],
        "head": [[-1, 1, "Classify", ["nc"]]],
    }
    from ultralytics.nn.tasks import ClassificationModel

    model: Any = build(ClassificationModel, config, "x.yaml")
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 2)
    assert fired == []


COORD = """
import pathlib
pathlib.Path(__file__).with_suffix('.ran').touch()
import torch
from torch import nn

class CoordAtt(nn.Module):
    def __init__(self, inp, oup, reduction=32):
        super().__init__()
        self.pool, self.conv = nn.AdaptiveAvgPool2d(1), nn.Conv2d(inp, oup, 1)
        self.reduction = reduction
    def forward(self, x):
        return self.conv(x) * self.conv(self.pool(x)).sigmoid()

class Gate(nn.Module):
    def __init__(self, channels, kernel=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
    def forward(self, x):
        return x * self.conv(x).sigmoid()

class Bare(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale
    def forward(self, x):
        return x * self.scale
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a YAML at scale n (a quarter of all channels) with one row of the user's own, and the file beside it."""
    from podar.trust import user_code

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(user_code, "_taken", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("coord_att", "moved"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "coord_att.py").write_text(COORD)

    def write(name: str, args: list[Any]) -> str:
        backbone = [[-1, 1, "Conv", [64, 3, 2]], [-1, 1, "Conv", [128, 3, 2]], [-1, 1, name, args]]
        config = {
            "nc": 2,
            "scales": {"n": [0.5, 0.25, 1024]},
            "backbone": [*backbone, [-1, 1, "C2f", [128, True]]],
            "head": [[[2, 3], 1, "Detect", ["nc"]]],
        }
        (tmp_path / "yolo11n-own.yaml").write_text(yaml.safe_dump(config))
        return "yolo11n-own.yaml"

    return write


@pytest.mark.parametrize(
    ("name", "args", "channels", "attribute", "value"),
    [
        ("CoordAtt", [], 32, "reduction", 32),
        ("CoordAtt", [128], 32, "reduction", 32),
        ("CoordAtt", [256], 64, "reduction", 32),
        ("CoordAtt", [256, 16], 64, "reduction", 16),
        ("CoordAtt", [128, 256], 64, "reduction", 32),
        ("CoordAtt", [128, 256, 8], 64, "reduction", 8),
        ("CoordAtt", [32, 32, 4], 32, "reduction", 4),
        ("Gate", [], 32, "conv", None),
        ("Gate", [128], 32, "conv", None),
        ("Gate", [32, 5], 32, "conv", None),
        ("Gate", [7], 32, "conv", None),
        ("Bare", [2.5], 32, "scale", 2.5),
        ("Bare", [], 32, "scale", 1.0),
    ],
)
def test_a_layer_of_the_users_own(
    own: Callable[..., str], name: str, args: list[Any], channels: int, attribute: str, value: Any
) -> None:
    from podar.trust.user_code import take

    model_name = own(name, args)
    take(["coord_att.py"])
    model: Any = open_model(model_name, {}, False).make()
    layer = model.model[2]
    assert type(layer).__name__ == name
    assert layer.type == f"coord_att.{name}"
    assert layer(torch.zeros(1, 32, 8, 8)).shape[1] == channels
    assert value is None or getattr(layer, attribute) == value
    assert model.model[3].cv1.conv.in_channels == channels


def test_a_file_of_the_current_folder_is_named_and_not_run(own: Callable[..., str], tmp_path: Path) -> None:
    name = own("CoordAtt", [])
    with pytest.raises(PodarError, match=r"coord_att\.py defines it: add --module coord_att\.py if"):
        open_model(name, {}, False)
    assert not (tmp_path / "coord_att.ran").exists()
    open_model(name, {}, True).make()  # --trust takes it from there
    assert (tmp_path / "coord_att.ran").exists()


def test_a_checkpoint_with_a_layer_of_the_users_own(
    own: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever module it was pickled from: the file that is named now has the class."""
    from podar.libraries.ultralytics.heads import with_head
    from podar.trust import user_code

    name = own("CoordAtt", [256])
    user_code.take(["coord_att.py"])
    model: Any = open_model(name, {}, False).make()
    torch.save({"model": model}, tmp_path / "best.pt")
    monkeypatch.setattr(user_code, "_taken", {})
    with pytest.raises(PodarError, match=r"coord_att\.py defines a class of this name: add --module coord_att\.py"):
        open_model("best.pt", {}, False).make()
    (tmp_path / "moved.py").write_text(COORD)
    (tmp_path / "coord_att.py").unlink()
    user_code.take(["moved.py"])
    read: Any = open_model("best.pt", {}, False).make()
    assert type(read.model[2]).__module__ == "moved"
    assert with_head(read, nc=5).model[-1].nc == 5
