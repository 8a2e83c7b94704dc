"""CSV from anybody: the rows come through as they are, everything else ends in a few words."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podar.trust import tables
from podar.trust.plain import Unreadable
from podar.trust.tables import read_csv

words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), max_size=8)
each = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@each
@given(st.data())
def test_rows_come_through(tmp_path: Path, data: st.DataObject) -> None:
    names = data.draw(st.lists(words.filter(bool), min_size=1, max_size=4, unique=True))
    rows = data.draw(st.lists(st.lists(words.filter(bool), min_size=len(names), max_size=len(names)), max_size=4))
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([names, *rows])
    (tmp_path / "a.csv").write_text(out.getvalue(), encoding="utf-8")
    assert read_csv(tmp_path / "a.csv") == [dict(zip(names, row)) for row in rows]


@each
@given(st.binary(max_size=80) | st.text('a,"\n\r0\t', max_size=60).map(str.encode))
def test_any_bytes_end_in_rows_or_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    try:
        read_csv(tmp_path / "a.csv")
    except Unreadable as error:
        assert str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a,b\n" + b"1,2\n" * 300_000, "more than 200,000 rows"),
        (b",".join(b"c%d" % k for k in range(2000)) + b"\n", "more than 1,000 columns"),
        (b",".join(b"c%d" % k for k in range(900)) + b"\n" + (b"1," * 899 + b"1\n") * 1200, "1,000,000 fields"),
        (b"a\n" + b"x" * 20_000 + b"\n", "longer than 10,000 letters"),
        (b"a\n" + b"x" * 200_000 + b"\n", "field larger than field limit"),
        (b"a\n" + b"1\n" * (9 << 20), "larger than 16 MB"),
        (b"a,a\n1,2\n", "'a' stands twice"),
        (b"a,b\n1\n2,3\n", "line 2 has 1 fields"),
        (b"a,b\n1,2,3\n", "line 2 has 3 fields"),
        (b"a\n\xff\n", "UTF-8"),
        (b"a\n\0\n", "no character"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(Unreadable, match=said):
        read_csv(tmp_path / "a.csv")


def test_nothing_is_read_of_a_file_without_end() -> None:
    with pytest.raises(Unreadable, match="larger than"):
        read_csv("/dev/zero")


def test_a_line_that_breaks_off_is_left_away(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("epoch,time,loss\n1,2,3\n2,4")
    assert read_csv(tmp_path / "a.csv") == [{"epoch": "1", "time": "2", "loss": "3"}]
    assert tables.CSV_BYTES > 1 << 20
