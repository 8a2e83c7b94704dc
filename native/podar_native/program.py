"""Turns a network into a program file: strides into phases, copies where views cannot serve, layout, lists, bytes."""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from podar_native.layout import Layout, lay_out
from podar_native.lists import Choice, make_lists, taps
from podar_native.network import ACTIVATIONS, Network, Node, Value

FORMAT = 3
_HEADER = struct.Struct("<8sIIIIIIQQQQQQ32s")
_TENSOR = struct.Struct("<qiiiiii")
_OP = struct.Struct("<iiiiiiff12i4q")
_KINDS = {
    name: index
    for index, name in enumerate(
        "input output conv phase linear max_pool average_pool mean add mul act copy upsample depthwise attention join "
        "constant".split()
    )
}
_MASKED, _RESIDUAL_AFTER, _EXCLUDE_PAD, _PER_CHANNEL, _ROWS, _PAIRED = 1, 2, 4, 8, 16, 32
_SUBTRACT, _PER_POSITION = 64, 128
_ALIGNED = 64
_PAIR_FLOATS = 4096  # of a pair's channels at a time: half of a small first-level cache
_TILE_AT = 32 + 3 * 4  # p[3] of an operator


def build(
    network: Network,
    choices: Mapping[str, Choice] | None = None,
    *,
    default: Choice | None = None,
    strip: int = 0,
    pair: int = 1 << 20,
    notes: Mapping[str, Any] | None = None,
) -> bytes:
    """The program file of a network.

    **Arguments:**

    - `choices`: how a layer is computed, by its name; `default` for the others (None: by a rule of thumb).
    - `strip`: positions at a time of operators that run depth first; 0: none does.
    - `pair`: a value of more bytes than this, between a convolution and a depthwise one that alone reads it, is made
      some channels at a time and never whole.
    - `notes`: goes into the file's description, for people.
    """
    nodes = _paired(_lowered(network), network, pair, choices or {}, default)
    chain_of = _chains(nodes, strip)
    times, time = [], -1
    for i in range(len(nodes)):
        together = i and ((chain_of[i] and chain_of[i] == chain_of[i - 1]) or nodes[i - 1].settings.get("paired"))
        time += not together
        times.append(time)
    layout = lay_out(nodes, times)
    return _encode(network, nodes, layout, choices or {}, default, chain_of, strip, dict(notes or {}))


def describe(image: Any) -> dict[str, Any]:
    """The description inside a program file: inputs, outputs, layers.

    **Raises:** `ValueError` for what is no program.
    """
    head = bytes(image[: _HEADER.size])
    if len(head) < _HEADER.size or head[:7] != b"PODARSP":
        raise ValueError("this is no program of podar's sparse engine.")
    fields = _HEADER.unpack(head)
    try:
        return json.loads(bytes(image[fields[11] : fields[11] + fields[12]]))
    except ValueError as error:
        raise ValueError("the program's description is damaged: prepare it again.") from error


def with_tile(program: bytes, tile: int) -> bytes:
    """The program with another tile for every convolution: lists do not depend on it. Its digest no longer holds."""
    image = bytearray(program)
    fields = _HEADER.unpack_from(image)
    for k in range(fields[3]):
        at = fields[10] + k * _OP.size
        if struct.unpack_from("<i", image, at)[0] == _KINDS["conv"]:
            struct.pack_into("<i", image, at + _TILE_AT, tile)
    return bytes(image)


def digest_holds(image: Any) -> bool:
    """Whether the file is as it was written (reads all of it)."""
    return _HEADER.unpack(bytes(image[: _HEADER.size]))[13] == hashlib.sha256(image[_HEADER.size :]).digest()


# --- lowering: what the engine runs ---------------------------------------------------------------------------------


def _lowered(network: Network) -> list[Node]:
    nodes = _with_residuals(network)
    nodes = _with_whole_joins(_with_whole_slices(nodes))
    nodes = _with_copies(nodes, network)
    return _with_phases(nodes, network)


def _uses(nodes: list[Node]) -> dict[int, list[Node]]:
    uses: dict[int, list[Node]] = {}
    for node in nodes:
        for v in node.inputs:
            uses.setdefault(v.index, []).append(node)
    return uses


