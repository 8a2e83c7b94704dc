"""The picture of the groups: well-formed, one line a group, one row a layer or block, and reasons to hover over."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from podar.cli import app
from podar.reports.picture import draw

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


def test_numbered_blocks_stand_above_their_layers() -> None:
    found = {
        "model": "net",
        "layers": ["stem.weight", "model.0.conv.weight", "model.0.bn.weight", "model.10.conv.weight"],
        "blocks": [
            {"name": "0 Conv", "module": "model.0", "params": 464, "macs": 11_100_000},
            {"name": "1 Upsample", "module": "model.1", "params": 0, "macs": 0},
            {"name": "10 Conv", "module": "model.10", "params": 2, "macs": 3},
        ],
        "groups": [],
        "frozen": [],
    }
    rows = [e.text for e in ElementTree.fromstring(draw(found)).iter(f"{SVG}text")][1:]
    blocks = [
        "0 Conv: 464 parameters, 11.1 M MACs",
        "1 Upsample: 0 parameters, 0 MACs",
        "10 Conv: 2 parameters, 3 MACs",
    ]
    layers = ["stem", "model.0.conv", "model.0.bn", "model.10.conv"]
    assert rows == [layers[0], blocks[0], *layers[1:3], blocks[1], blocks[2], layers[3]]
