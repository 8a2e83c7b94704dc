"""A network as the engine knows it: values of channels × height × width, and the operators between them. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ACTIVATIONS = {
    name: index
    for index, name in enumerate(
        "none relu leaky_relu clamp sigmoid silu gelu gelu_tanh hardswish hardsigmoid tanh affine".split()
    )
}


@dataclass(frozen=True)
class Activation:
    """An elementwise function: `a` is leaky ReLU's slope, `a` and `b` are a clamp's bounds, or affine's a·x + b."""

    name: str = "none"
    a: float = 0.0
    b: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ACTIVATIONS:
            raise ValueError(f"unknown activation {self.name!r}: there are {', '.join(ACTIVATIONS)}.")


@dataclass(frozen=True)
class Value:
    """One image's activation: its channels, height and width (a vector is C × 1 × 1, a sequence C × 1 × L)."""

    index: int
    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


@dataclass(eq=False)
class Node:
    """One operator: its kind, the values it reads, the one it writes (None for an output) and its settings."""

    kind: str
    inputs: list[Value]
    out: Value | None
    name: str = ""
    act: Activation = field(default_factory=Activation)
    settings: dict[str, Any] = field(default_factory=dict)


class Network:
    """Collects operators in the order in which they run. Each method returns the value it writes.

    Sizes that do not fit raise `ValueError` with the sizes in it.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.inputs: list[tuple[str, tuple[int, ...]]] = []
        self.outputs: list[tuple[str, tuple[int, ...]]] = []
        self._values = 0

    def _value(self, channels: int, height: int, width: int) -> Value:
        self._values += 1
        return Value(self._values - 1, int(channels), int(height), int(width))

    def _add(self, kind: str, inputs: Sequence[Value], out: Value | None, **rest: Any) -> Any:
        self.nodes.append(Node(kind, list(inputs), out, **rest))
        return out

    def input(self, shape: Sequence[int], name: str = "", *, rows: bool = False) -> Value:
        """An input without its batch axis: `(C, H, W)`, `(C, L)`, `(C,)`, or with `rows` `(L, C)`."""
        settings = {"index": len(self.inputs), "rows": rows}
        self.inputs.append((name or f"input{len(self.inputs)}", tuple(int(n) for n in shape)))
        return self._add("input", [], self._value(*as_planes(shape, rows)), settings=settings)

    def output(self, x: Value, shape: Sequence[int], name: str = "", *, rows: bool = False) -> None:
        """An output, given back in `shape` (without the batch axis), as `input` reads it."""
        if int(np.prod(shape)) != x.channels * x.height * x.width:
            raise ValueError(f"an output of {x.shape} cannot be given back as {tuple(shape)}.")
        settings = {"index": len(self.outputs), "rows": rows}
        self.outputs.append((name or f"output{len(self.outputs)}", tuple(int(n) for n in shape)))
        self._add("output", [x], None, settings=settings)

    def conv(
        self,
        x: Value,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        act: Activation | None = None,
        name: str = "",
    ) -> Value:
        """A convolution. `weight`: `[out, in / groups, kernel height, kernel width]`, `bias`: `[out]`, float32."""
        out_channels, per_group, high, wide = weight.shape
        if per_group * groups != x.channels or out_channels % groups:
            raise ValueError(f"a weight of {weight.shape} in {groups} groups does not fit {x.channels} channels.")
        size = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(x.shape[1:], (high, wide), stride, padding, dilation)
        ]
        if min(size) < 1:
            raise ValueError(f"a kernel of {high}×{wide} does not fit into {x.height}×{x.width}.")
        if stride[0] * stride[1] > 30:
            raise ValueError(f"a stride of {stride} is more than the engine splits.")
        settings = {
            "weight": np.ascontiguousarray(weight, np.float32),
            "bias": np.zeros(out_channels, np.float32) if bias is None else np.ascontiguousarray(bias, np.float32),
            "stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": groups,
        }  # fmt: skip
        return self._add(
            "conv", [x], self._value(out_channels, *size), name=name, act=act or Activation(), settings=settings
        )

    def linear(self, x: Value, weight: np.ndarray, bias: np.ndarray | None = None, **rest: Any) -> Value:
        """A linear layer over the channels at each position: a 1×1 convolution. `weight`: `[out, in]`."""
        return self.conv(x, weight[:, :, None, None], bias, **rest)

    def pool(
        self,
        x: Value,
        kind: str,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int] = (0, 0),
        *,
        size: tuple[int, int] | None = None,
        exclude_pad: bool = False,
    ) -> Value:
        """`kind` is max or average; `size` the output's height and width where they are rounded up."""
        if size is None:
            size = tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(x.shape[1:], kernel, stride, padding))  # type: ignore[assignment]
        assert size is not None
        settings = {"kernel": kernel, "stride": stride, "padding": padding, "exclude_pad": exclude_pad}
        return self._add(f"{kind}_pool", [x], self._value(x.channels, *size), settings=settings)

    def mean(self, x: Value) -> Value:
        """The mean over all positions."""
        return self._add("mean", [x], self._value(x.channels, 1, 1))

    def add(self, x: Value, y: Value, act: Activation | None = None) -> Value:
        """The sum of two values of one shape."""
        if x.shape != y.shape:
            raise ValueError(f"cannot add {y.shape} to {x.shape}.")
        return self._add("add", [x, y], self._value(*x.shape), act=act or Activation())

    def subtract(self, x: Value, y: Value) -> Value:
        """The difference of two values of one shape."""
        if x.shape != y.shape:
            raise ValueError(f"cannot subtract {y.shape} from {x.shape}.")
        return self._add("add", [x, y], self._value(*x.shape), settings={"subtract": True})

    def constant(self, numbers: np.ndarray) -> Value:
        """Numbers that are always the same: `[C, H, W]`, float32."""
        numbers = np.ascontiguousarray(numbers, np.float32)
        return self._add("constant", [], self._value(*numbers.shape), settings={"numbers": numbers})

    def join(self, values: Sequence[Value]) -> Value:
        """Values side by side along their positions, flattened: C × 1 × the sum of H·W."""
        if len({v.channels for v in values}) != 1:
            raise ValueError(f"cannot join {', '.join(str(v.shape) for v in values)} along their positions.")
        return self._add("join", values, self._value(values[0].channels, 1, sum(v.height * v.width for v in values)))

    def attention(
        self,
        x: Value,
        heads: int,
        depths: tuple[int, int],
        first: tuple[int, int, int],
        step: tuple[int, int, int],
        scale: float,
    ) -> Value:
        """softmax(scale · qᵀk) v over all positions, for each head; q, k and v are channels of `x`.

        `depths`: channels of a head's queries and keys, and of its values; `first`: where those of q, k and v begin,
        `step`: from one head to the next.
        """
        for begin, further, depth in zip(first, step, (depths[0], *depths)):
            if begin < 0 or further < 0 or begin + (heads - 1) * further + depth > x.channels:
                raise ValueError(f"{heads} heads of {depths} do not fit {x.channels} channels.")
        if x.height * x.width > 8192:
            raise ValueError(f"attention over {x.height * x.width} positions is more than the engine does.")
        settings = {"sizes": [heads, *depths, *(n for pair in zip(first, step) for n in pair)]}
        out = self._value(heads * depths[1], x.height, x.width)
        return self._add("attention", [x], out, act=Activation("none", scale), settings=settings)

    def mul(self, x: Value, y: Value, act: Activation | None = None) -> Value:
        """The product of two values of one shape, or of a value and one factor for each channel or each position."""
        if y.shape not in (x.shape, (x.channels, 1, 1), (1, x.height, x.width)):
            raise ValueError(f"cannot multiply {x.shape} by {y.shape}.")
        return self._add("mul", [x, y], self._value(*x.shape), act=act or Activation())

    def activate(self, x: Value, act: Activation) -> Value:
        """An activation alone."""
        return self._add("act", [x], self._value(*x.shape), act=act)

    def concat(self, values: Sequence[Value]) -> Value:
        """Values side by side along the channels; parts are written in place where that can be."""
        sizes = {v.shape[1:] for v in values}
        if len(sizes) != 1:
            raise ValueError(f"cannot join {', '.join(str(v.shape) for v in values)}.")
        return self._add("concat", values, self._value(sum(v.channels for v in values), *sizes.pop()))

    def channels(self, x: Value, first: int, last: int) -> Value:
        """Channels first to last (exclusive) of a value: a view."""
        if not 0 <= first < last <= x.channels:
            raise ValueError(f"channels {first} to {last} of {x.channels} do not exist.")
        return self._add("slice", [x], self._value(last - first, *x.shape[1:]), settings={"first": first})

    def upsample(self, x: Value, factor: tuple[int, int]) -> Value:
        """Nearest-neighbour enlargement by whole factors."""
        out = self._value(x.channels, x.height * factor[0], x.width * factor[1])
        return self._add("upsample", [x], out, settings={"factor": factor})


def as_planes(shape: Sequence[int], rows: bool = False) -> tuple[int, int, int]:
    """The channels, height and width in which an array without its batch axis is kept.

    ```python
    >>> as_planes((3, 224, 224)), as_planes((64,)), as_planes((197, 768), rows=True)
    ((3, 224, 224), (64, 1, 1), (768, 1, 197))

    ```
    """
    if rows:
        if len(shape) != 2:
            raise ValueError(f"rows are positions × channels, not {tuple(shape)}.")
        return shape[1], 1, shape[0]
    if not 1 <= len(shape) <= 3:
        raise ValueError(f"a value has channels and at most two more axes, not {tuple(shape)}.")
    return (shape[0], *(1,) * (3 - len(shape)), *shape[1:])  # type: ignore[return-value]
