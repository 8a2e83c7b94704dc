"""MODEL as users write it: its arguments, its completion, and the nearest name where there is none."""

from __future__ import annotations

import pytest

from podar.errors import PodarError, UsageError
from podar.sources.naming import complete_model, parse_model_args
from podar.sources.opening import open_source


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet81", r"there is no model 'resnet81'; did you mean torchvision:resnet18\?"),
        ("yolo26", r"did you mean yolo26"),
        ("tim:resnet18", r"there is no kind of model 'tim'; did you mean timm:resnet18\?"),
        ("keras:resnet50", r"there is no kind of model 'keras'\."),
        ("qqqqqq", r"there is no model or folder 'qqqqqq': write one of .*timm:NAME"),
        (".", r"the folder \. holds no pruned model"),
        (__file__.replace(".py", ".safetensors"), r"there is no model or folder"),
    ],
)
def test_unknown_models_name_the_nearest(model: str, message: str) -> None:
    with pytest.raises(PodarError, match=message):
        open_source(model)


def test_model_args_are_python_literals_or_text() -> None:
    given = ["n=10", "rate=0.5", "depths=(2, 2)", "flag=False", "act=relu", "path=a=b", "none=None", "empty="]
    expected = {"n": 10, "rate": 0.5, "depths": (2, 2), "flag": False, "act": "relu", "path": "a=b", "none": None}
    assert parse_model_args(given) == {**expected, "empty": ""}
    for wrong in ("num_classes", "=3", "a b=3"):
        with pytest.raises(UsageError, match="write name=value"):
            parse_model_args([wrong])


def test_completion() -> None:
    assert complete_model("de") == ["demo"]
    assert complete_model("tor") == ["torchvision:"]
    assert "yolo26n-seg.yaml" in complete_model("yolo26n")
    assert complete_model("zzz") == []
