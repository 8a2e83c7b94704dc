"""What docs show of accuracy.json: a page with a table of all methods for each network, and a short one elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from podar.files import write_atomic

DOCS = Path(__file__).parents[1] / "docs"
PAGE, SHORT = DOCS / "benchmarks-accuracy.md", DOCS / "compensation.md"
MARKS = ("<!-- benchmarks/accuracy.py writes what follows -->\n", "<!-- end of accuracy -->\n")
TITLES = {
    "resnet": "ResNet-20 of the demo",
    "vgg": "VGG: six convolutions, two linear layers",
    "mobile": "MobileNetV2-like, with squeeze-excite",
}
TARGETS = (0.5, 0.25, 0.125)
GOALS = {0.5: 0.5, 0.25: 1.5}  # points that the default may lose
STEPS = {
    "cut": "right after the cut",
    "recalibrated": "norms recalibrated",
    "solved": "compensated, `refine=False`",
    "compensated": "**compensated: the default**",
}
DEFAULT = "podar, reconstruction"
PEER = "torch-pruning"
Rows = dict[str, dict[str, Any]]


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def line(title: str, cells: list[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"


def cell(rows: Rows, method: str, target: float, step: str) -> str:
    """An accuracy, a dash where the method fails, nothing where it was not measured."""
    row = rows.get(f"{method}, {target}", {})
    return "–" if "failed" in row else percent(row.get(step))


def methods(rows: Rows, tool: str) -> list[str]:
    """The methods of a tool that have rows, in their order."""
    return list(dict.fromkeys(key.rpartition(", ")[0] for key in rows if key.startswith(tool + ", ")))


def best_peer(rows: Rows, target: float) -> tuple[float, str, int] | None:
    """The highest recalibrated accuracy at a target, whose it is, and of how many that were measured."""
    found = [
        (row["recalibrated"], key.rpartition(", ")[0].partition(", ")[2])
        for key, row in rows.items()
        if key.startswith(PEER) and key.endswith(f", {target}") and "recalibrated" in row
    ]
    return (*max(found), len(found)) if found else None


def table(found: dict[str, Any]) -> Iterator[str]:
    """All methods of a network."""
    rows: Rows = found["rows"]
    yield line("method", [f"{target} of the MACs" for target in TARGETS])
    yield "| --- |" + " ---: |" * len(TARGETS)
    for step, title in STEPS.items():
        yield line(f"podar, reconstruction: {title}", [cell(rows, DEFAULT, t, step) for t in TARGETS])
    for method in methods(rows, "podar"):
        if method != DEFAULT:
            yield line(f"{method}, compensated", [cell(rows, method, t, "compensated") for t in TARGETS])
    for method in methods(rows, PEER):
        title = method.replace(PEER, "Torch-Pruning")
        yield line(f"{title}, recalibrated", [cell(rows, method, t, "recalibrated") for t in TARGETS])


def trained(found: dict[str, Any]) -> Iterator[str]:
    """What was trained after the cut, if anything was."""
    rows = {key: row for key, row in found["rows"].items() if key.startswith("trained, ")}
    if rows:
        yield ""
        yield line("trained after the cut", ["1 epoch", "5 epochs"])
        yield "| --- | ---: | ---: |"
        for key, row in rows.items():
            yield line(key.removeprefix("trained, "), [percent(row.get(f"epochs_{n}")) for n in (1, 5)])


def verdicts(told: dict[str, Any]) -> Iterator[str]:
    """Each goal: what podar's default loses beside dense, and beside the best peer."""
    yield "| network | MACs | dense | podar's default | lost | goal | best peer, recalibrated | ahead of it |"
    yield "| --- | --- | ---: | ---: | ---: | --- | --- | --- |"
    for name, title in TITLES.items():
        found = told["networks"].get(name, {"rows": {}})
        for target in TARGETS:
            ours = found["rows"].get(f"{DEFAULT}, {target}", {}).get("compensated")
            if ours is None:
                yield line(title, [str(target), percent(found.get("dense")), "not measured", *[""] * 4])
                continue
            lost, goal = 100 * (found["dense"] - ours), GOALS.get(target)
            met = "none" if goal is None else f"{goal}: {'met' if lost <= goal else 'missed'}"
            best = best_peer(found["rows"], target)
            beside = ["not measured", ""]
            if best is not None:
                beside = [f"{percent(best[0])} ({best[1]}; of {best[2]})", "yes" if ours > best[0] else "no"]
            numbers = [percent(found["dense"]), percent(ours), f"{lost:.2f}", met]
            yield line(title, [str(target), *numbers, *beside])


