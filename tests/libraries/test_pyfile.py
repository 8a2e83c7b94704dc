"""The user's own file: its function is called, what is wrong with it is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from podar.errors import PodarError, UsageError
from podar.libraries import find_library
from podar.libraries.pyfile import open_model

SOURCE = """
import torch
from torch import nn
from parts_of_the_net import block

def net(width=8, classes=10):
    return nn.Sequential(block(width), nn.Flatten(), nn.Linear(width * 16 * 16, classes))

def number():
    return 3

def broken():
    raise RuntimeError("no such dataset")

class Small(nn.Linear):
    def __init__(self, classes=2):
        super().__init__(12, classes)

def _hidden():
    pass
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(SOURCE)
    (tmp_path / "parts_of_the_net.py").write_text(
        "from torch import nn\ndef block(width):\n    return nn.Conv2d(3, width, 3, padding=1)\n"
    )
    return tmp_path / "nets.py"


def test_a_function_with_arguments_and_a_sibling_import(file: Path) -> None:
    source = open_model(f"{file}:net", {"width": 4, "classes": 3}, False)
    model = source.make()
    assert isinstance(model, nn.Sequential)
    assert source.inputs().shape == (1, 3, 16, 16)  # the only size that fits
    assert source.spec == {"model": f"{file}:net", "model_args": {"width": 4, "classes": 3}}
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), source.make().parameters()))


def test_a_class(file: Path) -> None:
    source = open_model(f"{file}:Small", {}, False)
    assert source.inputs().shape == (1, 12)


@pytest.mark.parametrize(
    "line",
    ["example_inputs = (torch.zeros(2, 3, 16, 16),)", "def example_inputs(): return (torch.zeros(2, 3, 16, 16),)"],
)
def test_the_file_may_say_what_the_model_eats(file: Path, line: str) -> None:
    file.write_text(SOURCE + line.replace("X", "torch.zeros(2, 3, 16, 16)"))
    source = open_model(f"{file}:net", {}, False)
    assert source.inputs()[0].shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nett", r"has no function 'nett'; did you mean .*nets\.py:net\?"),
        ("number", "returned int instead of a torch.nn.Module"),
        ("broken", "cannot be built: no such dataset"),
    ],
)
def test_functions_that_give_no_model(file: Path, function: str, message: str) -> None:
    with pytest.raises(PodarError, match=message):
        open_model(f"{file}:{function}", {}, False).make()


def test_an_unknown_argument_names_the_nearest(file: Path) -> None:
    with pytest.raises(PodarError, match=r"knows no argument 'clases'; did you mean classes\?"):
        open_model(f"{file}:net", {"clases": 1}, False).make()


def test_a_missing_argument_names_the_option(file: Path) -> None:
    file.write_text("from torch import nn\n\ndef make(width, depth): return nn.Linear(width, depth)\n")
    with pytest.raises(PodarError, match=r"needs the argument width: add --model-arg width=VALUE\."):
        open_model(f"{file}:make", {}, False).make()


def test_a_file_without_a_function(file: Path) -> None:
    with pytest.raises(UsageError, match=r"names a file but no function in it: write for example .*nets\.py:net\."):
        open_model(str(file), {}, False)


def test_a_missing_file_and_one_that_fails(file: Path) -> None:
    with pytest.raises(PodarError, match=r"there is no file .*netz\.py; did you mean nets\.py\?"):
        open_model(f"{file.with_name('netz.py')}:net", {}, False)
    file.write_text("import torch\n)\n")
    with pytest.raises(PodarError, match=r"nets\.py, line 2 cannot be run: SyntaxError"):
        open_model(f"{file}:net", {}, False)
    file.write_text("import no_such_package_xyz\n")
    with pytest.raises(PodarError, match=r"nets\.py cannot be run: ModuleNotFoundError: No module named"):
        open_model(f"{file}:net", {}, False)


def test_completion_reads_names_without_running_the_file(file: Path) -> None:
    kind = find_library(f"{file}:net")
    assert kind is not None
    file.write_text(SOURCE + "raise SystemExit('it ran')")
    assert list(kind.complete(f"{file}:")) == [f"{file}:{name}" for name in ("net", "number", "broken", "Small")]
    assert f"{file}:net" in kind.complete(str(file)[:-4])
