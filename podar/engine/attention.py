"""Attention written out in many operators, found in an exported graph and put back as one that the engine knows."""

from __future__ import annotations

from dataclasses import dataclass
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
_VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
_SAME = (aten.clone.default, aten.contiguous.default, aten.dropout.default, aten.alias.default)


def attention(
    x: Tensor,
    heads: int,
    depths: tuple[int, int],
    first: tuple[int, int, int],
    step: tuple[int, int, int],
    scale: float,
) -> Tensor:
    """softmax(scale · qᵀk) v over all positions of `x`, for each head, in torch.

    `x`: `[batch, channels, …]`, or `[batch, positions, channels]`. `depths`: channels of a head's queries and keys, and
    of its values; `first`: where those of q, k and v begin, `step`: from one head to the next.
    """
    rows = x.ndim == 3
    flat = x.transpose(1, 2) if rows else x.flatten(2)
    q, k, v = (
        torch.stack([flat[:, a + h * s : a + h * s + d] for h in range(heads)], 1)
        for a, s, d in zip(first, step, (depths[0], *depths))
    )
    weights = ((q * scale).transpose(-2, -1) @ k).softmax(-1)
    mixed = (v @ weights.transpose(-2, -1)).flatten(1, 2)
    return mixed.transpose(1, 2) if rows else mixed.reshape(x.shape[0], -1, *x.shape[2:])


@dataclass(frozen=True)
class _Heads:
    """Channels of `x`, first + head · step + 0 … depth, seen as `[batch, heads, depth, positions]`."""

    x: fx.Node
    heads: int
    first: int
    step: int
    depth: int


def gather_attention(module: fx.GraphModule) -> None:
    """Replace what computes attention by one call of `attention`, where q, k and v are channels of one tensor."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        found = _of_planes(node) or _of_rows(node)
        if found is not None:
            q, k, v, scale, end = found
            if q.x is k.x is v.x and q.heads == k.heads == v.heads and q.depth == k.depth:
                with graph.inserting_before(end):
                    args = (
                        q.x,
                        q.heads,
                        (q.depth, v.depth),
                        (q.first, k.first, v.first),
                        (q.step, k.step, v.step),
                        scale,
                    )
                    new = graph.call_function(attention, args)
                new.meta = dict(end.meta)
                end.replace_all_uses_with(new)
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        _back_to_channels(graph, node)
    graph.eliminate_dead_code()


def _of_planes(end: fx.Node) -> tuple[_Heads, _Heads, _Heads, float, fx.Node] | None:
    """v · softmax(scale · qᵀk)ᵀ with positions on the last axis, viewed as an image again."""
    if end.target not in _VIEWS or len(_shape(end)) != 4:
        return None
    product = _through(end.args[0])
    if not _is(product, aten.matmul.default):
        return None
    weights = _transposed(product.args[1])
    if not _is(weights, aten.softmax.int, aten._softmax.default) or weights.args[1] not in (-1, 3):
        return None
    scores = _through(weights.args[0])
    if not _is(scores, aten.matmul.default):
        return None
    queries, scale = _transposed(scores.args[0]), 1.0
    if _is(queries, aten.mul.Tensor) and isinstance(queries.args[1], (int, float)):
        queries, scale = queries.args[0], float(queries.args[1])
    q, k, v = _heads(queries), _heads(scores.args[1]), _heads(product.args[0])
    if q is None or k is None or v is None or _shape(end) != (*_shape(q.x)[:1], v.heads * v.depth, *_shape(q.x)[2:]):
        return None
    return q, k, v, scale, end


def _heads(node: Any) -> _Heads | None:
    """A slice of channels seen as heads."""
    first, last = 0, None
    if _is(node, aten.slice.Tensor) and node.args[1] == 2 and len(node.args) == 4:
        first, last, node = int(node.args[2]), int(node.args[3]), node.args[0]
    if not _is(node, *_VIEWS):
        return None
    x = node.args[0]
    shape, before = _shape(node), _shape(x)
    if len(shape) != 4 or len(before) != 4 or shape[3] != before[2] * before[3] or shape[1] * shape[2] != before[1]:
        return None
    last = shape[2] if last is None else min(last, shape[2])
    return _Heads(x, shape[1], first, shape[2], last - first)


def _of_rows(end: fx.Node) -> tuple[_Heads, _Heads, _Heads, float, fx.Node] | None:
    """scaled_dot_product_attention over heads of rows, written back as rows: what timm's transformers export."""
    if not _is(end, *_VIEWS) or len(_shape(end)) != 3:
        return None
    turned = _through(end.args[0])
    if not _is(turned, aten.transpose.int, aten.permute.default):
        return None
    inner = _through(turned.args[0])
    if not _is(inner, aten.scaled_dot_product_attention.default):
        return None
    given = dict(inner.kwargs)
    if any(given.get(name) for name in ("is_causal", "enable_gqa", "dropout_p")) or given.get("attn_mask") is not None:
        return None
    if any(a for a in inner.args[3:]):
        return None
    q, k, v = (_heads_of_rows(a) for a in inner.args[:3])
    if q is None or k is None or v is None:
        return None
    batch, positions, _ = _shape(q.x)
    if _shape(end) != (batch, positions, v.heads * v.depth) or _shape(turned) != (batch, positions, v.heads, v.depth):
        return None
    scale = given.get("scale")
    return q, k, v, float(q.depth**-0.5 if scale is None else scale), end