def missing(told: dict[str, Any]) -> Iterator[str]:
    """Which methods have no row yet, for each network and share of the MACs."""
    for name, title in TITLES.items():
        rows = told["networks"].get(name, {}).get("rows", {})
        for target in TARGETS:
            left = [method for method in told["methods"] if f"{method}, {target}" not in rows]
            if left:
                which = "; ".join(left) if len(left) < 5 else f"{len(left)} of {len(told['methods'])} methods"
                yield f"- {title}, {target} of the MACs: {which}."


def short(told: dict[str, Any]) -> Iterator[str]:
    """podar's default on each network, and how many of the goals are met."""
    reached: list[bool] = []
    yield f"| network | dense | {' | '.join(f'{target} of the MACs' for target in TARGETS)} |"
    yield "| --- | ---: |" + " ---: |" * len(TARGETS)
    for name, title in TITLES.items():
        found = told["networks"].get(name, {"rows": {}})
        cells = []
        for target in TARGETS:
            ours = found["rows"].get(f"{DEFAULT}, {target}", {}).get("compensated")
            best = best_peer(found["rows"], target)
            beside = "" if best is None else f" (best of {best[2]} peers {percent(best[0])})"
            cells.append("not measured" if ours is None else f"{percent(ours)}{beside}")
            if ours is not None and target in GOALS:
                reached.append(100 * (found["dense"] - ours) <= GOALS[target])
        yield line(title, [percent(found.get("dense")), *cells])
    goals = ", ".join(f"{points} points at {target}" for target, points in GOALS.items())
    yield ""
    yield f"The goal is to lose at most {goals} of the MACs: met in {sum(reached)} of {len(reached)} cases."


def render(told: dict[str, Any]) -> None:
    """Write the page, and the short table."""
    write_atomic(PAGE, page(told))
    text = SHORT.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    lines = "\n".join(short(told))
    write_atomic(SHORT, f"{before}{MARKS[0]}\n{lines}\n\n{MARKS[1]}{rest.split(MARKS[1], 1)[1]}")


def page(told: dict[str, Any]) -> str:
    """The whole page."""
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    where = told["processor"].get("name", "unknown processor")
    lines = [
        "# Accuracy of a cut",
        "",
        f"`{told['command']}` on {where}, one thread; {versions}.",
        f"{told['data']}, their labels for Taylor alone. Accuracy in percent, one seed; nothing",
        "is trained after the cut unless a table says so. The best setting of Torch-Pruning is chosen by its accuracy",
        "on the test pictures, which favours it. Its share of channels is searched so that the MACs are within 0.02 of",
        "the target, and it may leave any width; podar aims at multiples of 8 or 4.",
        "An empty cell was not measured; a dash could not be.",
        "",
        *verdicts(told),
        "",
    ]
    for name, title in TITLES.items():
        found = told["networks"].get(name)
        if found is None:
            continue
        lines += [f"## {title}", ""]
        if "dense" in found:
            lines += [
                f"Dense {percent(found['dense'])}, {found['macs'] / 1e6:.1f} M MACs, {found['epochs']} epochs.",
                "",
            ]
        lines += [*table(found), *trained(found), ""]
        failed = [f"- {key}: {row['failed']}" for key, row in found["rows"].items() if "failed" in row]
        lines += ["Left out:", "", *failed, ""] if failed else []
    lines += [
        "## Not measured",
        "",
        *missing(told),
        "- A Vision Transformer; more than one seed; Torch-Pruning's Hessian importance.",
    ]
    if not any(key.startswith("trained, ") for found in told["networks"].values() for key in found["rows"]):
        lines.append("- What training makes of each cut (`--train`).")
    return "\n".join(lines) + "\n"