def _with_residuals(network: Network) -> list[Node]:
    """Additions and activations that can happen on the way out of a convolution move into it."""
    nodes = [Node(n.kind, list(n.inputs), n.out, n.name, n.act, dict(n.settings)) for n in network.nodes]
    changed = True
    while changed:
        changed = False
        uses = _uses(nodes)
        made = {n.out.index: i for i, n in enumerate(nodes) if n.out is not None}
        for i, node in enumerate(nodes):
            if node.kind == "act" or node.kind == "add":
                for v in sorted(node.inputs, key=lambda v: -made[v.index]):
                    source = nodes[made[v.index]]
                    other = next((w for w in node.inputs if w is not v), None)
                    if len(uses[v.index]) != 1 or not _takes(source, node, other, made, made[v.index]):
                        continue
                    if node.kind == "act":
                        source.act = node.act
                    else:
                        assert other is not None
                        source.inputs.append(other)
                        source.settings["after"] = source.act.name != "none"
                        if source.act.name == "none":
                            source.act = node.act
                    source.out = node.out
                    del nodes[i]
                    changed = True
                    break
            if changed:
                break
    return nodes


def _takes(source: Node, node: Node, other: Value | None, made: dict[int, int], at: int) -> bool:
    if node.kind == "act":
        fuses = source.kind in ("conv", "add", "mul") and source.act.name == "none"
        return fuses and not source.settings.get("after")
    if (
        node.settings.get("subtract")
        or source.kind != "conv"
        or len(source.inputs) != 1
        or other is None
        or _by_rows(source)
    ):
        return False
    if source.act.name != "none" and node.act.name != "none":
        return False
    return made[other.index] < at  # what is added must be there when the convolution runs


def _with_whole_slices(nodes: list[Node]) -> list[Node]:
    """cat(first half of x, second half of x, …) is cat(x, …): a view less to copy."""
    slices = {n.out.index: n for n in nodes if n.kind == "slice" and n.out is not None}
    for node in nodes:
        if node.kind != "concat":
            continue
        merged: list[Value] = []
        i = 0
        while i < len(node.inputs):
            piece = slices.get(node.inputs[i].index)
            if piece is not None and piece.settings["first"] == 0:
                parent, at, j = piece.inputs[0], 0, i
                while j < len(node.inputs):
                    next_piece = slices.get(node.inputs[j].index)
                    if next_piece is None or next_piece.inputs[0] is not parent or next_piece.settings["first"] != at:
                        break
                    at += node.inputs[j].channels
                    j += 1
                if at == parent.channels:
                    merged.append(parent)
                    i = j
                    continue
            merged.append(node.inputs[i])
            i += 1
        node.inputs = merged
    return nodes


def _with_whole_joins(nodes: list[Node]) -> list[Node]:
    """Positions that are flattened only to be joined with others are joined at once."""
    uses = _uses(nodes)
    made = {n.out.index: n for n in nodes if n.out is not None}
    gone: set[int] = set()
    for node in nodes:
        if node.kind != "join":
            continue
        parts: list[Value] = []
        for v in node.inputs:
            source = made[v.index]
            if source.kind == "join" and len(uses[v.index]) == 1:
                parts += source.inputs
                gone.add(v.index)
            else:
                parts.append(v)
        node.inputs = parts
    return [n for n in nodes if n.out is None or n.out.index not in gone]


def _with_copies(nodes: list[Node], network: Network) -> list[Node]:
    """A part of a concatenation that already lies elsewhere (a view, a part of another, twice in this) is copied."""
    result: list[Node] = []
    placed: set[int] = {n.out.index for n in nodes if n.kind == "slice" and n.out is not None}
    for node in nodes:
        if node.kind == "concat":
            for k, part in enumerate(node.inputs):
                if part.index in placed:
                    copy = network._value(*part.shape)
                    result.append(Node("copy", [part], copy))
                    node.inputs[k] = copy
                    part = copy
                placed.add(part.index)
        result.append(node)
    return result