def _heads_of_rows(node: Any) -> _Heads | None:
    """A part of x.view(B, N, 3, heads, depth).permute(2, 0, 3, 1, 4), or x.view(B, N, heads, depth).transpose(1, 2)."""
    node = turned = _through(node)
    which: int | None = None
    if _is(node, aten.select.int) and node.args[1] == 0:
        turned, which = _through(node.args[0]), int(node.args[2])
    elif _is(node, getitem) and _is(node.args[0], aten.unbind.int) and not any(node.args[0].args[1:]):
        turned, which = _through(node.args[0].args[0]), int(node.args[1])
    if which is not None:
        if not _is(turned, aten.permute.default) or list(turned.args[1]) != [2, 0, 3, 1, 4]:
            return None
        seen = _through(turned.args[0])
        if not _is(seen, *_VIEWS) or len(_shape(seen)) != 5:
            return None
        _, _, _, heads, depth = _shape(seen)
        first = (which % _shape(seen)[2]) * heads * depth
    else:
        if not (_is(node, aten.transpose.int) and sorted(node.args[1:]) == [1, 2]) and not (
            _is(node, aten.permute.default) and list(node.args[1]) == [0, 2, 1, 3]
        ):
            return None
        seen = _through(node.args[0])
        if not _is(seen, *_VIEWS) or len(_shape(seen)) != 4:
            return None
        heads, depth = _shape(seen)[2:]
        first = 0
    x = seen.args[0]
    if len(_shape(x)) != 3 or _shape(x)[:2] != _shape(seen)[:2]:
        return None
    return _Heads(x, heads, first, depth, depth)


def _back_to_channels(graph: fx.Graph, node: fx.Node) -> None:
    """A slice of every head, viewed as an image, is a concatenation of slices of the channels."""
    if not _is(node, *_VIEWS) or len(_shape(node)) != 4:
        return
    part = _heads(_through(node.args[0]))
    if part is None or part.depth == part.step:
        return
    if _shape(node) != (_shape(part.x)[0], part.heads * part.depth, *_shape(part.x)[2:]):
        return
    pieces = []
    with graph.inserting_before(node):
        for head in range(part.heads):
            begin = part.first + head * part.step
            piece = graph.call_function(aten.slice.Tensor, (part.x, 1, begin, begin + part.depth))
            piece.meta["val"] = part.x.meta["val"][:, begin : begin + part.depth]
            pieces.append(piece)
        joined = graph.call_function(aten.cat.default, (pieces, 1))
    joined.meta = dict(node.meta)
    node.replace_all_uses_with(joined)


def _is(node: Any, *targets: Any) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def _through(node: Any) -> Any:
    while _is(node, *_SAME) and not (node.target is aten.dropout.default and node.args[2]):
        node = node.args[0]
    return node


def _transposed(node: Any) -> Any:
    node = _through(node)
    if _is(node, aten.transpose.int) and sorted(a % 4 for a in node.args[1:]) == [2, 3]:
        return _through(node.args[0])
    return None


def _shape(node: Any) -> tuple[int, ...]:
    val = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(val.shape) if isinstance(val, Tensor) else ()
