"""A size that reaches a value is a number of the dense model: the pruned model computes the same, or the axis stays."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import podar
from tests.graph.oracle import difference

Use = Callable[[Any, Any, Any], Any]
"""Of the head's output y (2, 5), of the features h before it, and of a size c of h: another (2, 5)."""


class Head(nn.Module):
    def __init__(self, use: Use, source: Callable[[Any], Any], width: int) -> None:
        super().__init__()
        self.use, self.source, self.out = use, source, nn.Linear(width, 5)

    def forward(self, h: Tensor) -> Tensor:
        flat = h.mean((-1, -2)) if h.dim() == 4 else h
        return self.use(self.out(flat), h, self.source(h))


class Net(nn.Module):
    """Another hidden layer that may always go, the features, and a head that uses one of their sizes."""

    def __init__(self, use: Use, source: Callable[[Any], Any], convolutional: bool = False) -> None:
        super().__init__()
        self.first: nn.Module = nn.Conv2d(3, 8, 3) if convolutional else nn.Linear(6, 8)
        self.features: nn.Module = nn.Conv2d(8, 16, 3) if convolutional else nn.Linear(8, 16)
        self.head = Head(use, source, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(self.first(x).relu()).relu())


FLAT, PICTURE = torch.zeros(2, 6), torch.zeros(2, 3, 9, 10)


def check(use: Use, source: Callable[[Any], Any], inputs: Tensor = FLAT) -> bool:
    """Whether the features were cut; what was cut computes the same, and what was not says who used the size."""
    worst, result = difference(
        lambda: Net(use, source, inputs.dim() == 4),
        inputs,
        lambda m, x: podar.prune(m, x, "channels=0.5", scope="local"),
    )
    assert worst < 1e-6
    assert 0 in result.removed["first.weight"]  # what has nothing to do with it went all the same
    if 0 in result.removed.get("features.weight", ()):
        return True
    reasons = [why for name, dim, why in result.graph.frozen if (name, dim) == ("features.weight", 0)]
    assert reasons and all("in head" in why or "position" in why for why in reasons), reasons
    return False


def last(h: Tensor) -> int:
    return h.shape[-1]


def channels(h: Tensor) -> int:
    return h.shape[1]


def out_in_place(name: str) -> Use:
    def use(y: Tensor, _: Tensor, c: int) -> Tensor:
        y = y.clone()
        getattr(y, name)(c)
        return y

    return use


def assigned(y: Tensor, _: Tensor, c: int) -> Tensor:
    y = y.clone()
    y[:, 0] = c
    return y


