"""The prune stage: latency on the command line and in recipes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from podar.errors import UsageError
from podar.runs import recipe
from podar.stages.prune import _served
from tests.latency.simulator import NAME, simulator


@pytest.fixture(autouse=True)
def simulated() -> Iterator[None]:
    with simulator():
        yield


def made(tmp_path: Path, text: str) -> recipe.Recipe:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return recipe.read(path)


def test_the_runtime_and_threads_that_serve_are_those_of_later_stages(tmp_path: Path) -> None:
    found = made(
        tmp_path,
        "model: demo\nstages: [{prune: {target: latency=0.6}}, "
        "{export: {formats: [openvino]}}, {measure: {threads: 2}}]\n",
    )
    assert _served({}, found, ["openvino"]) == {"runtime": "openvino", "threads": 2}
    assert _served({"runtime": NAME}, found, ["openvino"]) == {"runtime": NAME, "threads": 2}
    assert _served({"table": "t.json"}, found, ["openvino"]) == {"table": "t.json", "threads": 2}


def test_several_targets_may_stand_in_a_recipe_as_a_mapping(tmp_path: Path) -> None:
    found = made(tmp_path, "model: demo\nstages: [{prune: {target: {macs: 0.5, latency: 8ms}}}]\n")
    assert str(found.stages[0]) == "macs=0.5, latency=8ms"


def test_an_unknown_runtime_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    found = made(tmp_path, "model: demo\nstages: [{prune: {target: latency=0.5, runtime: onnxruntim}}]\n")
    with pytest.raises(UsageError, match="onnxruntime"):
        found.stages[0].check(found)
