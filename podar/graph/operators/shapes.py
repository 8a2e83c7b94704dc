"""How results look that nobody computes: right shapes, types and strides, no values in them.

A shape that does not fit raises `RuntimeError`, as torch does. What is no plain case is NotImplemented: then the
operator is computed.
"""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import itertools
from collections.abc import Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor


def same(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """As the first tensor."""
    return torch.empty_like(x)


def unchanged(x: Tensor, *_: Any) -> Tensor:
    """The very tensor that was given."""
    return x


def in_place(x: Tensor, *others: Any, **_: Any) -> Tensor:
    for other in others:
        if isinstance(other, Tensor) and other.shape != x.shape:
            broadcast_shape(other.shape, x.shape)
    return x


def broadcast_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that all of these broadcast to (torch's own function takes longer than all the rest of an operator)."""
    sizes: list[int] = []
    for column in itertools.zip_longest(*(reversed(s) for s in shapes), fillvalue=1):
        wanted = set(column) - {1}
        if len(wanted) > 1:
            raise RuntimeError(f"tensors of shape {', '.join(str(tuple(s)) for s in shapes)} do not meet")
        sizes.append(wanted.pop() if wanted else 1)
    return tuple(reversed(sizes))


def broadcast(*args: Any, **_: Any) -> Tensor:
    tensors = [a for a in args if isinstance(a, Tensor)]
    first = tensors[0]
    if all(t.shape == first.shape and t.dtype == first.dtype for t in tensors[1:]):
        return torch.empty_like(first)
    shape = broadcast_shape(*(t.shape for t in tensors))
    floats = [t for t in tensors if t.is_floating_point() and t.dim()] or [t for t in tensors if t.is_floating_point()]
    dtype = floats[0].dtype if floats else tensors[-1].dtype
    for t in floats[1:]:
        dtype = torch.promote_types(dtype, t.dtype)
    model = next((t for t in tensors if t.shape == shape), None)
    if model is not None:
        return torch.empty_like(model, dtype=dtype)
    return torch.empty(shape, dtype=dtype, device=first.device)


def copied(x: Tensor, *, memory_format: Any = None, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
    make = torch.empty_like if dtype is None or dtype.is_floating_point or dtype.is_complex else torch.zeros_like
    return make(x, memory_format=memory_format or torch.preserve_format, dtype=dtype, device=device)


def _made(x: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of another shape, otherwise like x, in its memory format."""
    if x.is_contiguous() or x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        return x.new_empty(shape)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _spread(values: Sequence[int], rank: int) -> Sequence[int]:
    if len(values) == rank and type(values[0]) is int:
        return values
    return [index(values[0])] * rank if len(values) == 1 else [index(v) for v in values]


def convolution(
    x: Tensor, w: Tensor, _b: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, extra: Any, groups: int
) -> Tensor:
    before, filters = x.shape, w.shape
    rank = len(filters) - 2
    *lead, channels = before[:-rank]
    stride, padding, dilation = _spread(stride, rank), _spread(padding, rank), _spread(dilation, rank)
    if transposed:
        spans = [d * (k - 1) + 1 for d, k in zip(dilation, filters[2:])]
        extra = _spread(extra, rank)
        sizes = [
            (n - 1) * s - 2 * p + span + e for n, s, p, span, e in zip(before[-rank:], stride, padding, spans, extra)
        ]
        wanted, made = filters[0], filters[1] * groups
    else:
        windows = zip(before[-rank:], filters[2:], stride, padding, dilation)
        sizes = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in windows]
        wanted, made = filters[1] * groups, filters[0]
    if channels != wanted:
        raise RuntimeError(f"convolution of weight {tuple(filters)} in {groups} groups got input {tuple(before)}")
    return _made(x, (*lead, made, *sizes))


def batch_norm(x: Tensor, *statistics: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
    _per_channel(x, statistics[:4])
    nothing = x.new_empty(0)
    return torch.empty_like(x), nothing, nothing


def batch_norm_alone(x: Tensor, *statistics: Any, **__: Any) -> Tensor:
    _per_channel(x, statistics[:4])
    return torch.empty_like(x)


def layer_norm(x: Tensor, normalized_shape: Sequence[int], *_: Any) -> tuple[Tensor, ...]:
    nothing = x.new_empty(0)
    return rms_norm(x, normalized_shape), nothing, nothing


def rms_norm(x: Tensor, normalized_shape: Sequence[int], *_: Any) -> Tensor:
    if tuple(x.shape[x.dim() - len(normalized_shape) :]) != tuple(normalized_shape):
        raise RuntimeError(f"a norm over {tuple(normalized_shape)} got input {tuple(x.shape)}")
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def group_norm(x: Tensor, *affine: Any) -> tuple[Tensor, Tensor, Tensor]:
    _per_channel(x, affine[:2])
    nothing = x.new_empty(0)
    return torch.empty_like(x), nothing, nothing


def _per_channel(x: Tensor, vectors: Sequence[Any]) -> None:
    channels = x.shape[1]
    for vector in vectors:
        if isinstance(vector, Tensor) and vector.shape[0] != channels:
            raise RuntimeError(f"a norm over {len(vector)} channels got input {tuple(x.shape)}")


def mm(a: Tensor, b: Tensor) -> Tensor:
    _meet(a, b)
    return a.new_empty(a.shape[0], b.shape[1])


def addmm(_: Tensor, a: Tensor, b: Tensor, **__: Any) -> Tensor:
    _meet(a, b)
    return a.new_empty(a.shape[0], b.shape[1])


def bmm(a: Tensor, b: Tensor) -> Tensor:
    _meet(a, b)
    return a.new_empty(a.shape[0], a.shape[1], b.shape[2])


def grouped_mm(a: Tensor, b: Tensor, offsets: Any = None, *_: Any, **__: Any) -> Any:
    if a.dim() != 2 or b.dim() != 3:
        return NotImplemented
    if a.shape[1] != b.shape[1]:
        raise RuntimeError(f"matrices of shape {tuple(a.shape)} and {tuple(b.shape)} do not fit")
    return a.new_empty(a.shape[0], b.shape[2])


def baddbmm(_: Tensor, a: Tensor, b: Tensor, **__: Any) -> Tensor:
    return bmm(a, b)


def _meet(a: Tensor, b: Tensor) -> None:
    if a.shape[-1] != b.shape[-2] or a.shape[:-2] != b.shape[:-2]:
        raise RuntimeError(f"matrices of shape {tuple(a.shape)} and {tuple(b.shape)} do not fit")


def max_pool(x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False) -> Any:
    out = _pool(x, kernel, stride, padding, dilation, ceil)
    return out, torch.zeros_like(out, dtype=torch.int64)


def avg_pool(x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, ceil: bool = False, *_: Any) -> Tensor:
    return _pool(x, kernel, stride, padding, 1, ceil)


def _pool(x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> Tensor:
    kernel, padding, dilation = ([v, v] if isinstance(v, int) else _spread(v, 2) for v in (kernel, padding, dilation))
    stride = kernel if not isinstance(stride, int) and not len(stride) else stride
    stride = [stride, stride] if isinstance(stride, int) else _spread(stride, 2)
    spatial = []
    for i, size in enumerate(x.shape[-2:]):
        span = size + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1
        steps = -(-span // stride[i]) if ceil else span // stride[i]
        if ceil and steps * stride[i] >= size + padding[i]:
            steps -= 1
        spatial.append(steps + 1)
    return _made(x, (*x.shape[:-2], *spatial))


def resized(x: Tensor, size: Sequence[int] | None, *_: Any, **__: Any) -> Any:
    if size is None:
        return NotImplemented
    return _made(x, (*x.shape[:-2], *(int(s) for s in size)))


def mean(x: Tensor, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    if not isinstance(dims, Sequence) or not dims:
        return NotImplemented
    gone = {d % x.dim() for d in dims}
    shape = [1 if d in gone else n for d, n in enumerate(x.shape) if keepdim or d not in gone]
    return torch.empty(shape, dtype=dtype or x.dtype, device=x.device)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    first = tensors[0]
    if any(t.dim() != first.dim() or t.dtype != first.dtype for t in tensors):
        return NotImplemented
    shape = list(first.shape)
    for t in tensors[1:]:
        if any(a != b for d, (a, b) in enumerate(zip(t.shape, first.shape)) if d != dim % first.dim()):
            raise RuntimeError(f"tensors of shape {tuple(t.shape)} and {tuple(first.shape)} do not join along {dim}")
    shape[dim] = sum(t.shape[dim] for t in tensors)
    return _made(first, shape)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    shape = list(tensors[0].shape)
    shape.insert(dim % (len(shape) + 1), len(tensors))
    return tensors[0].new_empty(shape)


def pad(x: Tensor, amounts: Sequence[int], *_: Any) -> Tensor:
    shape = list(x.shape)
    for k in range(len(amounts) // 2):
        shape[-1 - k] += int(amounts[2 * k]) + int(amounts[2 * k + 1])
    return _made(x, shape)


def roi_align(x: Tensor, boxes: Tensor, _: float, height: int, width: int, *__: Any) -> Tensor:
    return x.new_empty(len(boxes), x.shape[1], height, width)


def linear(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    if x.shape[-1] != w.shape[-1]:
        raise RuntimeError(f"a linear layer for {w.shape[-1]} inputs got {tuple(x.shape)}")
    return x.new_empty([*x.shape[:-1], *w.shape[:-1]])


def attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
    """Laid out as the fused kernels do it: positions before heads."""
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise RuntimeError(f"attention got q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}")
    if q.dim() < 4:
        return q.new_empty(*q.shape[:-1], v.shape[-1])
    lead = torch.broadcast_shapes(q.shape[:-3], k.shape[:-3], v.shape[:-3])
    return q.new_empty(*lead, q.shape[-2], q.shape[-3], v.shape[-1]).transpose(-2, -3)


def letters(equation: str, operands: Sequence[Tensor]) -> tuple[list[str], str]:
    """Letters of every operand and of the result; an ellipsis becomes capital letters that nothing else uses."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    widest = max((t.dim() - len(term) + 3 for t, term in zip(operands, terms) if "..." in term), default=0)
    dots = "".join(spare[:widest])
    full = []
    for t, term in zip(operands, terms):
        own = t.dim() - len(term) + 3
        full.append(term.replace("...", dots[widest - own :]) if "..." in term else term)
    if not arrow:
        once = sorted(c for c in set("".join(terms)) - {"."} if "".join(terms).count(c) == 1)
        return full, dots + "".join(once)
    return full, right.replace("...", dots)


def einsum(equation: str, *given: Any) -> Any:
    operands: list[Tensor] = list(given[0]) if isinstance(given[0], (list, tuple)) else list(given)
    terms, result = letters(equation, operands)
    sizes: dict[str, int] = {}
    for t, term in zip(operands, terms):
        for c, n in zip(term, t.shape):
            if n != 1 and sizes.get(c, 1) not in (1, n):
                raise RuntimeError(f"einsum {equation} got sizes {sizes[c]} and {n} for {c}")
            sizes[c] = max(sizes.get(c, 1), n)
    return operands[0].new_empty([sizes[c] for c in result])
