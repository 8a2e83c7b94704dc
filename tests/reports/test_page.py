"""The report: its numbers are the run's, in a real browser too; nothing comes from outside; text is text."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from podar.errors import PodarError
from podar.reports import RunRecord
from podar.reports.page import render as page
from podar.reports.page import write as page_to
from podar.stages import sections
from podar.stages.evaluate_dense import by_reason


def render(record: RunRecord) -> str:
    """The page with what the stages of runs show."""
    return page(record, sections())


def write(record: RunRecord, path: Path) -> None:
    page_to(record, path, sections())


_UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "ms": 1, "%": 0.01}


def at(summary: dict[str, Any], field: str) -> Any:
    """The value at a hook's place in the summary."""
    value: Any = summary
    for key in field.split(".", 1)[:1] + _keys(summary, field):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def _keys(summary: dict[str, Any], field: str) -> list[str]:
    rest = field.split(".")[1:]
    return [".".join(rest)] if field.startswith(("versions.", "stages.")) else rest


def check_hooks(found: list[tuple[str, str | None, str]], summary: dict[str, Any]) -> set[str]:
    """Every hook holds the summary's exact value, and the text beside it says the same, rounded."""
    for field, exact, text in found:
        value = at(summary, field)
        if exact is None:
            assert text == str(value), field
            continue
        assert float(exact) == value, field
        unit = re.fullmatch(r"([\d.,]+)\s*(\D*)", text)
        if unit and unit[2] in _UNITS and not field.startswith("stages."):
            shown = float(unit[1].replace(",", "")) * _UNITS[unit[2]]
            assert shown == pytest.approx(value, rel=0.01, abs=1e-3), (field, text)
    return {field for field, _, _ in found}


def expected_fields(summary: dict[str, Any]) -> set[str]:
    """The fields that no page may lack."""
    halves = {
        f"{half}.{name}"
        for half in ("before", "after")
        for name in ("params", "macs", "bytes", "memory_bytes", "accuracy", "latency_ms.p50", "latency_ms.p95")
    }
    layers = {f"layers.{i}.{half}" for i in range(len(summary["layers"])) for half in ("before", "after")}
    points = {f"points.{i}.{k}" for i in range(len(summary["points"])) for k in ("accuracy", "macs", "latency_ms")}
    epochs = {f"history.{i}.{k}" for i in range(len(summary["history"])) for k in ("val_accuracy", "loss")}
    pictures = {
        f"pictures.{i}.{half}_confidence" for i in range(len(summary["pictures"])) for half in ("before", "after")
    }
    return {"command", *halves, *layers, *points, *epochs, *pictures}


def test_every_number_on_the_page_is_the_summarys(summary, record_of, hooks, tmp_path: Path) -> None:
    fields = check_hooks(hooks(render(record_of(summary, tmp_path))), summary)
    assert expected_fields(summary) <= fields
    assert {f"stages.{name}" for name in summary["stages"]} <= fields


def test_a_browser_shows_the_same_numbers(summary, record_of, hooks, rendered, tmp_path: Path) -> None:
    write(record_of(summary, tmp_path), tmp_path / "report.html")
    dom = rendered(tmp_path / "report.html")
    assert expected_fields(summary) <= check_hooks(hooks(dom), summary)
    assert "alert(1)" in dom and "<script" not in dom


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_sticks_out_of_a_narrow_or_a_wide_window(summary, record_of, rendered, tmp_path: Path, width) -> None:
    summary["layers"] += [
        {"name": f"backbone.stages.{i}.blocks.attention.projection", "kind": "heads", "before": 12, "after": 6}
        for i in range(60)
    ]
    page = html.escape(render(record_of(summary, tmp_path)), quote=True)
    # Chromium's own windows have a least width; a frame has none. The page's frame may be asked by its parent.
    outer = tmp_path / "frame.html"
    outer.write_text(
        f"""<iframe id=f srcdoc="{page}" style="width:{width}px;height:900px;border:0"></iframe><p id=out></p>
        <script>f.onload = () => {{ const d = f.contentDocument; out.textContent = JSON.stringify([
          d.documentElement.scrollWidth, d.documentElement.clientWidth,
          Math.min(...[...d.querySelectorAll('main *')].filter(e => e.textContent.trim() && e.getClientRects().length)
            .map(e => parseFloat(getComputedStyle(e).fontSize)))]) }}</script>""",
        encoding="utf-8",
    )
    told = re.search(r'<p id="out">\[([\d.,]+)\]', rendered(outer))
    assert told is not None
    scroll, client, smallest = map(float, told[1].split(","))
    assert scroll <= client <= width, "the page is wider than its window"
    assert smallest >= 11, "no letter is smaller than 11 pixels, whatever the window"


def test_the_page_needs_nothing_from_outside(summary, record_of, tmp_path: Path) -> None:
    text = render(record_of(summary, tmp_path))
    assert "<script" not in text
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert re.findall(r"https?://|@import|url\(", text) == []
    assert len(text) < 200_000
    assert "default-src 'none'" in text, "the browser itself is told to load nothing"


def test_what_users_and_libraries_wrote_is_text(summary, record_of, tmp_path: Path) -> None:
    text = render(record_of(summary, tmp_path))
    for written in ("net <script>alert(1)</script> on x", "x & y: 100", "<b>Coat</b>", "<fixed>", "'runs/<x> & y'"):
        assert (
            html.escape(written, quote=False) in text
            or html.escape(written) in text
            or str(html.escape(written).replace("&#x27;", "&#39;")) in text
        )
        assert written not in text


def test_a_run_without_data_training_or_export_has_a_page(tmp_path: Path) -> None:
    half = {"params": 10, "macs": 20, "bytes": 40}
    record = RunRecord(before=half, after={**half, "macs": 10}, command="podar prune x", versions={})
    text = render(record)
    assert "0.50×" in text
    for absent in ("Recovery", "What the network sees", "Accuracy against cost", "Latency:", "Width of every layer"):
        assert absent not in text


def test_frozen_axes_stand_under_their_reasons(summary, record_of, tmp_path: Path) -> None:
    gathered = by_reason(record_of(summary, tmp_path).frozen)
    assert [(reason, len(axes)) for reason, axes in gathered] == [
        ("output of the model", 2),
        ("meets an axis of <fixed> size", 1),
    ]


def test_many_layers_hide_behind_a_click_and_share_one_scale(summary, record_of, hooks, tmp_path: Path) -> None:
    summary["layers"] = [{"name": f"l{i}", "kind": "channels", "before": 8 * (i + 1), "after": 8} for i in range(60)]
    text = render(record_of(summary, tmp_path))
    assert "<summary>12 more</summary>" in text
    assert expected_fields(summary) <= check_hooks(hooks(text), summary)
    widths = [float(width) for width in re.findall(r'<i style="width:([\d.]+)%"></i><b', text)]
    assert len(widths) == 60 and max(widths[:48]) == pytest.approx(80.0)


def test_a_page_that_cannot_be_written_leaves_the_old_one(summary, record_of, tmp_path: Path) -> None:
    record = record_of(summary, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(PodarError, match="cannot write"):
        write(record, tmp_path / "file" / "report.html")
