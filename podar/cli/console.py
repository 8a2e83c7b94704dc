"""What people see in the terminal: tables of results and progress bars, drawn by rich."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderHook
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from podar.errors import sizes

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_VERDICTS = {"better": "green", "worse": "yellow", "same": "dim"}
_MOST_FROZEN = 12  # reasons listed by inspect; the rest is in --json


# What a terminal obeys instead of showing it, or what it cannot show: control characters, marks that turn the direction
# of text, halves of pairs (bytes of a file's name that are no text).
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str) -> str:
    r"""A text of somebody else's, such as a file's name, for a terminal: what it would obey is spelled out.

    ```python
    >>> harmless("a\x1b[31mb")
    'a\\x1b[31mb'

    ```
    """
    return _UNSHOWN.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}" if _is_byte(found[0]) else _spelled(found), text)


def escaped_json(text: str) -> str:
    """The same for JSON, whose strings may hold any character by its number."""
    return _UNSHOWN.sub(_spelled, text)


def _is_byte(character: str) -> bool:
    return ord(character) < 0x100 or 0xDC80 <= ord(character) <= 0xDCFF


def _spelled(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


class _Harmless(RenderHook):
    """Spells out what a terminal would obey in everything that is printed, whoever wrote it."""

    def process_renderables(self, renderables: list[Any]) -> list[Any]:
        return [_Shown(renderable) for renderable in renderables]


class _Shown:
    def __init__(self, renderable: Any) -> None:
        self.renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for part in console.render(self.renderable, options):
            yield part if part.control else Segment(harmless(part.text), part.style)


def _console(**options: Any) -> Console:
    console = Console(highlight=False, markup=False, emoji=False, **options)
    console.push_render_hook(_Harmless())
    return console


def out() -> Console:
    """The terminal's standard output; in a pipe or a file, lines stay whole."""
    console = _console()
    return console if console.is_terminal else _console(width=200)


def on_one_line(message: str) -> str:
    """A message on one line, with a full stop."""
    text = harmless(" ".join(message.split()))
    return text if text.endswith((".", "!", "?")) else text + "."


def fail(message: str) -> None:
    """One sentence on standard error."""
    _console(stderr=True, soft_wrap=True).print(Text.assemble(("Error: ", "bold red"), on_one_line(message)))


def headline_table(summary: Mapping[str, Any]) -> Iterator[Any]:
    """What ends a run: every headline number before and after, and what the reader should know."""
    from podar.reports import headline

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right")
    for row in headline.rows(summary["before"], summary["after"], summary.get("latency_ratio")):
        change = Text(row.change, style=_VERDICTS[row.verdict])
        table.add_row(row.label, row.before_text, Text(row.after_text, style="bold"), change)
    yield table
    latency = summary["after"].get("latency_ms")
    if latency:
        threads = "one thread" if latency["threads"] == 1 else f"{latency['threads']} threads"
        yield Text(f"Latency in {latency['runtime']}, {threads}, dense and pruned in turn.", style="dim")
    if "quantize" in summary:
        yield encodings(summary["quantize"])
    for note in summary.get("notes", ()):
        yield Text(note, style="dim")


def encodings(found: Mapping[str, Any]) -> Table:
    """Every encoding that quantizing built and timed, and what was timed beside them."""
    from podar.reports import numbers

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("encoding", overflow="fold")
    for name in ("size", "accuracy", "agreement", "error", "latency", "times as fast"):
        table.add_column(name, justify="right")
    floating = found["table"][0]["latency_ms"]
    for row in found["table"]:
        if row["reason"]:
            table.add_row(row["encoding"], Text(row["reason"], style="dim"))
            continue
        shares = (row[key] for key in ("accuracy", "agreement"))
        table.add_row(
            Text(row["encoding"], style="bold" if row["encoding"] == found["encoding"] else ""),
            numbers.byte_size(row["bytes"]),
            *("–" if share is None else numbers.percent(share) for share in shares),
            "broken" if row["error"] is None else f"{row['error']:.3f}",
            numbers.milliseconds(row["latency_ms"]),
            Text(f"{row['ratio']:.2f}×", style="" if row["keeps"] else "yellow"),
        )
    for name, latency in found["beside"].items():
        table.add_row(name, "", "", "", "", numbers.milliseconds(latency), f"{floating / latency:.2f}×")
    return table


