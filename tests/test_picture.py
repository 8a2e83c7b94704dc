"""The picture of the groups: well-formed, one line a group, one row a layer, and reasons to hover over."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from podar.cli import app

SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_of_a_network(tmp_path: Path) -> None:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    file = tmp_path / "groups.svg"
    done = CliRunner().invoke(app, ["--json", "inspect", "timm:test_resnet", "--picture", str(file)])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    tree = ElementTree.parse(file).getroot()
    lines = [e for e in tree.iter(f"{SVG}line") if e.get("stroke") != "#eee"]
    layers = {name.rpartition(".")[0] for name in found["layers"]}
    assert len(lines) == len(found["groups"])
    assert len(list(tree.iter(f"{SVG}text"))) == 1 + len(layers)
    titles = [e.text or "" for e in tree.iter(f"{SVG}title")]
    assert any("output of the model" in t for t in titles) and any("channels" in t for t in titles)
