"""What fools a pruner: stale sizes, f(0) ≠ 0, statistics, buffers, tables, caches, sharing, masks; by the oracle."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.nn.utils import prune as torch_prune

import podar
from podar.errors import PodarError
from podar.graph.verification import Expectation, verify_trace
from tests.graph.oracle import difference, redraw
from tests.graph.random_networks import RMSNorm
from tests.graph.remaining import difference as over_what_remains

EXACT = 1e-9
IMAGES = torch.zeros(2, 3, 8, 8)
TOKENS = torch.zeros(2, 10, 12)


def half(model: nn.Module, inputs: Any, **options: Any) -> podar.pruning.result.Result:  # pyright: ignore
    return podar.prune(model, inputs, "channels=0.5", scope="local", importance="random", **options)


class Middle(nn.Module):
    """`stem` makes 8 channels, `body` is what a test looks at, `head` reads its channels wherever they are."""

    def __init__(self, body: nn.Module, channels: int = 8) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3, padding=1), body, nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).flatten(2).mean(2))


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


# Stale sizes


class Tokens(nn.Module):
    """Joins batch and tokens by a −1: with a stale `width` 20 tokens of (3, 4) would silently become 10."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 3, 4
        self.up, self.scale, self.down = nn.Linear(12, 12), nn.Parameter(torch.ones(3, 4)), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x).reshape(-1, self.heads, self.width) * self.scale
        return self.down(y.flatten(1))


@pytest.mark.parametrize("ratios", [None, {"* inner": 0.5}])
def test_attributes_beside_a_minus_one_follow(ratios: dict[str, float] | None) -> None:
    worst, result = difference(lambda: Tokens().eval(), TOKENS, lambda m, x: half(m, x, ratios=ratios))
    assert worst < EXACT
    assert (result.model.heads, result.model.width) == ((3, 2) if ratios else (2, 4))
    assert result.model(torch.zeros(2, 10, 12).double()).shape == (20, 5)


def test_verification_catches_a_stale_attribute_that_still_runs() -> None:
    model = Tokens().eval()
    graph = podar.trace(model, TOKENS)
    plan = podar.plan(graph, "channels=0.5", model=model, scope="local", ratios={"* inner": 0.5})
    podar.apply(model, dataclasses.replace(plan, attributes={}))
    with pytest.raises(PodarError, match="after this cut"):
        verify_trace(model, TOKENS, Expectation(graph, graph.removed_units(plan)))


def test_a_literal_size_beside_a_minus_one_freezes() -> None:
    model = nn.Sequential(
        nn.Linear(12, 12), Function(lambda x: x.reshape(-1, 3, 4).tanh().flatten(1)), nn.Linear(12, 5)
    )
    frozen = {(n, d): why for n, d, why in podar.trace(model, TOKENS).frozen}
    assert "hard-coded size" in frozen["0.weight", 0]


# f(0) ≠ 0, and the garbage test


@pytest.mark.parametrize(
    "function", [torch.sigmoid, torch.exp, torch.cos, lambda x: x + 3, lambda x: 1 - x, nn.Softplus(), nn.Hardsigmoid()]
)  # fmt: skip
def test_a_removed_channel_may_be_a_constant(function: Callable[[Tensor], Tensor]) -> None:
    body = nn.Sequential(Function(function), nn.Conv2d(8, 6, 3, padding=1), Function(function))
    worst, result = difference(lambda: Middle(copy.deepcopy(body), 6).eval(), IMAGES, half)
    assert worst < EXACT and result.model.stem.out_channels == 4


@pytest.mark.parametrize("function", [torch.sigmoid, nn.SiLU(), lambda x: x * x + 2, nn.BatchNorm2d(8)])
def test_what_is_removed_has_no_say(function: Any) -> None:
    """The garbage test: with the consumers' slices zeroed, noise in the producers' does not move the output."""
    body = nn.Sequential(function if isinstance(function, nn.Module) else Function(function), nn.Conv2d(8, 8, 3))
    dense = redraw(Middle(body).eval())
    model = copy.deepcopy(dense)
    result = half(model, IMAGES)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        wanted = model(x)
        for name, tensor in [*dense.named_parameters(), *dense.named_buffers()]:
            for dim, index in sorted(result.removed.get(name, {}).items()):
                part = torch.rand_like(tensor.index_select(dim, index)) * 100 if dim == 0 else 0.0
                tensor.index_copy_(dim, index, part) if dim == 0 else tensor.index_fill_(dim, index, 0.0)
        assert torch.allclose(dense(x), wanted, atol=1e-4)


# Statistics over channels