USES: dict[str, Use] = {
    "y / c": lambda y, h, c: y / c,
    "y * c": lambda y, h, c: y * c,
    "c * y": lambda y, h, c: c * y,
    "y + c": lambda y, h, c: y + c,
    "c - y": lambda y, h, c: c - y,
    "c / y": lambda y, h, c: c / (y.abs() + 1),
    "y ** c": lambda y, h, c: (y.abs() * 0.1) ** c,
    "c ** y": lambda y, h, c: c**y,
    "y % c": lambda y, h, c: (100 * y) % c,
    "y // c": lambda y, h, c: (100 * y) // c,
    "y > c": lambda y, h, c: (20 * y > c).to(y.dtype),
    "y.div(c)": lambda y, h, c: y.div(c),
    "torch.div": lambda y, h, c: torch.div(100 * y, c, rounding_mode="floor"),
    "torch.mul out": lambda y, h, c: torch.mul(y, c, out=torch.empty_like(y)),
    "y.mul_(c)": out_in_place("mul_"),
    "y.add_(c)": out_in_place("add_"),
    "y.fill_(c)": out_in_place("fill_"),
    "y.fmod_(c)": out_in_place("fmod_"),
    "y.clamp_(c)": out_in_place("clamp_"),
    "y[:, 0] = c": assigned,
    "alpha": lambda y, h, c: torch.add(y, y, alpha=c),
    "sub alpha": lambda y, h, c: y.sub(y.sigmoid(), alpha=c),
    "beta": lambda y, h, c: torch.addmm(y, y, torch.eye(5), beta=c),
    "addcmul": lambda y, h, c: torch.addcmul(y, y, y, value=c),
    "addcdiv": lambda y, h, c: y.addcdiv(y, y.abs() + 1, value=c),
    "lerp": lambda y, h, c: torch.lerp(y, y * 2, c),
    "masked_fill": lambda y, h, c: y.masked_fill(y > 0, c),
    "where": lambda y, h, c: torch.where(y > 0, y, c),
    "full_like": lambda y, h, c: y + torch.full_like(y, c),
    "new_full": lambda y, h, c: y + y.new_full((5,), c),
    "full": lambda y, h, c: y + torch.full((1,), c),
    "full of that size": lambda y, h, c: y + torch.full((c,), c).max(),
    "ones times": lambda y, h, c: y * (c * torch.ones(1)),
    "tensor": lambda y, h, c: y * torch.tensor(c),
    "tensor of float": lambda y, h, c: y * torch.tensor(float(c)),
    "new_tensor": lambda y, h, c: y * y.new_tensor([c]),
    "as_tensor": lambda y, h, c: y * torch.as_tensor(c),
    "Tensor": lambda y, h, c: y * torch.Tensor([c]),
    "scalar_tensor": lambda y, h, c: y * torch.scalar_tensor(c),
    "sqrt of tensor": lambda y, h, c: y / torch.sqrt(torch.tensor(c)),
    "tensor of shape": lambda y, h, c: y * torch.tensor(h.shape)[1],
    "arange": lambda y, h, c: y * torch.arange(c).sum(),
    "linspace": lambda y, h, c: y * torch.linspace(0, c, 5),
    "one_hot": lambda y, h, c: y * functional.one_hot(torch.tensor([1]), c).double().mean(),
    "math.sqrt": lambda y, h, c: y / math.sqrt(c),
    "math.log": lambda y, h, c: y * math.log(c),
    "math.log2": lambda y, h, c: y * math.log2(c),
    "math.isqrt": lambda y, h, c: y * math.isqrt(c),
    "math.gcd": lambda y, h, c: y * math.gcd(c, 64),
    "math.prod": lambda y, h, c: y / math.prod(h.shape),
    "c ** -0.5": lambda y, h, c: y * c**-0.5,
    "c ** 0.5": lambda y, h, c: y * c**0.5,
    "c ** 2": lambda y, h, c: y * c**2,
    "2 ** c": lambda y, h, c: y * 2**c,
    "0.5 * c": lambda y, h, c: y * (0.5 * c),
    "c * 0.5": lambda y, h, c: y * (c * 0.5),
    "1.0 / c": lambda y, h, c: y * (1.0 / c),
    "1 / c": lambda y, h, c: y * (1 / c),
    "c // 2": lambda y, h, c: y * (c // 2),
    "c >> 1": lambda y, h, c: y * (c >> 1),
    "c << 1": lambda y, h, c: y * (c << 1),
    "c & 24": lambda y, h, c: y * (c & 24),
    "-c": lambda y, h, c: y * -c,
    "abs": lambda y, h, c: y * abs(-c),
    "divmod": lambda y, h, c: y * divmod(c, 3)[0],
    "round": lambda y, h, c: y * round(c),
    "max": lambda y, h, c: y * max(c, 3),
    "sum": lambda y, h, c: y * sum([c, c]),
    "int": lambda y, h, c: y * int(c),
    "float": lambda y, h, c: y * float(c),
    "str": lambda y, h, c: y * int(str(c)),
    "Fraction": lambda y, h, c: y * float(Fraction(c, 3)),
    "np.sqrt": lambda y, h, c: y * float(np.sqrt(c)),
    "np.prod": lambda y, h, c: y / np.prod(h.shape),
    "np.mean": lambda y, h, c: y / float(np.mean(h.shape)),
    "from_numpy": lambda y, h, c: y * torch.from_numpy(np.array([c])),
    "numel": lambda y, h, c: y / h.numel(),
    "torch.numel": lambda y, h, c: y / torch.numel(h),
    "nelement": lambda y, h, c: y / h.nelement(),
    "shape.numel": lambda y, h, c: y / h.shape.numel(),
    "slice.numel": lambda y, h, c: y / h.shape[1:].numel(),
    "stride": lambda y, h, c: y * h.stride(0),
    "strides": lambda y, h, c: y * h.stride()[0],
    "nbytes": lambda y, h, c: y * h.nbytes,
    "of weight": lambda y, h, c: y * c if h.dim() < 0 else y / h.unsqueeze(0).shape[-1],
    "leaky_relu": lambda y, h, c: functional.leaky_relu(y, 1 / c),
    "hardtanh": lambda y, h, c: functional.hardtanh(20 * y, -c, c),
    "threshold": lambda y, h, c: functional.threshold(20 * y, c, 0),
    "clamp": lambda y, h, c: (20 * y).clamp(max=c),
    "clamp_min": lambda y, h, c: (20 * y).clamp_min(c),
    "softplus": lambda y, h, c: functional.softplus(y, beta=c),
    "elu": lambda y, h, c: functional.elu(y, alpha=c),
    "celu": lambda y, h, c: functional.celu(y, alpha=c),
    "pad value": lambda y, h, c: functional.pad(y, (0, 1), value=c)[:, 1:],
    "normalize eps": lambda y, h, c: functional.normalize(y, eps=c),
    "layer_norm eps": lambda y, h, c: functional.layer_norm(y, (5,), eps=c),
    "softmax": lambda y, h, c: (y / c).softmax(-1),
    "norm": lambda y, h, c: y / torch.linalg.vector_norm(y, c, dim=1, keepdim=True),
    "roll": lambda y, h, c: torch.roll(y, c // 4, 1),
    "select": lambda y, h, c: y * y[:, c // 8 : c // 8 + 1],
    "index": lambda y, h, c: y * y[:, c // 8, None],
    "narrow": lambda y, h, c: y * y.narrow(1, c // 8, 1),
    "gather": lambda y, h, c: y * y.gather(1, torch.full((2, 1), c // 8)),
    "list": lambda y, h, c: y * [1.0, 2.0, 3.0, 4.0, 5.0][c // 4],
    "table": lambda y, h, c: y * {16: 2.0}.get(c, 3.0),
    "branch": lambda y, h, c: y * (2.0 if c > 12 else 3.0),
    "Gram matrix": lambda y, h, c: y + (h @ h.t()).sum() / (h.shape[0] * h.shape[1]),
    "sum / c": lambda y, h, c: y + h.sum(-1, keepdim=True) / c,
    "cost volume": lambda y, h, c: y + (h * h.flip(0)).sum(1, keepdim=True) / c,
    "mse": lambda y, h, c: y * functional.mse_loss(y, y * 0) / c,
    "einsum": lambda y, h, c: torch.einsum("bi,bj->b", y, y)[:, None] / c + y,
    "sdpa scale": lambda y, h, c: functional.scaled_dot_product_attention(*[y[None, None]] * 3, scale=1 / c)[0, 0],
    "sdpa scale c": lambda y, h, c: functional.scaled_dot_product_attention(*[y[None, None]] * 3, scale=c)[0, 0],
    "interpolate": lambda y, h, c: functional.interpolate(y[:, None], scale_factor=c // 8)[:, 0, :5],
}


@pytest.mark.parametrize("name", USES)
def test_a_width_used_as_a_number(name: str) -> None:
    assert not check(USES[name], last)


SOURCES: dict[str, Callable[[Any], Any]] = {
    "shape": lambda h: h.shape[1],
    "negative": lambda h: h.shape[-1] if h.dim() == 2 else h.shape[-3],
    "size": lambda h: h.size(1),
    "size dim": lambda h: h.size(dim=1),
    "sizes": lambda h: h.size()[1],
    "starred": lambda h: [*h.shape][1],
    "slice": lambda h: h.shape[1:][0],
    "added": lambda h: (*h.shape, 1)[1],
    "before": lambda h: operator.add((1,), h.shape)[2],
    "list": lambda h: list(h.shape)[1],
    "tuple": lambda h: tuple(h.size())[1],
    "len": lambda h: len(h.transpose(0, 1)),
    "other tensor": lambda h: (h * 2).flatten(1).shape[1],
    "int": lambda h: int(h.shape[1]),
    "tensor": lambda h: torch.tensor(h.shape[1]).item(),
    "mask": lambda h: torch.ones(h.shape[1]).sum(),
    "counted": lambda h: torch.ones_like(h[0]).flatten().sum(),
    "arange": lambda h: torch.arange(h.shape[1]).max() + 1,
    "numel": lambda h: h[0].numel(),
    "range": lambda h: [*range(h.shape[1])][-1] + 1,
    "enumerate": lambda h: sum(1 for _ in h.unbind(1)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_wherever_the_width_comes_from(name: str) -> None:
    assert not check(lambda y, h, c: y * c, SOURCES[name])


@pytest.mark.parametrize("name", SOURCES)
def test_channels_of_pictures_too(name: str) -> None:
    assert not check(lambda y, h, c: y * c, SOURCES[name], PICTURE)


KEPT: dict[str, Callable[[Any], Any]] = {
    "batch": lambda h: h.shape[0],
    "height": lambda h: h.shape[2],
    "width": lambda h: h.size(-1),
    "both": lambda h: h.shape[-2:].numel(),
    "product": lambda h: math.prod(h.shape[2:]),
    "numpy": lambda h: np.prod(h.shape[2:]),
    "transposed": lambda h: h.transpose(0, 1).flatten(1).shape[1],
    "length": lambda h: len(h),
    "float": lambda h: float(h.shape[3]),
    "int": lambda h: int(h.shape[3]),
    "stride": lambda h: h.stride(2) + h.stride(1),
    "flattened": lambda h: h.flatten(2).shape[-1],
}
SOME = ["y / c", "y + c", "alpha", "tensor", "full", "math.sqrt", "c ** -0.5", "1.0 / c", "math.log", "c // 2", "roll"]


@pytest.mark.parametrize("use", SOME)
@pytest.mark.parametrize("name", KEPT)
def test_axes_that_never_go_freeze_nothing(name: str, use: str) -> None:
    source = KEPT[name]

    def number(h: Tensor) -> Any:
        c = source(h)
        return int(c) if use in ("c // 2", "roll", "alpha") else c

    assert check(USES[use], number, PICTURE)


SIZES: dict[str, Use] = {
    "view": lambda y, h, c: y + h.view(2, c).sum(-1, keepdim=True),
    "view of product": lambda y, h, c: y + h.view(h.shape[0] * c).view(2, -1).sum(-1, keepdim=True),
    "numpy's product": lambda y, h, c: y + h.view(-1, np.prod(h.shape[1:])).sum(-1, keepdim=True),
    "zeros": lambda y, h, c: y + (h + torch.zeros(2, c)).relu().sum(-1, keepdim=True),
    "expand": lambda y, h, c: y + (h * torch.ones(1, 1).expand(2, c)).sum(-1, keepdim=True),
    "narrow": lambda y, h, c: y + h.narrow(1, 0, c).sum(-1, keepdim=True),
    "slice": lambda y, h, c: y + h[:, :c].sum(-1, keepdim=True),
    "split": lambda y, h, c: y + h.split(c, 1)[0].sum(-1, keepdim=True),
    "format": lambda y, h, c: y + len(f"{c} channels") // 100,
    "assert": lambda y, h, c: y if c == h.shape[1] and c > 1 and h.dim() == 2 else y + 1,
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_stay_what_they_are(name: str) -> None:
    assert check(SIZES[name], last)


class Attributes(nn.Module):
    """The width as attributes: as it was given, worked out, in a tuple, and of a layer."""

    def __init__(self, use: Callable[[Any, Tensor], Tensor], view: bool) -> None:
        super().__init__()
        self.first, self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 16), nn.Linear(16, 5)
        self.n, self.scale, self.both, self.view = 16, 16**-0.5, (16, 5), view
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(self.first(x).relu()).relu()
        if self.view:
            h = h.view(-1, self.both[0] if self.view is True else self.n)
        return self.use(self, self.b(h))


ATTRIBUTES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "n": lambda m, y: y / m.n,
    "scale": lambda m, y: y * m.scale,
    "in a tuple": lambda m, y: y / m.both[0],
    "in_features": lambda m, y: y / m.b.in_features,
    "out_features": lambda m, y: y + m.a.out_features,
    "root of in_features": lambda m, y: y * m.b.in_features**-0.5,
    "weight": lambda m, y: y / m.b.weight.shape[1],
    "size of weight": lambda m, y: y / m.a.weight.size(0),
    "length of bias": lambda m, y: y / len(m.a.bias),
    "fan": lambda m, y: y / m.b.weight[0].numel(),
    "tensor": lambda m, y: y * torch.tensor([m.n, m.b.in_features]).max(),
}


@pytest.mark.parametrize("view", [False, True])
@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_that_are_used_as_numbers(name: str, view: bool) -> None:
    worst, result = difference(
        lambda: Attributes(ATTRIBUTES[name], view),
        FLAT,
        lambda m, x: podar.prune(m, x, "channels=0.5", scope="local"),
    )
    assert worst < 1e-6
    assert 0 in result.removed["first.weight"]
    free = name in ("scale", "n") or (name == "in a tuple" and not view)
    assert (0 in result.removed.get("a.weight", ())) == free


class Conv(nn.Module):
    def __init__(self, use: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.grouped, self.deep = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, groups=4), nn.Conv2d(16, 16, 1)
        self.each, self.norm, self.use = nn.Conv2d(16, 16, 1, groups=16), nn.BatchNorm2d(16), use
        self.out = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.a(x).relu()).relu()
        return self.out(self.use(self, self.norm(self.each(self.deep(x))).relu()))


@pytest.mark.parametrize(
    ("use", "frozen"),
    [
        (lambda m, y: y / m.grouped.in_channels, {"a"}),
        (lambda m, y: y / m.grouped.out_channels, {"grouped"}),
        (lambda m, y: y / m.each.in_channels, {"deep", "each"}),
        (lambda m, y: y / m.each.groups, {"deep", "each"}),
        (lambda m, y: y / m.norm.num_features, {"deep", "each"}),
        (lambda m, y: y / m.grouped.groups, set()),
        (lambda m, y: y / m.out.kernel_size[0], set()),
    ],
)
def test_attributes_of_layers(use: Callable[[Any, Tensor], Tensor], frozen: set[str]) -> None:
    worst, result = difference(
        lambda: Conv(use), PICTURE, lambda m, x: podar.prune(m, x, "channels=0.5", scope="local")
    )
    assert worst < 1e-6
    cut = {name for name in ("a", "grouped", "deep", "each") if 0 in result.removed.get(f"{name}.weight", ())}
    assert cut == {"a", "grouped", "deep", "each"} - frozen


def test_a_constant_that_looks_like_a_scale_of_attention_stays() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out, self.heads, self.dim = nn.Linear(8, 96), nn.Linear(32, 8), 2, 16
            self.damping = 0.25  # 16 ** -0.5

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).view(2, 5, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4)
            y = functional.scaled_dot_product_attention(q, k, v)
            return x + self.damping * self.out(y.transpose(1, 2).reshape(2, 5, -1))

    def halve_inside(m: nn.Module, x: Any) -> Any:
        return podar.prune(m, x, "channels=0.5", scope="local", ratios={"qkv inner": 0.5})

    worst, result = difference(Attention, torch.zeros(2, 5, 8), halve_inside)
    assert worst < 1e-6
    assert result.model.damping == 0.25


STEPS = st.lists(
    st.tuples(st.sampled_from(["+", "-", "*", "//", "%", "max", "min", "int", "abs", "<<"]), st.integers(1, 7)),
    max_size=4,
)
VALUE = ["y / c", "y * c", "y + c", "alpha", "full", "tensor", "masked_fill", "pad value", "where", "y[:, 0] = c"]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["shape", "numel", "len", "sizes"]), STEPS, st.sampled_from(VALUE), st.booleans())
def test_arithmetic_on_sizes_that_ends_in_a_value(
    source: str, steps: list[tuple[str, int]], use: str, reflected: bool
) -> None:
    operations: dict[str, Callable[[Any, int], Any]] = {
        "+": lambda c, n: n + c if reflected else c + n,
        "-": lambda c, n: n - c if reflected else c - n,
        "*": lambda c, n: n * c if reflected else c * n,
        "//": lambda c, n: c // n,
        "%": lambda c, n: c % n,
        "max": max,
        "min": min,
        "int": lambda c, n: int(c) + n,
        "abs": lambda c, n: abs(c),
        "<<": lambda c, n: c << n,
    }

    def worked_out(h: Tensor) -> Any:
        c = SOURCES[source](h)
        for symbol, n in steps:
            c = operations[symbol](c, n)
        return 1 + abs(c)

    def cut(m: nn.Module, x: Any) -> Any:
        return podar.prune(m, x, "channels=0.5", scope="local")

    worst, _ = difference(lambda: Net(USES[use], worked_out), FLAT, cut)
    assert worst < 1e-6


def test_memory_that_was_given_out_unfilled_is_no_number() -> None:
    """Sums that start at zero, as PyTorch Geometric makes them: their first place is read before the others are."""

    class Running(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            ends = torch.empty(5)
            ends.narrow(0, 0, 1).fill_(torch.rand(())).zero_()
            torch.cumsum(torch.ones(4), 0, out=ends.narrow(0, 1, 4))
            return self.last(self.first(x) * ends[1:].sum())

    for _ in range(5):
        model = Running().eval()
        podar.prune(model, torch.zeros(2, 6), "channels=0.5", scope="local")
        assert model.first.out_features == 4
