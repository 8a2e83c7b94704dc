"""What a training by Ultralytics left behind is read within bounds, whoever wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ultralytics")

from podar.errors import PodarError
from podar.libraries.ultralytics import training

HEADER = "                  epoch,time,train/box_loss,train/cls_loss,metrics/mAP50-95(B),lr/pg0\n"


def test_epochs_that_were_done_again_count_once(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    table.write_text(HEADER + "1,2.5,1,2,0.1,0.01\n2,5,1,1,0.2,0.02\n2,4,1,0.5,0.3,0.02\n")
    epochs = training.history(table)
    assert [(e["epoch"], e["loss"], e["val_accuracy"]) for e in epochs] == [(1, 3.0, 0.1), (2, 1.5, 0.3)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\0" * 100, "no character"),
        (HEADER.encode() + b"1,2,3\n" * 10, "line 2 has 3 fields"),
        (HEADER.encode() + b"one,2,3,4,5,6\n", "could not convert"),
        (HEADER.encode() + b"inf,2,3,4,5,6\n", "is no number"),
        (HEADER.encode() + b"1,nan,3,4,5,6\n", "is no number"),
        (b"a,b\n1,2\n", "no column 'epoch'"),
        (HEADER.encode() + b"1,2,3,4,5,6\n" * 250_000, "more than 200,000 rows"),
    ],
)
def test_a_hostile_table_is_one_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    table = tmp_path / "results.csv"
    table.write_bytes(content)
    for read in (training.history, training._end_at_a_line):
        with pytest.raises(PodarError, match=said) as refused:
            read(table)
        assert "\n" not in str(refused.value) and "results.csv" in str(refused.value)


def test_a_line_that_a_kill_broke_off_is_cut_before_ultralytics_writes_the_next(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    whole = HEADER + "1,2.5,1,2,0.1,0.01\n"
    table.write_text(whole + "2,5,1")
    training._end_at_a_line(table)
    assert table.read_text() == whole