def test_every_group_of_a_group_norm_loses_equally_many() -> None:
    body = nn.Sequential(nn.Conv2d(8, 24, 1), nn.GroupNorm(4, 24), nn.ReLU())
    worst, result = difference(lambda: Middle(copy.deepcopy(body), 24).eval(), IMAGES, half)
    kept = ~result.removed_mask("body.1.weight").view(4, 6)
    assert worst < EXACT and kept.sum(1).tolist() == [3, 3, 3, 3]
    assert result.model.body[1].num_channels == 12 and result.model.body[1].num_groups == 4


class Response(nn.Module):
    """Global response norm of ConvNeXt V2: divides by a mean over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        size = x.norm(p=2, dim=(2, 3), keepdim=True)
        return x + self.gamma * x * (size / (size.mean(1, keepdim=True) + 1e-6))


@pytest.mark.parametrize(
    "body",
    [
        Response(),
        Function(lambda x: x * functional.softmax(x, 1)),
        Function(lambda x: x - x.mean(1, keepdim=True)),
        Function(lambda x: x / x.std(1, keepdim=True)),
        Function(lambda x: x * x.logsumexp(1, keepdim=True)),
        Function(lambda x: x.cumsum(1)),
        Function(lambda x: x.sort(1).values),
        Function(lambda x: x.flip(1)),
        Function(lambda x: x.roll(1, 1)),
        Function(lambda x: x * x.argmax(1, keepdim=True)),
    ],
)
def test_statistics_over_channels_are_over_what_remains_or_frozen(body: nn.Module) -> None:
    """Norms are taken over what remains, as layer norms are; everything else stays whole."""
    frozen = [why for n, d, why in podar.trace(Middle(body).eval(), IMAGES).frozen if (n, d) == ("stem.weight", 0)]
    if frozen:
        assert len(frozen[0]) > 10
        return
    worst, result = over_what_remains(lambda: Middle(copy.deepcopy(body)).eval(), IMAGES)
    assert worst < EXACT and result.model.stem.out_channels == 4


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(8), RMSNorm(8), nn.RMSNorm(8, eps=1e-6), nn.LayerNorm(8, elementwise_affine=False)]
)
def test_norms_over_channels_take_their_statistics_over_what_remains(norm: nn.Module) -> None:
    model = Middle(nn.Sequential(Function(lambda x: x.movedim(1, -1)), norm, Function(lambda x: x.movedim(-1, 1))))
    if isinstance(norm, nn.LayerNorm) and not norm.elementwise_affine:
        result = half(model.eval(), IMAGES)
        assert result.model.body[1].normalized_shape == (4,)
        with torch.no_grad():
            y = result.model.body(result.model.stem(torch.randn(2, 3, 8, 8)))
        assert torch.allclose(y.mean(1), torch.zeros(()), atol=1e-5)
        return
    worst, _ = difference(lambda: copy.deepcopy(model).eval(), IMAGES, half)
    assert worst < EXACT


# Buffers with a channel axis


class FrozenNorm(nn.Module):
    """Batch norm whose everything is a buffer, as detection backbones have it."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(8) + 0.5)

    def forward(self, x: Any) -> Tensor:
        own: Any = self
        scale = own.weight.reshape(1, -1, 1, 1) * (own.running_var.reshape(1, -1, 1, 1) + 1e-5).rsqrt()
        return x * scale + (own.bias.reshape(1, -1, 1, 1) - own.running_mean.reshape(1, -1, 1, 1) * scale)


