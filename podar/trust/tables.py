"""Reads CSV files that anybody may have written: a header and rows within bounds, or what is wrong in a few words."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from podar.trust.plain import Unreadable, read_bytes

CSV_BYTES = 16 << 20  # a training of a hundred thousand epochs has about as much
_ROWS = 200_000
_FIELDS = 1_000_000  # of all rows together
_COLUMNS = 1_000
_LETTERS = 10_000  # of one field


def read_csv(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The rows of a CSV file, each a mapping from the header's names to its fields, without blanks around them.

    A last line that breaks off is left away: a program that writes line by line was killed there, or the disk was full.

    **Raises:** `FileNotFoundError`; `Unreadable` for a file that is too large, holds too many rows, columns or letters,
    is not text in UTF-8, names a column twice, or has rows of another length than its header.
    """
    try:
        text = read_bytes(Path(path), CSV_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable("it is not text in UTF-8") from None
    if "\0" in text:
        raise Unreadable("it holds what is no character")
    lines = text.splitlines()
    if len(lines) > _ROWS:
        raise Unreadable(f"it has more than {_ROWS:,} rows")
    header: list[str] = []
    rows: list[dict[str, str]] = []
    try:
        for number, fields in enumerate(csv.reader(lines), 1):
            if max(map(len, fields), default=0) > _LETTERS:
                raise Unreadable(f"a field in line {number} is longer than {_LETTERS:,} letters")
            if not header:
                header = _columns(fields)
                continue
            if (len(rows) + 1) * len(header) > _FIELDS:
                raise Unreadable(f"it holds more than {_FIELDS:,} fields")
            if len(fields) < len(header) and number == len(lines) and not text.endswith("\n"):
                break
            if fields and len(fields) != len(header):
                raise Unreadable(f"line {number} has {len(fields)} fields, and the header has {len(header)}")
            if fields:
                rows.append({name: field.strip() for name, field in zip(header, fields)})
    except csv.Error as error:  # a field beyond what the parser takes
        raise Unreadable(str(error)) from None
    return rows


def _columns(fields: list[str]) -> list[str]:
    names = [field.strip() for field in fields]
    if len(names) > _COLUMNS:
        raise Unreadable(f"it has more than {_COLUMNS:,} columns")
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise Unreadable(f"the column {repeated[:80]!r} stands twice")
    return names
