"""torchvision models by name, of every task."""

from __future__ import annotations

import pytest

from podar.errors import PodarError
from podar.libraries import find_library
from podar.libraries.torchvision import open_model
from podar.model.inputs import call


@pytest.mark.parametrize(
    ("name", "shape"),
    [("resnet18", (1, 3, 224, 224)), ("mobilenet_v3_small", (1, 3, 224, 224)), ("inception_v3", (1, 3, 299, 299))],
)
def test_classifiers(name: str, shape: tuple[int, ...]) -> None:
    source = open_model(f"torchvision:{name}", {"num_classes": 4}, False)
    model = source.make()
    inputs = source.inputs()
    assert inputs.shape == shape
    assert call(model, inputs).shape == (1, 4)


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large", "raft_small"])
def test_other_tasks_run_and_fetch_nothing(name: str) -> None:
    source = open_model(f"torchvision:{name}", {}, False)
    model = source.make()
    call(model, source.inputs())


def test_an_unknown_name_or_argument_names_the_nearest() -> None:
    with pytest.raises(PodarError, match=r"did you mean torchvision:vit_b_16\?"):
        open_model("torchvision:vit_b16", {}, False)
    with pytest.raises(PodarError, match=r"knows no argument 'num_clases'; did you mean num_classes\?"):
        open_model("torchvision:resnet18", {"num_clases": 3}, False).make()


def test_completion() -> None:
    kind = find_library("torchvision:anything")
    assert kind is not None
    assert set(kind.complete("torchvision:vit_b")) == {"torchvision:vit_b_16", "torchvision:vit_b_32"}