class Shifted(nn.Module):
    """A bias that is a buffer, one that is not saved, and one of 0-d."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.rand(8, 1, 1))
        self.register_buffer("gain", torch.rand(8), persistent=False)
        self.register_buffer("whole", torch.tensor(0.5))

    def forward(self, x: Any) -> Tensor:
        own: Any = self
        return (x + own.shift) * own.gain[None, :, None, None] * own.whole


@pytest.mark.parametrize("body", [FrozenNorm(), Shifted(), nn.BatchNorm2d(8, affine=False), nn.InstanceNorm2d(8)])
def test_buffers_are_cut_with_their_channels(body: nn.Module) -> None:
    worst, result = difference(lambda: Middle(copy.deepcopy(body)).eval(), IMAGES, half)
    assert worst < EXACT
    assert result.model.stem.out_channels == 4
    assert all(b.shape[0] == 4 for b in result.model.body.buffers() if b.dim())


# Positions


class Rotary(nn.Module):
    """Attention with rotary positions: pairs (j, j + d/2), or (2j, 2j + 1); frequencies are a buffer."""

    def __init__(self, interleaved: bool) -> None:
        super().__init__()
        self.heads, self.width, self.interleaved, self.scale = 3, 8, interleaved, 8**-0.5
        self.q, self.k, self.v, self.out = nn.Linear(12, 24), nn.Linear(12, 24), nn.Linear(12, 24), nn.Linear(24, 5)
        self.register_buffer("inv_freq", 1.0 / (100 ** (torch.arange(0, 8, 2).float() / 8)), persistent=False)

    def turned(self, x: Tensor) -> Tensor:
        if self.interleaved:
            return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
        a, b = x.chunk(2, -1)
        return torch.cat((-b, a), -1)

    def forward(self, x: Any) -> Tensor:
        own: Any = self
        angle = torch.arange(x.shape[1], dtype=own.inv_freq.dtype)[:, None] * own.inv_freq
        angle = angle.repeat_interleave(2, -1) if self.interleaved else torch.cat((angle, angle), -1)
        q, k, v = (m(x).view(*x.shape[:2], self.heads, self.width).transpose(1, 2) for m in (self.q, self.k, self.v))
        q, k = (t * angle.cos() + self.turned(t) * angle.sin() for t in (q, k))
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_pairs_stay_together(interleaved: bool) -> None:
    worst, result = difference(lambda: Rotary(interleaved).eval(), TOKENS, half)
    assert worst < EXACT and result.model.heads == 2
    graph = podar.trace(Rotary(interleaved).eval(), TOKENS)
    within = [g for g in graph.groups if g.kind == "inner" and ("q.weight", 0) in g.members]
    assert len(within) == 1 and within[0].size == 4 and ("k.weight", 0) in within[0].members
    worst, result = difference(
        lambda: Rotary(interleaved).eval(), TOKENS, lambda m, x: half(m, x, ratios={within[0].name: 0.5})
    )
    gone = result.removed_mask("q.weight")[:8, 0]
    pairs = gone.view(4, 2) if interleaved else gone.view(2, 4).T
    assert worst < EXACT and (pairs[:, 0] == pairs[:, 1]).all() and 0 < int(gone.sum()) < 8
    assert len(result.model.inv_freq) * 2 == 8 - int(gone.sum())


class Window(nn.Module):
    """Attention with a table of relative positions, looked up by an index buffer, as Swin has it."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.qkv, self.proj = nn.Linear(12, 48), nn.Linear(16, 5)
        self.table = nn.Parameter(torch.rand(19, 4))
        place = torch.arange(10)
        self.register_buffer("index", (place[:, None] - place + 9).flatten())

    def forward(self, x: Any) -> Tensor:
        own: Any = self
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[own.index].view(t, t, -1).permute(2, 0, 1)
        weights = (q @ k.transpose(-2, -1) * 0.5 + bias).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, t, -1))


def test_relative_position_tables_lose_heads_and_keep_rows() -> None:
    worst, result = difference(lambda: Window().eval(), TOKENS, half)
    assert worst < EXACT
    assert result.model.table.shape == (19, 2) and result.model.heads == 2
    assert any(name == "table" and dim == 0 for name, dim, _ in result.graph.frozen)


# Grouped convolutions


def test_groups_lose_different_members_and_the_mask_tells() -> None:
    torch.manual_seed(5)
    worst, result = difference(lambda: Middle(nn.Conv2d(8, 8, 3, groups=2)).eval(), IMAGES, half)
    mask = result.removed_mask("body.weight")
    assert worst < EXACT and mask.shape == (8, 4, 3, 3)
    assert result.model.body.weight.shape == (4, 2, 3, 3) and result.model.body.groups == 2
    inputs = result.removed_mask("stem.weight")[:, 0, 0, 0].view(2, 4)
    outputs = mask.all(dim=3).all(dim=2).all(dim=1).view(2, 4)
    for group in range(2):
        kept = mask.view(2, 4, 4, 3, 3)[group][~outputs[group]]
        assert (kept[:, :, 0, 0] == inputs[group]).all(), (
            "what a group no longer reads is what the stem no longer makes"
        )


@pytest.mark.parametrize("multiplier", [1, 2, 3])
def test_outputs_of_a_depthwise_multiplier_belong_to_their_input(multiplier: int) -> None:
    body = nn.Conv2d(8, 8 * multiplier, 3, groups=8)
    worst, result = difference(lambda: Middle(copy.deepcopy(body), 8 * multiplier).eval(), IMAGES, half)
    inputs, outputs = result.removed["stem.weight"][0], result.removed["body.weight"][0]
    assert worst < EXACT
    assert outputs.tolist() == [i * multiplier + j for i in inputs.tolist() for j in range(multiplier)]
    assert result.model.body.groups == result.model.body.in_channels == 4


