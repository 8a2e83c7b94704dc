"""Plain data that are checked against a pydantic model: what is wrong becomes a few words that name the place."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from podar.trust.plain import Unreadable

Checked = TypeVar("Checked", bound=BaseModel)


def validated(kind: type[Checked], data: Any) -> Checked:
    """The model of plain data.

    **Raises:** `Unreadable` with the place of the first thing that is wrong, and what is wrong there.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part)[:60] for part in first["loc"]) or "the whole"
        raise Unreadable(f"{place}: {first['msg'][:100]}") from error
