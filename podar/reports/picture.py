"""A picture of a model's groups: one row a layer, one line a group through the layers that it ties together (SVG).

Where the model's library numbers its blocks, each has a row of its own above its layers.
"""

from __future__ import annotations

import colorsys
from html import escape
from typing import Any

from podar.reports import numbers

ROW, LANE, TEXT = 16, 14, 330


def draw(found: dict[str, Any]) -> str:
    """The SVG of what `podar.reports.anatomy.anatomy` found.

    A filled dot: the layer makes the units of the group; an open one: it reads them, or they go along (norms, buffers).
    Hovering over a dot names the group, over a grey layer the reason why it is frozen.
    """
    rows, place = _rows(found)
    reasons: dict[str, str] = {}
    for item in found["frozen"]:
        reasons.setdefault(_layer(item["name"]), f"{item['name']} dim {item['dim']}: {item['reason']}")
    groups = [g for g in found["groups"] if g["members"]]
    spans = []
    for group in groups:
        crossed = sorted({place[_layer(m["name"])] for m in group["members"] if _layer(m["name"]) in place})
        spans.append((crossed[0], crossed[-1]) if crossed else (0, 0))
    lanes = _lanes(spans)
    width = max(640, TEXT + LANE * (max(lanes, default=0) + 2))
    height = ROW * (len(rows) + 3)
    busy = {_layer(m["name"]) for g in groups for m in g["members"]}
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="11"><rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="8" y="16" font-size="13">{escape(found["model"])}: {len(groups)} groups over {len(place)} layers; '
        "● makes, ○ goes along</text>",
    ]
    for k, layer in enumerate(rows):
        if place.get(layer) != k:
            out.append(f'<text x="8" y="{_y(k) + 4}" font-weight="bold">{escape(layer)}</text>')
            continue
        colour = "#222" if layer in busy else "#aaa"
        title = f"<title>{escape(reasons[layer])}</title>" if layer in reasons else ""
        shown = layer if len(layer) < 50 else "…" + layer[-48:]
        out.append(f'<text x="8" y="{_y(k) + 4}" fill="{colour}">{escape(shown)}{title}</text>')
        out.append(f'<line x1="{TEXT}" y1="{_y(k)}" x2="{width}" y2="{_y(k)}" stroke="#eee"/>')
    for n, (group, (first, last), lane) in enumerate(zip(groups, spans, lanes)):
        colour = _colour(n)
        x = TEXT + LANE * (lane + 1)
        dash = ' stroke-dasharray="3"' if group["held"] else ""
        out.append(
            f'<line x1="{x}" y1="{_y(first)}" x2="{x}" y2="{_y(last)}" stroke="{colour}" stroke-width="2"{dash}/>'
        )
        makers = {_layer(m["name"]) for m in group["members"] if m["dim"] == 0 and m["name"].endswith("weight")}
        tied = f", in step with {', '.join(group['tied'])}" if group["tied"] else ""
        title = escape(f"{group['name']}: {group['size']} {group['kind']}{tied}")
        for layer in dict.fromkeys(_layer(m["name"]) for m in group["members"]):
            if layer in place:
                fill = colour if layer in makers else "white"
                out.append(
                    f'<circle cx="{x}" cy="{_y(place[layer])}" r="4" fill="{fill}" stroke="{colour}" stroke-width="2">'
                    f"<title>{title}</title></circle>"
                )
    return "\n".join([*out, "</svg>"]) + "\n"


def _rows(found: dict[str, Any]) -> tuple[list[str], dict[str, int]]:
    """What stands in each row, a layer or a block's title, and the row of each layer."""
    rest = list(dict.fromkeys(_layer(name) for name in found["layers"]))
    rows: list[str] = []
    for block in found["blocks"]:
        params, macs = numbers.count(block["params"]), numbers.count(block["macs"])
        rows.append(f"{block['name']}: {params} parameters, {macs} MACs")
        rows += [layer for layer in rest if f"{layer}.".startswith(f"{block['module']}.")]
    rows = [layer for layer in rest if layer not in rows] + rows
    return rows, {layer: rows.index(layer) for layer in rest}


def _layer(tensor: str) -> str:
    return tensor.rpartition(".")[0] or tensor


def _y(row: int) -> int:
    return ROW * (row + 2)


def _lanes(spans: list[tuple[int, int]]) -> list[int]:
    """The leftmost free lane for each span of rows."""
    ends: list[int] = []
    lanes = [0] * len(spans)
    for k in sorted(range(len(spans)), key=lambda k: spans[k]):
        first, last = spans[k]
        lane = next((i for i, end in enumerate(ends) if end < first), len(ends))
        if lane == len(ends):
            ends.append(last)
        ends[lane] = last
        lanes[k] = lane
    return lanes


def _colour(n: int) -> str:
    r, g, b = colorsys.hls_to_rgb(n * 0.618 % 1, 0.42, 0.65)
    return f"#{round(255 * r):02x}{round(255 * g):02x}{round(255 * b):02x}"