def bench_table(lines: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    """What `podar bench` measured, piece by piece: one row a model and runtime, then why rows are empty."""
    from podar.reports import numbers

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("model", overflow="fold")
    table.add_column("input", overflow="fold")
    table.add_column("runtime")
    for name in ("p50", "p95", "size", "peak memory"):
        table.add_column(name, justify="right")
    for line in lines:
        shapes = line.get("inputs") or {}
        shown = ", ".join(f"{name} {sizes(shape)}".strip() for name, shape in shapes.items()) or "–"
        if "reason" in line:
            table.add_row(line["model"], shown, line["runtime"], Text("–", style="dim"))
            continue
        latency = line["latency_ms"]
        table.add_row(
            line["model"],
            shown,
            latency["runtime"],
            Text(numbers.milliseconds(latency["p50"]), style="bold"),
            numbers.milliseconds(latency["p95"]),
            numbers.byte_size(line["bytes"]),
            numbers.byte_size(line["memory_bytes"]) if line["memory_bytes"] else "–",
        )
    yield table
    for line in lines:
        if "reason" in line:
            yield Text(f"{line['model']} in {line['runtime']}: {line['reason']}", style="dim")


def anatomy_table(inspected: Mapping[str, Any]) -> Iterator[Any]:
    """What `podar inspect` found, piece by piece: costs, groups, frozen axes under their reasons."""
    from podar.reports import numbers

    cost = inspected["cost"]
    yield Text.assemble(
        (inspected["model"], "bold"),
        f": {numbers.count(cost['params'])} parameters, {numbers.count(cost['macs'])} MACs at {inspected['inputs']}, "
        f"{numbers.byte_size(cost['bytes'])} of weights, "
        f"{numbers.byte_size(cost['memory_bytes'])} of activations at the peak",
    )
    groups: Sequence[Mapping[str, Any]] = inspected["groups"]
    blocks: Sequence[Mapping[str, Any]] = inspected["blocks"]
    if groups or blocks:
        yield _groups(groups, blocks)
    if groups:
        lies = "; beside a block's name, what lies in it" if blocks else ""
        yield Text(f"Beside a group, what goes with all of it{lies}.", style="dim")
    else:
        yield Text("Nothing in this model can be pruned.")
    reasons = inspected["frozen_by_reason"]
    if not reasons:
        yield Text("Nothing is frozen.")
        return
    yield Text(f"{sum(len(axes) for axes in reasons.values())} axes are frozen:", style="dim")
    for reason, axes in list(reasons.items())[:_MOST_FROZEN]:
        more = f" and {len(axes) - 2} more" if len(axes) > 2 else ""
        yield Text.assemble(f"  {len(axes):>4}  {reason}: ", (", ".join(axes[:2]) + more, "dim"))
    if len(reasons) > _MOST_FROZEN:
        yield Text(f"        and {len(reasons) - _MOST_FROZEN} more reasons (--json lists all)", style="dim")


def _groups(groups: Sequence[Mapping[str, Any]], blocks: Sequence[Mapping[str, Any]]) -> Table:
    """One row a group, under its block where the library numbers them: names then go on from its module's."""
    from podar.reports import numbers

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("group", overflow="fold")
    table.add_column("kind", overflow="fold")
    for name in ("size", "parameters", "MACs"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("in step with", overflow="fold")

    def add(group: Mapping[str, Any], inside: str) -> None:
        stays = " (stays, its heads go)" if group["held"] else ""
        table.add_row(
            group["name"].removeprefix(inside),
            group["kind"] + stays,
            str(group["size"]),
            numbers.count(group["params"]),
            numbers.count(group["macs"]),
            Text(", ".join(name.removeprefix(inside) for name in group["tied"]), style="dim"),
        )

    for group in groups:
        if group["block"] is None:
            add(group, "")
    for block in blocks:
        held = (Text(numbers.count(block[kind]), style="bold") for kind in ("params", "macs"))
        table.add_row(Text(block["name"], style="bold"), Text(block["module"], style="dim"), "", *held)
        for group in groups:
            if group["block"] == block["name"]:
                add(group, f"{block['module']}.")
    return table


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str, int, int, dict[str, float]], None] | None]:
    """A `progress(stage, done, total, info)` that draws on standard error: bars with rate and time left in a terminal,
    a line for each finished stage elsewhere, None where `quiet`."""
    if quiet:
        yield None
        return
    console = _console(stderr=True)
    if not console.is_terminal:
        lines = _Lines()
        yield lines.show
        lines.finish()
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    with Progress(
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TextColumn("{task.fields[rate]}"),
        TextColumn("[dim]{task.fields[info]}[/]"),
        console=console,
    ) as bars:
        drawn = _Bars(bars)
        yield drawn.show
        drawn.finish()


class _Lines:
    """One line a finished stage, for logs."""

    def __init__(self) -> None:
        self.stage, self.began = "", time.perf_counter()

    def show(self, stage: str, done: int, total: int, info: dict[str, float]) -> None:
        if stage == self.stage:
            return
        self.finish()
        self.stage, self.began = stage, time.perf_counter()

    def finish(self) -> None:
        if self.stage:
            print(f"{self.stage}: {_clock(time.perf_counter() - self.began)}", file=sys.stderr, flush=True)
        self.stage = ""


class _Bars:
    """One bar a stage; a stage is finished when the next begins."""

    def __init__(self, bars: Progress) -> None:
        self.bars, self.stage = bars, ""
        self.task: TaskID | None = None
        self.began = time.perf_counter()
        self.counted: tuple[float, int] | None = None  # when counting began, and at what

    def show(self, stage: str, done: int, total: int, info: dict[str, float]) -> None:
        if stage != self.stage:
            self.finish()
            self.stage, self.began, self.counted = stage, time.perf_counter(), None
            if stage:
                self.task = self.bars.add_task(stage, total=None, rate="", info="")
        if self.task is None or not total:
            return
        now = time.perf_counter()
        if self.counted is None or done < self.counted[1]:
            self.counted = (now, done)
        speed = (done - self.counted[1]) / (now - self.counted[0]) if now > self.counted[0] else 0.0
        rate = f"{_per_second(speed)}, {_clock((total - done) / speed)} left" if speed else ""
        told = "  ".join(f"{key} {_short(key, value)}" for key, value in info.items())
        self.bars.update(self.task, completed=done, total=total, rate=rate, info=told)

    def finish(self) -> None:
        if self.task is not None:
            task = next(t for t in self.bars.tasks if t.id == self.task)
            whole = task.total or 1
            self.bars.update(self.task, completed=whole, total=whole, rate=_clock(time.perf_counter() - self.began))
        self.task = None


def _clock(seconds: float) -> str:
    from podar.reports import numbers

    return numbers.duration(seconds)


def _per_second(speed: float) -> str:
    return f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"


def _short(key: str, value: float) -> str:
    if "accuracy" in key:
        return f"{100 * value:.2f} %"
    return f"{value:.0f}" if key == "epoch" else f"{value:.4g}"
