"""The figures about sparse weights as a page: docs/benchmarks-sparse.md and two plots, from the JSON files beside this.

    python benchmarks/sparse_page.py

Nothing is measured here: sparsify.py, oneshot.py and lottery.py do that and write the JSON files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from podar.files import write_atomic

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks-sparse.md"
COLOURS = ("#0a8f5b", "#c2562d", "#6a5acd", "#2b7bba", "#b8860b", "#888888", "#d1478c", "#3a3a3a", "#5aa9a0")
ARMS = {"ticket": "tickets", "reinit": "weights drawn anew", "random": "random masks", "finetune": "not rewound"}
Line = tuple[str, Sequence[tuple[float, float, float]]]
"""A name, and its points: x, accuracy, and how far it spreads."""


def read(name: str) -> dict[str, Any]:
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def rows(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def speed(found: dict[str, Any]) -> list[str]:
    body = [
        [
            name.partition(":")[2],
            f"{one['podar']['seconds']:.2f} s", f"{one['torch']['seconds']:.2f} s", f"{one['times_faster']:.1f}",
            f"{one['podar']['peak_bytes'] / 1e6:.0f} MB", f"{one['torch']['peak_bytes'] / 1e6:.0f} MB",
        ]
        for name, one in found["models"].items()
    ]  # fmt: skip
    return [
        "## Global magnitude at 90 %", "",
        f"`{found['command']}` on {found['processor']}, one thread, processor time, the least of several runs in "
        "turn; memory is what the call takes above the loaded model. torch is "
        "`torch.nn.utils.prune.global_unstructured`.", "",
        *rows(["model", "podar", "torch", "times faster", "podar's peak", "torch's peak"], body),
    ]  # fmt: skip


def accuracy(found: dict[str, Any]) -> tuple[list[str], list[Line]]:
    cells = {(r["importance"], r["amount"], r["fine_tuned"]): r for r in found["table"]}
    names, amounts = sorted({k[0] for k in cells}), sorted({k[1] for k in cells})

    def text(name: str, amount: float, tuned: bool) -> str:
        one = cells.get((name, amount, tuned))
        if one is None:
            return ""
        spread = f" ± {100 * one['deviation']:.1f}" if one["seeds"] > 1 else ""
        return f"{100 * one['accuracy']:.1f}{spread}" + (f" ({one['seeds']})" if one["seeds"] == 2 else "")

    lines = [
        "## Accuracy against sparsity, every criterion", "",
        f"`{found['command']}`: {found['network']}, ranked globally; {found['data']}; dense "
        f"{percent(found['cells']['dense'])}. Mean and deviation over three seeds in percent; (2): over two; without a "
        "deviation: one, or a criterion that no seed changes. SNIP, GraSP and SynFlow are made for networks before "
        "their training, and are shown here on a trained one.", "",
    ]  # fmt: skip
    for tuned, title in ((False, "without fine-tuning"), (True, f"fine-tuned: {found['fine_tuning']}")):
        lines += [f"**{title[:1].upper() + title[1:]}**", ""]
        head = ["criterion", *(f"{100 * a:g} % zeros" for a in amounts)]
        lines += rows(head, [[name, *(text(name, a, tuned) for a in amounts)] for name in names])
    curves = []
    for name in names:
        known = [(a, cells[name, a, True]) for a in amounts if (name, a, True) in cells]
        curves.append((name, [(a, c["accuracy"], c["deviation"]) for a, c in known]))
    return [*lines, "![fine-tuned accuracy against zeros](../benchmarks/sparsify.svg)", ""], curves


def oneshot(found: dict[str, Any]) -> list[str]:
    lines = [
        "## One shot, without labels", "",
        "Magnitude and reconstruction at equal sparsity; the error is that of a layer's output over the dense output, "
        "squared, geometric mean over layers.", "",
    ]  # fmt: skip
    for part in found.values():
        lines += [
            f"`{part['command']}`: {part['network']}; {part['data']}; {part['calibration']} pictures of calibration; "
            f"dense {percent(part['dense_accuracy'])}.", "",
        ]  # fmt: skip
        body = []
        for row in part["rows"]:
            kinds = ["accuracy", *(["accuracy_recalibrated"] if "accuracy_recalibrated" in row["magnitude"] else [])]
            both = [" / ".join(percent(row[how][k]) for k in kinds) for how in ("magnitude", "reconstructed")]
            error = row["layer_error"]
            body.append([
                row["pattern"], percent(row["sparsity"]), *both,
                f"{error['magnitude_masks']:.2g}", f"{error['reconstructed']:.2g}", f"{row['seconds']:.0f} s",
            ])  # fmt: skip
        head = ["pattern", "zeros", "magnitude", "reconstructed", "error, magnitude", "error, reconstructed", "takes"]
        lines += rows(head, body)
    return [*lines, "Two figures: before and after the batch norms were recalibrated.", ""]


def lottery(found: dict[str, Any]) -> tuple[list[str], dict[str, list[Line]]]:
    lines = [
        "## Lottery tickets", "",
        f"`{found['command']}` on {found['processor']}: {found['data']}; {found['training']}; {found['pruning']}. "
        "Frankle and Carbin found on MNIST, with the 300-100 MLP: best at 21.1 % of the weights, equal to dense at "
        "3.6 %.", "",
    ]  # fmt: skip
    body, plots = [], {}
    for name, net in found["networks"].items():
        seeds = {p["seeds"] for p in net["curves"]["ticket"]}
        dense = f"{percent(net['dense_accuracy'])} ± {100 * net['dense_standard_error']:.1f}"
        least = net["smallest_density_within_one_standard_error"]
        best = net["most_accurate"]["ticket"]
        floor = min(p["density"] for p in net["curves"]["ticket"])
        told = []
        for arm in ARMS:
            value = least.get(arm)
            last = value is not None and value <= floor * 1.001
            told.append("none" if value in (None, 1.0) else percent(value) + (" (the least tried)" if last else ""))
        best_text = f"{percent(best['accuracy'])} at {percent(best['density'])}"
        body.append([name, "/".join(map(str, sorted(seeds))), dense, best_text, *told])
        plots[name] = [
            (ARMS[arm], [(p["density"], p["accuracy"], p["error"]) for p in net["curves"][arm]]) for arm in ARMS
        ]
    lines += ["Least share of the weights whose mean accuracy is within one standard error of dense, or above:", ""]
    lines += rows(["network", "seeds", "dense", "best tickets", *ARMS.values()], body)
    lines += ["![accuracy against remaining weights](../benchmarks/lottery.svg)", ""]
    lines += [
        f"A training of {found['training'].split(', ')[2]} leaves the dense networks short of what they can reach, so "
        "these tickets also learn faster; and what is not rewound has more training behind it than the others. The "
        "figures tell arms apart, not how small a network may be in the end.", "",
    ]  # fmt: skip
    return lines, plots


def plot(panels: dict[str, list[Line]], log: bool) -> str:
    """Panels side by side: accuracy upwards; to the right the zeros, or on a log scale the weights that remain."""
    width, height, shapes = 420, 316, []
    for at, (title, lines) in enumerate(panels.items()):
        left, top, w, h = at * width + 52, 34, width - 70, height - 100
        points = [p for _, line in lines for p in line]
        low, high = min(p[1] - p[2] for p in points), max(p[1] + p[2] for p in points)
        xs = [p[0] for p in points]

        def across(x: float, left: int = left, w: int = w, xs: list[float] = xs) -> float:
            if log:
                return left + w * math.log(x / max(xs)) / math.log(min(xs) / max(xs))
            return left + w * (x - min(xs)) / (max(xs) - min(xs))

        def up(y: float, low: float = low, high: float = high, top: int = top, h: int = h) -> float:
            return top + h - h * (y - low) / (high - low)

        shapes.append(f'<text x="{left}" y="18" font-weight="bold">{title}</text>')
        for k in range(5):
            y = low + (high - low) * k / 4
            shapes.append(
                f'<line x1="{left}" x2="{left + w}" y1="{up(y):.1f}" y2="{up(y):.1f}" stroke="#e4e4e4"/>'
                f'<text x="{left - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{100 * y:.1f}</text>'
            )
        for x in (1.0, 0.5, 0.2, 0.1, 0.05) if log else sorted(set(xs)):
            shapes.append(f'<text x="{across(x):.1f}" y="{top + h + 16}" text-anchor="middle">{100 * x:g} %</text>')
        for k, (name, line) in enumerate(lines):
            colour = COLOURS[k % len(COLOURS)]
            path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y, _ in line)
            shapes.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
            for x, y, spread in line:
                shapes.append(
                    f'<line x1="{across(x):.1f}" x2="{across(x):.1f}" y1="{up(y - spread):.1f}" '
                    f'y2="{up(y + spread):.1f}" stroke="{colour}"/>'
                    f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="2.4" fill="{colour}"/>'
                )
            column, row = k % 5, k // 5
            place = left + 76 * column - 20 if len(lines) > 4 else left + (0, 62, 190, 290)[k] - 20
            shapes.append(
                f'<circle cx="{place}" cy="{top + h + 32 + 14 * row}" r="4" fill="{colour}"/>'
                f'<text x="{place + 7}" y="{top + h + 36 + 14 * row}">{name}</text>'
            )
    size = f'width="{width * len(panels)}" height="{height}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
        f'<rect {size} fill="white"/>{"".join(shapes)}</svg>\n'
    )


def main() -> None:
    sparsify = read("sparsify")
    by_criterion, curves = accuracy(sparsify["accuracy"])
    tickets, panels = lottery(read("lottery"))
    lines = [
        "# Sparse weights and tickets in figures", "",
        "Written by `python benchmarks/sparse_page.py` from the JSON files in benchmarks/; each part names the command "
        "that measures it again.", "",
        *speed(sparsify["speed"]), *by_criterion, *oneshot(read("oneshot")), *tickets,
    ]  # fmt: skip
    write_atomic(PAGE, "\n".join(lines).rstrip() + "\n")
    write_atomic(HERE / "sparsify.svg", plot({"fine-tuned accuracy in percent, by zeros": curves}, log=False))
    write_atomic(HERE / "lottery.svg", plot({f"{n}: accuracy in percent": p for n, p in panels.items()}, log=True))


if __name__ == "__main__":
    main()
