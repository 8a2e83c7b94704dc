"""Records are read from run folders; what is missing or damaged is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from podar.errors import PodarError
from podar.reports import Layer, RunRecord


def test_a_record_is_read_from_its_folder(summary, record_of, tmp_path: Path) -> None:
    expected = record_of(summary, tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    record = RunRecord.from_folder(tmp_path)
    assert record == expected
    assert record.layers[1] == Layer("layer1.0.conv1", 64, 24, "channels")
    assert record.pictures[0].png.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, "holds no finished run"),
        ("{", "cannot be read"),
        ("{}", "is damaged .before is missing"),
        ('{"before": {}, "after": {}, "command": "", "versions": {}, "layers": [{"nam": 1}]}', "is damaged"),
        (
            '{"before": {}, "after": {}, "command": "", "versions": {}, "pictures": [{"file": "gone.png", "label": "a",'
            ' "before": "a", "before_confidence": 1, "after": "a", "after_confidence": 1}]}',
            "gone.png",
        ),
    ],
)
def test_a_damaged_folder_is_one_sentence(tmp_path: Path, text: str | None, match: str) -> None:
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    with pytest.raises(PodarError, match=match):
        RunRecord.from_folder(tmp_path)