# Caches filled by forward


class Caching(nn.Module):
    """Caches in a dict, in an attribute, in a list and in a buffer; one derives from a parameter that is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.calls = 4, []
        self.qkv, self.proj, self.bias = nn.Linear(12, 48), nn.Linear(16, 5), nn.Parameter(torch.rand(4, 10))
        self.cache: dict[str, Tensor] = {}
        self.grid: Tensor | None = None
        self.register_buffer("seen", torch.zeros(1))

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        if mode:
            self.cache = {}
        return self

    def forward(self, x: Any) -> Tensor:
        own: Any = self
        n, t, _ = x.shape
        if self.grid is None or len(self.grid) != t:
            self.grid = (torch.arange(t)[:, None] - torch.arange(t)).abs()
        if "bias" not in self.cache or self.cache["bias"].shape[-1] != t:
            self.cache["bias"] = self.bias[:, self.grid]
        self.calls.append(t)
        own.seen += 1
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * 0.5 + self.cache["bias"]).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, t, -1))


def test_a_trace_leaves_caches_as_they_were() -> None:
    model = Caching().eval()
    podar.trace(model, TOKENS)
    assert model.cache == {} and model.grid is None and model.calls == [] and float(model.seen) == 0  # pyright: ignore
    assert type(model.heads) is int
    x = torch.randn(2, 7, 12)
    with torch.no_grad():
        wanted = model(x)
    before = dict(model.cache)
    podar.trace(model, TOKENS)
    assert model.cache.keys() == before.keys() and model.cache["bias"] is before["bias"] and model.calls == [7]
    with torch.no_grad():
        assert torch.equal(model(x), wanted)


@pytest.mark.parametrize("filled", [False, True])
def test_caches_that_derive_from_parameters_do_not_survive_surgery(filled: bool) -> None:
    torch.manual_seed(1)
    model = redraw(Caching().eval())
    dense = copy.deepcopy(model)
    x = torch.randn(2, 10, 12)
    with torch.no_grad():
        if filled:
            model(x)
        result = half(model, TOKENS)
        for name, p in dense.named_parameters():
            p[result.removed_mask(name)] = 0
        assert torch.allclose(model(x), dense(x), atol=1e-5)


# Sharing


class Tied(nn.Module):
    """Embedding and output layer are one parameter, a module is used twice, and another has two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(20, 16), nn.Linear(16, 16), nn.Linear(16, 20, bias=False)
        self.out.weight = self.embed.weight
        self.again = self.mix
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = x + self.again(self.mix(x).relu())
        return self.out(x + self.down(self.up(x).relu()))


def test_tied_parameters_and_shared_modules_are_cut_once() -> None:
    ids = torch.randint(0, 20, (2, 7))
    worst, result = difference(lambda: Tied().eval(), ids, half)
    model = result.model
    assert worst < EXACT
    assert model.out.weight is model.embed.weight and model.again is model.mix
    assert model.embed.weight.shape == (20, 8) and model.up.weight.shape == (12, 8)
    assert torch.equal(result.removed["embed.weight"][1], result.removed["out.weight"][1])
    assert torch.equal(result.removed_mask("again.weight"), result.removed_mask("mix.weight"))


def _write_slice(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :, ::2] = x[:, :, 1::2] * 2
    return y


def _write_channels(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :4] += x[:, 4:]
    y[:, 4:] = x[:, :4].sigmoid()
    return y


def _filled(x: Tensor) -> Tensor:
    y = x.new_empty(x.shape)
    y.copy_(x)
    y.narrow(2, 0, 4).mul_(2).add_(x.narrow(2, 4, 4))
    return y


def _views(x: Tensor) -> Tensor:
    y = x.clone()
    view = y.view(x.shape[0], x.shape[1], -1)
    view.relu_()
    y.transpose(1, 2).mul_(0.5)
    return y + view.view_as(x)


@pytest.mark.parametrize("function", [_write_slice, _write_channels, _filled, _views])
def test_writes_through_views_are_seen(function: Callable[[Tensor], Tensor]) -> None:
    def build() -> nn.Module:
        body = nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 1), Function(function))
        return Middle(body).eval()

    worst, _ = difference(build, IMAGES, half)
    assert worst < EXACT


def test_channels_last_pools_by_other_operators() -> None:
    def build() -> nn.Module:
        body = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Hardswish())
        return Middle(body).eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    images = torch.zeros(2, 3, 8, 8).to(memory_format=torch.channels_last)
    worst, result = difference(build, images, half)
    assert worst < EXACT and result.model.body[0].weight.shape == (4, 4, 3, 3)
    assert result.model.body[0].weight.is_contiguous(memory_format=torch.channels_last)


