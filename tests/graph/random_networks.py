"""Random small networks: stacks of every kind of block that the graph must understand, over one residual width."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    def __init__(self, width: int, inner: int, act: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2, self.act = nn.Conv2d(inner, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.bn2(self.conv2(self.act(self.bn1(self.conv1(x))))))


class Depthwise(nn.Module):
    def __init__(self, width: int, multiplier: int, act: nn.Module) -> None:
        super().__init__()
        self.depth = nn.Conv2d(width, width * multiplier, 3, padding=1, groups=width)
        self.point, self.act = nn.Conv2d(width * multiplier, width, 1), act

    def forward(self, x: Tensor) -> Tensor:
        return self.point(self.act(self.depth(x)))


class Grouped(nn.Module):
    def __init__(self, width: int, groups: int, act: nn.Module) -> None:
        super().__init__()
        self.reduce, self.act = nn.Conv2d(width, 4 * groups, 1), act
        self.group, self.expand = (
            nn.Conv2d(4 * groups, 8 * groups, 3, padding=1, groups=groups),
            nn.Conv2d(8 * groups, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.expand(self.act(self.group(self.act(self.reduce(x)))))


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, inner: int, act: nn.Module) -> None:
        super().__init__()
        self.down, self.up, self.act = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1), act

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(self.act(self.down(x.mean((2, 3), keepdim=True)))))


class Dense(nn.Module):
    def __init__(self, width: int, growth: int, act: nn.Module) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(width, growth, 3, padding=1), nn.Conv2d(width + growth, growth, 1)
        self.norm, self.out, self.act = nn.BatchNorm2d(width + 2 * growth), nn.Conv2d(width + 2 * growth, width, 1), act

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.a(x)], 1)
        x = torch.cat([x, self.b(self.act(x))], 1)
        return self.out(self.act(self.norm(x)))


class Split(nn.Module):
    """CSP: chunk, or split by a stored int; one part goes through a branch, both are joined again."""

    def __init__(self, width: int, half: int, by_attribute: bool, act: nn.Module) -> None:
        super().__init__()
        self.c, self.by_attribute, self.act = half, by_attribute, act
        self.cv1, self.branch, self.cv2 = (
            nn.Conv2d(width, 2 * half, 1),
            nn.Conv2d(half, half, 3, padding=1),
            nn.Conv2d(3 * half, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.cv1(x))
        a, b = y.split((self.c, self.c), 1) if self.by_attribute else y.chunk(2, 1)
        return self.cv2(torch.cat([a, b, self.act(self.branch(b))], 1))


class Shuffle(nn.Module):
    def __init__(self, width: int, groups: int, act: nn.Module) -> None:
        super().__init__()
        self.groups, self.act = 2, act
        self.a, self.b = nn.Conv2d(width, 4 * groups, 1), nn.Conv2d(4 * groups, width, 1)
        self.parts = groups

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.a(x))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.b(x)


class Normed(nn.Module):
    """Group norm over channels, then layer norm over channels last."""

    def __init__(self, width: int, inner: int, groups: int, act: nn.Module) -> None:
        super().__init__()
        self.a, self.gn = nn.Conv2d(width, inner * groups, 1), nn.GroupNorm(groups, inner * groups)
        self.ln, self.b, self.act = nn.LayerNorm(inner * groups), nn.Linear(inner * groups, width), act

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln(self.act(self.gn(self.a(x))).permute(0, 2, 3, 1))
        return x + self.b(y).permute(0, 3, 1, 2)


class Transposed(nn.Module):
    def __init__(self, width: int, inner: int, act: nn.Module) -> None:
        super().__init__()
        self.up, self.down, self.act = (
            nn.ConvTranspose2d(width, inner, 2, stride=2),
            nn.Conv2d(inner, width, 2, stride=2),
            act,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


class Attention(nn.Module):
    """Tokens of a map; fused qkv, stored sizes or sizes from the shape, fused or written-out attention."""

    def __init__(self, width: int, heads: int, dim: int, style: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.style, self.scale = heads, dim, style, dim**-0.5
        self.norm, self.qkv, self.proj = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * heads * dim),
            nn.Linear(heads * dim, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        t = x.flatten(2).transpose(1, 2)
        y = self.qkv(self.norm(t))
        if self.style == 0:
            q, k, v = y.reshape(n, h * w, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            q, k, v = (p.view(n, h * w, self.num_heads, -1).transpose(1, 2) for p in y.chunk(3, -1))
            y = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1) @ v
        y = y.transpose(1, 2).reshape(n, h * w, self.num_heads * self.head_dim if self.style == 0 else -1)
        return x + self.proj(y).transpose(1, 2).reshape(n, c, h, w)


class Gated(nn.Module):
    def __init__(self, width: int, inner: int, fused: bool) -> None:
        super().__init__()
        self.up, self.down, self.fused, self.rms = (
            nn.Linear(width, 2 * inner),
            nn.Linear(inner, width),
            fused,
            RMSNorm(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        t = self.rms(x.permute(0, 2, 3, 1))
        y = self.up(t)
        if self.fused:
            y = functional.glu(y, -1)
        else:
            a, b = y.chunk(2, -1)
            y = functional.silu(a) * b
        return x + self.down(y).permute(0, 3, 1, 2)


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


class Loose(nn.Module):
    """A parameter used outside modules, and one weight shared by two layers."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gamma, self.a, self.b = (
            nn.Parameter(torch.ones(width, 1, 1)),
            nn.Conv2d(width, inner, 1),
            nn.Conv2d(inner, width, 1),
        )
        self.c = nn.Conv2d(width, inner, 1)
        self.c.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.b(self.a(x) + self.c(x).relu())


class Network(nn.Module):
    def __init__(self, width: int, blocks: list[nn.Module], flat: bool) -> None:
        super().__init__()
        self.stem, self.blocks, self.flat = nn.Conv2d(3, width, 3, padding=1), nn.Sequential(*blocks), flat
        self.head = nn.Linear(width * 16 if flat else width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.head(x.flatten(1) if self.flat else x.mean((2, 3)))


ACTIVATIONS = st.sampled_from([nn.ReLU, nn.SiLU, nn.Sigmoid, nn.Hardswish, nn.GELU])


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """A network of one to four random blocks, for input 1×3×4×4."""
    width = draw(st.sampled_from([6, 8, 12]))
    size, small, two = st.integers(3, 9), st.sampled_from([2, 3, 4]), st.booleans()
    makers: list[Callable[[nn.Module], nn.Module]] = [
        lambda act: Residual(width, draw(size), act),
        lambda act: Depthwise(width, draw(st.sampled_from([1, 2])), act),
        lambda act: Grouped(width, draw(small), act),
        lambda act: SqueezeExcite(width, draw(size), act),
        lambda act: Dense(width, draw(size), act),
        lambda act: Split(width, draw(size), draw(two), act),
        lambda act: Shuffle(width, draw(small), act),
        lambda act: Normed(width, draw(size), draw(small), act),
        lambda act: Transposed(width, draw(size), act),
        lambda _: Attention(width, draw(small), draw(st.sampled_from([2, 4])), draw(st.integers(0, 1))),
        lambda _: Gated(width, draw(size), draw(two)),
        lambda _: Loose(width, draw(size)),
    ]
    chosen = draw(st.lists(st.sampled_from(makers), min_size=1, max_size=4))
    blocks = [make(draw(ACTIVATIONS)()) for make in chosen]
    return Network(width, blocks, draw(two)).eval()


INPUT = torch.zeros(1, 3, 4, 4)