def _with_phases(nodes: list[Node], network: Network) -> list[Node]:
    """A strided convolution reads its input split into one plane for each phase; of an input, split as it is read."""
    result: list[Node] = []
    split: dict[tuple[int, ...], Value] = {}
    uses = _uses(nodes)
    made = {n.out.index: n for n in nodes if n.out is not None}
    for node in nodes:
        if node.kind != "conv":
            if node.kind == "mul" and node.inputs[1].shape != node.inputs[0].shape:
                per_channel = node.inputs[1].height == node.inputs[1].width == 1
                node.settings["per_channel" if per_channel else "per_position"] = True
            result.append(node)
            continue
        s = node.settings
        (sy, sx), (py, px), (dy, dx) = s["stride"], s["padding"], s["dilation"]
        kh, kw = s["weight"].shape[2:]
        x = node.inputs[0]
        out = node.out
        assert out is not None
        s["kept"] = [0]
        if _by_rows(node):
            step = s["stride"][0]
            below, right = (out.height - 1) * step + kh - py - x.height, (out.width - 1) * step + kw - px - x.width
            s["reach"] = (max(py, below, 0), max(px, right, 0))
            node.kind = "depthwise"
            result.append(node)
            continue
        if x.height == x.width == out.height == out.width == 1 and kh == kw == 1 and not (py or px):
            s.update(dots=True, stride=(1, 1), reach=(0, 0))
            result.append(node)
            continue
        if (sy, sx) != (1, 1):
            phases_y = {(k * dy - py) % sy for k in range(kh)}
            phases_x = {(k * dx - px) % sx for k in range(kw)}
            kept = sorted(a * sx + b for a in phases_y for b in phases_x)
            key = (x.index, sy, sx, *kept)
            if key not in split:
                phased = network._value(x.channels * len(kept), -(-x.height // sy), -(-x.width // sx))
                settings = {"steps": (sy, sx), "kept": kept}
                source = made[x.index]
                if source.kind == "input" and len(uses[x.index]) == 1 and not source.settings["rows"]:
                    settings |= source.settings | {"whole": x.shape}
                    result.remove(source)
                    result.append(Node("input", [], phased, source.name, settings=settings))
                else:
                    result.append(Node("phase", [x], phased, settings=settings))
                split[key] = phased
            node.inputs[0] = split[key]
            s["kept"] = kept
        # How far taps reach beyond the image, on any side (rows below are reached by tall kernels and by pads alike).
        top, bottom = -((-py) // sy), ((kh - 1) * dy - py) // sy + out.height - node.inputs[0].height
        left, right = -((-px) // sx), ((kw - 1) * dx - px) // sx + out.width - node.inputs[0].width
        s["reach"] = (max(top, bottom, 0), max(left, right, 0))
        result.append(node)
    return result


def _by_rows(node: Node) -> bool:
    """Whether a convolution is a depthwise one that the engine has a kernel of its own for."""
    s = node.settings
    weight, channels = s["weight"], node.inputs[0].channels
    kh, kw = weight.shape[2:]
    return (
        s["groups"] == channels == weight.shape[0]
        and kh == kw
        and kh in (3, 5, 7)
        and s["stride"] in ((1, 1), (2, 2))
        and s["dilation"] == (1, 1)
        and max(s["padding"]) < kh
        and bool((weight != 0).mean() > 0.3)  # of fewer weights a list is faster
    )


def _paired(
    nodes: list[Node], network: Network, limit: int, choices: Mapping[str, Choice], default: Choice | None
) -> list[Node]:
    """Convolution and depthwise convolution over a large value: it gets only as many channels as are made at a time."""
    uses = _uses(nodes)
    for node, following in itertools.pairwise(nodes):
        between = node.out
        if node.kind != "conv" or following.kind != "depthwise" or between is not following.inputs[0]:
            continue
        s = node.settings
        if between is None or len(uses[between.index]) != 1 or len(node.inputs) != 1 or s.get("dots"):
            continue
        floats = between.height * (between.width + following.settings["reach"][1])
        if 4 * floats * between.channels <= limit or s["groups"] > 1:
            continue
        choice = choices.get(node.name) or default or rule_of_thumb(s["weight"], s["groups"], floats)
        group = choice.rows * max(1, _PAIR_FLOATS // (floats * choice.rows))
        if group < between.channels:
            node.out = following.inputs[0] = network._value(group, between.height, between.width)
            s["paired"] = True
    return nodes


def _chains(nodes: list[Node], strip: int) -> list[int]:
    """Runs of operators over large planes that may go depth first: each value inside is made by one of them, whole."""
    chain_of = [0] * len(nodes)
    if not strip:
        return chain_of
    aliased = {v.index for n in nodes if n.kind in ("slice", "concat") for v in (*n.inputs, n.out) if v is not None}
    number = 0
    i = 0
    while i < len(nodes):
        j = i
        while j < len(nodes) and _goes_along(nodes[j], aliased, strip):
            j += 1
        if j > i + 1:
            number += 1
            chain_of[i:j] = [number] * (j - i)
        i = max(j, i + 1)
    return chain_of


def _goes_along(node: Node, aliased: set[int], strip: int) -> bool:
    out = node.out
    if out is None or node.kind not in ("input", "conv", "phase", "max_pool", "add", "act"):
        return False
    if node.settings.get("dots") or node.settings.get("rows") or node.settings.get("paired"):
        return False
    return out.height * out.width > strip and not any(v.index in aliased for v in (*node.inputs, out))


# --- the file -------------------------------------------------------------------------------------------------------


def _described(node: Node, op: int, kind: str, stored: int, choice: Choice) -> dict[str, Any]:
    weight, out = node.settings["weight"], node.out
    assert out is not None
    return {
        "name": node.name, "op": op, "kind": kind, "weight": list(weight.shape),
        "nonzeros": int(np.count_nonzero(weight)), "stored": stored, "positions": out.height * out.width,
        "rows": choice.rows, "input_block": choice.input_block, "tile": choice.tile, "groups": node.settings["groups"],
    }  # fmt: skip


def rule_of_thumb(weight: np.ndarray, groups: int, positions: int) -> Choice:
    """A first guess: dense layers in blocks of eight rows, sparse ones over as many inputs as a tile keeps in L1."""
    density = float((weight != 0).mean())
    if density > 0.45 and groups == 1 and weight.shape[0] >= 8:
        return Choice(rows=8, input_block=0, tile=3)
    for rows in (8, 4):
        if groups == 1 and density > 0 and weight.shape[0] % rows == 0:
            blocks = (weight.reshape(-1, rows, *weight.shape[1:]) != 0).any(axis=1)
            if blocks.mean() < 1.25 * density:  # zeros come in blocks of this many output channels
                return Choice(rows=rows, tile=24 // rows)
    area = int(np.prod(weight.shape[2:]))
    vectors = min(8, -(-positions // 16))
    fits = 24 * 1024 // (vectors * 64 * (1 if area == 1 else 2))
    block = max(16, 1 << (fits.bit_length() - 1))
    return Choice(rows=1, input_block=0 if block >= weight.shape[1] * groups else block, tile=8)


def _encode(
    network: Network,
    nodes: list[Node],
    layout: Layout,
    choices: Mapping[str, Choice],
    default: Choice | None,
    chain_of: list[int],
    strip: int,
    notes: dict[str, Any],
) -> bytes:
    order = {index: k for k, index in enumerate(layout.planes)}
    tensors = [
        _TENSOR.pack(p.base, p.channels, p.height, p.width, p.stride, p.plane, p.lead) for p in layout.planes.values()
    ]
    blobs: list[np.ndarray] = []
    ops: list[tuple[list[Any], list[int]]] = []  # fields, and which blobs
    layers: list[dict[str, Any]] = []
    for node, chain in zip(nodes, chain_of):
        if node.kind in ("slice", "concat"):
            continue
        s = node.settings
        p = [0] * 12
        p[10], p[11] = strip if chain else 0, chain
        flags = 0
        if node.out is not None and node.out.index in layout.clean:
            flags |= _MASKED
        flags |= _RESIDUAL_AFTER * bool(s.get("after")) | _EXCLUDE_PAD * bool(s.get("exclude_pad"))
        flags |= _PER_CHANNEL * bool(s.get("per_channel")) | _ROWS * bool(s.get("rows"))
        flags |= _PAIRED * bool(s.get("paired")) | _SUBTRACT * bool(s.get("subtract"))
        flags |= _PER_POSITION * bool(s.get("per_position"))
        kind = node.kind
        which: list[int] = []
        if kind == "conv":
            source = layout.planes[node.inputs[0].index]
            out = layout.planes[node.out.index]  # type: ignore[union-attr]
            dots = bool(s.get("dots"))
            kind = "linear" if dots else "conv"
            if dots:
                source = replace(source, plane=1)  # its channels are packed first
            choice = (
                choices.get(node.name) or default or rule_of_thumb(s["weight"], s["groups"], out.height * out.stride)
            )
            if dots:
                choice = Choice()
            elif s["groups"] > 1 and s["weight"].shape[0] // s["groups"] % choice.rows:
                choice = replace(choice, rows=1)
            where = taps(s["weight"].shape[2:], s["stride"], s["padding"], s["dilation"], source.stride, s["kept"])
            lists = make_lists(s["weight"], s["bias"], s["groups"], where, source, choice)
            p[:6] = [
                choice.rows,
                lists.starts.shape[1] - 1,
                len(lists.starts),
                choice.tile,
                len(lists.entries),
                lists.reach,
            ]
            which = [len(blobs), len(blobs) + 1, len(blobs) + 1, len(blobs) + 2]
            blobs += [lists.starts, lists.entries, lists.bias]
            layers.append(_described(node, len(ops), kind, len(lists.entries) * choice.rows, choice))
        elif kind == "depthwise":
            p[:4] = [s["weight"].shape[2], s["stride"][0], *s["padding"]]
            which = [len(blobs)] * 3 + [len(blobs) + 1]
            blobs += [np.ascontiguousarray(s["weight"], np.float32), s["bias"]]
            layers.append(_described(node, len(ops), kind, s["weight"].size, Choice()))
        elif kind in ("input", "phase"):
            steps, kept = s.get("steps", (1, 1)), s.get("kept", [0])
            p[:5] = [*steps, len(kept), s.get("index", 0), sum(1 << k for k in kept)]
            if kind == "input":
                p[5:8] = s.get("whole", node.out.shape)  # type: ignore[union-attr]
        elif kind == "output":
            p[3] = s["index"]
        elif kind in ("max_pool", "average_pool"):
            p[:6] = [*s["kernel"], *s["stride"], *s["padding"]]
        elif kind == "upsample":
            p[:2] = s["factor"]
        elif kind == "attention":
            p[:9] = s["sizes"]
        elif kind == "constant":
            which = [len(blobs)] * 3
            blobs.append(s["numbers"])
        elif kind == "join":
            at = 0
            for part in node.inputs:
                p[:2] = [at, int(part is node.inputs[-1])]
                at += part.height * part.width
                where_to = order[node.out.index]  # type: ignore[union-attr]
                # Only the first makes zeros around the planes: they stay.
                ops.append(([_KINDS[kind], flags, order[part.index], -1, where_to, 0, 0.0, 0.0, *p], []))
                flags &= ~_MASKED
            continue
        first = order[node.inputs[0].index] if node.inputs else -1
        second = order[node.inputs[1].index] if len(node.inputs) > 1 else -1
        written = order[node.out.index] if node.out is not None else -1
        act = node.act
        ops.append(([_KINDS[kind], flags, first, second, written, ACTIVATIONS[act.name], act.a, act.b, *p], which))
    description = json.dumps(
        {
            "inputs": [{"name": n, "shape": list(s)} for n, s in network.inputs],
            "outputs": [{"name": n, "shape": list(s)} for n, s in network.outputs],
            "layers": layers, "arena_bytes": layout.floats * 4, **notes,
        },
        separators=(",", ":"),
    ).encode()  # fmt: skip
    at = _HEADER.size
    tensor_table = at = -(-at // _ALIGNED) * _ALIGNED
    at += len(tensors) * _TENSOR.size
    op_table = at = -(-at // _ALIGNED) * _ALIGNED
    at += len(ops) * _OP.size
    meta = at
    at += len(description)
    places = []
    for blob in blobs:
        at = -(-at // _ALIGNED) * _ALIGNED
        places.append(at)
        at += blob.nbytes
    image = bytearray(at)
    image[tensor_table : tensor_table + len(tensors) * _TENSOR.size] = b"".join(tensors)
    for k, (fields, which) in enumerate(ops):
        where_to = [places[w] for w in which] + [0] * (4 - len(which))
        _OP.pack_into(image, op_table + k * _OP.size, *fields, *where_to)
    image[meta : meta + len(description)] = description
    for place, blob in zip(places, blobs):
        image[place : place + blob.nbytes] = blob.tobytes()
    digest = hashlib.sha256(memoryview(image)[_HEADER.size :]).digest()
    _HEADER.pack_into(
        image, 0, b"PODARSP\n", FORMAT, len(tensors), len(ops), len(network.inputs), len(network.outputs), 0,
        at, layout.floats, tensor_table, op_table, meta, len(description), digest,
    )  # fmt: skip
    return bytes(image)