# Recurrent layers keep their flat weights in step


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_flat_weights_of_recurrent_layers_are_renewed(kind: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.out = kind(12, 10, batch_first=True), nn.Linear(10, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.layer(x)[0][:, -1])

    worst, result = difference(lambda: Net().eval(), TOKENS, half)
    layer = result.model.layer
    assert worst < EXACT and layer.hidden_size == 5
    assert all(flat is getattr(layer, name) for flat, name in zip(layer._flat_weights, layer._flat_weights_names))
    copy.deepcopy(result.model).float().train()(torch.randn(2, 10, 12)).sum().backward()


# Outputs


class Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        a = self.a(x).relu()
        b = self.b(a).relu()
        return {"logits": self.head(b.mean((2, 3))), "features": [a, b]}


@pytest.mark.parametrize(
    ("outputs", "kept"),
    [
        (None, (8, 8)),
        (["logits"], (4, 4)),
        (["logits", "features.0"], (8, 4)),
        (lambda path: path.startswith("features"), (8, 8)),
    ],
)
def test_named_outputs_keep_their_shape_and_others_may_shrink(outputs: Any, kept: tuple[int, int]) -> None:
    model = Features().eval()
    if kept == (8, 8) and outputs is None:
        assert {(n, d) for n, d, why in podar.trace(model, IMAGES).frozen if "output" in why} >= {("a.weight", 0)}
        return
    half(model, IMAGES, outputs=outputs)
    assert (model.a.out_channels, model.b.out_channels) == kept
    assert model.head.out_features == (3 if not callable(outputs) else 2)


def test_outputs_that_do_not_exist_are_named() -> None:
    with pytest.raises(PodarError, match=r"'logit'.*'logits'"):
        podar.trace(Features().eval(), IMAGES, outputs=["logit"])


# Masks and parametrizations


def test_a_masked_weight_is_cut_with_its_mask() -> None:
    def build() -> nn.Module:
        model = Middle(nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()))
        torch_prune.random_unstructured(model.body[0], "weight", 0.5)  # pyright: ignore[reportArgumentType, reportIndexIssue]
        torch_prune.random_unstructured(model.stem, "weight", 0.3)
        return model.eval()

    model = build()
    result = half(model, IMAGES)
    body: Any = model.get_submodule("body.0")
    stem: Any = model.get_submodule("stem")
    assert body.weight.shape == (4, 4, 3, 3), "the product is renewed at once"
    assert body.weight_orig.shape == body.weight_mask.shape == (4, 4, 3, 3)
    assert stem.weight_orig.shape == stem.weight_mask.shape == (4, 3, 3, 3)
    assert torch.equal(result.removed_mask("body.0.weight_orig"), result.removed_mask("body.0.weight_mask"))
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    assert body.weight_orig.grad.shape == (4, 4, 3, 3)
    torch_prune.remove(body, "weight")
    assert body.weight.shape == (4, 4, 3, 3) and (body.weight == 0).float().mean() > 0.2


def test_a_graph_of_an_earlier_step_does_not_spoil_the_next() -> None:
    """Whoever keeps the last loss keeps torch's idea of how large each gradient is."""
    model = Middle(nn.Conv2d(8, 8, 3)).train()
    loss = model(torch.randn(2, 3, 8, 8)).square().mean()
    half(model, IMAGES)
    model(torch.randn(2, 3, 8, 8)).square().mean().backward()
    assert float(loss.detach()) >= 0 and all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


class Positive(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return functional.softplus(weight)


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


def test_an_elementwise_parametrization_is_cut_at_its_original() -> None:
    model = Middle(nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())).eval()
    parametrize.register_parametrization(model.get_submodule("body.0"), "weight", Positive())
    result = half(model, IMAGES)
    convolution: Any = model.get_submodule("body.0")
    assert convolution.parametrizations.weight.original.shape == convolution.weight.shape == (4, 4, 3, 3)
    assert (convolution.weight > 0).all() and result.after.params < result.before.params
    model(torch.randn(2, 3, 8, 8)).sum().backward()


def test_a_parametrization_that_mixes_rows_is_frozen_or_exact() -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    parametrize.register_parametrization(model[1], "weight", Symmetric())
    graph = podar.trace(model, torch.zeros(2, 12))
    frozen = {n for n, _, _ in graph.frozen}
    assert "1.parametrizations.weight.original" in frozen
