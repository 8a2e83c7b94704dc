"""What reaches the terminal: nothing that it would obey, whatever a file is called."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from podar.cli import console

ANY = st.text(st.characters(), max_size=20)  # lone surrogates too: bytes of a file's name that are no text


@given(ANY)
def test_nothing_that_a_terminal_would_obey_is_passed_on(text: str) -> None:
    shown = console.harmless(text)
    assert all(c in "\t\n" or (ord(c) >= 32 and not 0x7F <= ord(c) <= 0x9F) for c in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    shown.encode()


@given(ANY)
def test_json_says_the_same_with_characters_by_number(text: str) -> None:
    written = console.escaped_json(json.dumps([text], ensure_ascii=False))
    written.encode()
    assert json.loads(written) == [text] and console.harmless(written) == written


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\x9b31mb", "[bold]a[/nonsense]", "a\x7f\udcff", ":smile:"])
def test_names_in_tables_and_errors_are_shown_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(box=None)
    table.add_row(name)
    console.out().print(table)
    console.out().print(name)
    console.fail(f"there is no file {name}")
    captured = capsys.readouterr()
    assert captured.out.count(console.harmless(name)) == 2 and console.harmless(name) in captured.err
    assert console.harmless(captured.out + captured.err) == captured.out + captured.err
