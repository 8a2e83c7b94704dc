"""The kinds of MODEL: found by their files, and listed without importing torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from podar.libraries import find_library, libraries


@pytest.mark.parametrize(
    ("model", "form"),
    [
        ("timm:resnet18", "timm:NAME"),
        ("torchvision:resnet50", "torchvision:NAME"),
        ("transformers:some/folder", "transformers:FOLDER"),
        ("net.py:make", "FILE.py:FUNCTION"),
        ("some/net.py", "FILE.py:FUNCTION"),
        ("yolo26n.yaml", "yolo26n.yaml, yolo26n.pt"),
        ("runs/best.pt", "yolo26n.yaml, yolo26n.pt"),
        ("demo", "demo"),
    ],
)
def test_every_string_has_its_kind(model: str, form: str) -> None:
    kind = find_library(model)
    assert kind is not None
    assert kind.form == form


def test_what_is_of_no_kind() -> None:
    assert [
        find_library(model) for model in ("", "resnet18", "keras:resnet50", "no/such/folder", "weights.safetensors")
    ] == [None] * 5


def test_kinds_are_registered_once() -> None:
    assert [kind.form for kind in libraries()] == [kind.form for kind in libraries()]


def test_listing_them_imports_neither_torch_nor_their_libraries() -> None:
    code = (
        "import sys; from podar.sources.naming import complete_model; complete_model(''); complete_model('yolo26'); "
        "sys.exit(', '.join({'torch', 'timm', 'transformers', 'ultralytics'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
