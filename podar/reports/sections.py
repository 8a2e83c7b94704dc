"""Sections of the report: what a stage shows on the page, from a template that lies beside the stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from podar.reports import numbers
from podar.reports.record import RunRecord

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Section:
    """A part of the page.

    - `rank`: sections stand in this order. The chart of accuracy against cost has 40.
    - `draw`: record → HTML; empty where the run has nothing of the kind. Text that is not marked as HTML is escaped.
    """

    rank: int
    draw: Callable[[RunRecord], str]


def fill_template(template: str | Path, **values: Any) -> Markup:
    """The HTML of a template: Jinja with every text escaped, the filters of `numbers`, and macros.html.jinja."""
    path = Path(template)
    environment = Environment(
        loader=FileSystemLoader([_HERE, path.parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=numbers.count,
        size=numbers.byte_size,
        ms=numbers.milliseconds,
        duration=numbers.duration,
        percent=numbers.percent,
    )
    return Markup(environment.get_template(path.name).render(**values))


def rendered(sections: tuple[Section, ...], record: RunRecord) -> list[Markup]:
    """The HTML of all sections that have something to show, in their order."""
    found = [escape(section.draw(record)) for section in sorted(sections, key=lambda section: section.rank)]
    return [html for html in found if html.strip()]
