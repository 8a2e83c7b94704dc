"""Every kind of model and input that people bring: pruned, and equal to its mask; or refused, and left as it was."""

from __future__ import annotations

import copy
import dataclasses
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

import podar
from podar.errors import PodarError
from tests.graph.oracle import difference

EXACT = 1e-9
TOKENS = torch.zeros(2, 6, 12)
WORDS = torch.arange(12).reshape(2, 6) % 11


def halve(model: nn.Module, inputs: Any) -> Any:
    return podar.prune(model, inputs, "channels=0.5", scope="local")


def check(build: Callable[[], nn.Module], inputs: Any, least: float = 0.1) -> Any:
    """Pruned by at least this share of its parameters, computes what its mask computes, and trains."""
    worst, result = difference(build, inputs, halve)
    assert worst < EXACT
    assert result.after.params < (1 - least) * result.before.params
    assert not [why for _, _, why in result.graph.frozen if "no rule" in why or "does not cover" in why]
    return result


class Sequence(nn.Module):
    """Tokens through `body`, between two linear layers."""

    def __init__(self, body: nn.Module, width: int = 12, out: int = 12) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(12, width), body, nn.Linear(out, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)))


class MultiHead(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 4, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x, need_weights=False)[0]


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(12, 4, 20, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention(batch_first: bool) -> None:
    check(lambda: Sequence(MultiHead(batch_first)), TOKENS)


def test_the_fused_encoder_path() -> None:
    result = check(lambda: Sequence(encoder()), TOKENS)
    with torch.no_grad():  # the fast path of eval mode gives what the slow one gives
        x = torch.randn(2, 6, 12, dtype=torch.float64)
        fast = result.model.eval()(x)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            assert torch.allclose(fast, result.model(x))
        finally:
            torch.backends.mha.set_fastpath_enabled(True)


class Complex(nn.Module):
    """Rotary positions as complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.dim = 3, 4
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)
        angles = torch.outer(torch.arange(6.0), 1.0 / torch.tensor([1.0, 10.0]))
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles))

    def turned(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * self.get_buffer("turns")[:, None, :].to(pairs.dtype)).flatten(3)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, self.dim).unbind(2)
        q, k = self.turned(q), self.turned(k)
        y = functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.proj(y.transpose(1, 2).reshape(b, n, self.heads * self.dim))


def test_complex_rotary_positions() -> None:
    check(lambda: Sequence(Complex()), TOKENS)


class Experts(nn.Module):
    """A mixture with fixed routing: every token goes to the expert of its position."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(12, 8), nn.GELU(), nn.Linear(8, 12)) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for k, expert in enumerate(self.experts):
            out[:, k::2] = expert(x[:, k::2])
        return out


class Routed(Experts):
    """A mixture that looks at its activations."""

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        choice = (x.sum(-1) > x.sum(-1).median()).long()
        for k, expert in enumerate(self.experts):
            where = (choice == k).nonzero(as_tuple=True)
            out[where] = expert(x[where])
        return out


def test_a_mixture_of_experts() -> None:
    check(lambda: Sequence(Experts()), TOKENS)


def test_a_mixture_that_looks_at_its_activations() -> None:
    torch.manual_seed(0)
    model = Sequence(Routed()).eval()
    result = halve(model, torch.randn(2, 6, 12))
    assert result.after.params < 0.8 * result.before.params
    model(torch.randn(2, 6, 12)).sum().backward()


class Alone(Experts):
    """One expert or the other, as the input says."""

    def forward(self, x: Tensor) -> Tensor:
        return self.experts[int(x.sum() > 1e6)](x)


def test_an_expert_that_was_not_reached_still_fits() -> None:
    torch.manual_seed(0)
    with pytest.raises(PodarError, match=r"nothing of this model can be cut.*was not reached"):
        halve(Sequence(Alone()).eval(), torch.randn(2, 6, 12))
    model = Sequence(nn.Sequential(Alone(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 12))).eval()
    result = halve(model, torch.randn(2, 6, 12))
    assert any("was not reached" in why for _, _, why in result.graph.frozen)
    model(torch.full((2, 6, 12), 1e9))
    model(torch.full((2, 6, 12), -1e9))


class Einops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        einops = pytest.importorskip("einops")
        q, k, v = einops.rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=3)
        scores = torch.einsum("b h n d, b h m d -> b h n m", q, k) * 0.5
        return self.proj(einops.rearrange(scores.softmax(-1) @ v, "b h n d -> b n (h d)"))


def test_einops_and_einsum() -> None:
    check(lambda: Sequence(Einops()), TOKENS)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions_of_every_rank(rank: int) -> None:
    conv: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    turned: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 1]
    norm: Any = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank - 1]

    def build() -> nn.Module:
        return nn.Sequential(conv(2, 8, 3, padding=1), norm(8), nn.PReLU(8), turned(8, 6, 2, 2), conv(6, 3, 1))

    check(build, torch.zeros(2, 2, *[4] * rank))


class Words(nn.Module):
    """An embedding whose table is the head's weight too."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.body = nn.Embedding(11, 12), nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 12))
        self.head = nn.Linear(12, 11, bias=False)
        self.head.weight = self.table.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.table(words)
        return self.head(x + self.body(x))


def test_a_tied_embedding() -> None:
    result = check(Words, WORDS)
    assert result.model.head.weight is result.model.table.weight


def test_a_bag_of_words() -> None:
    check(lambda: nn.Sequential(nn.EmbeddingBag(11, 12), nn.Linear(12, 5), nn.Linear(5, 2)), WORDS, least=0.0)


class Settings(nn.Module):
    """Sizes in an object that several layers hold."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        size = self.config.heads * self.config.dim
        q, k, v = (p.view(b, n, self.config.heads, -1).transpose(1, 2) for p in self.qkv(x).split(size, -1))
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, size))


def test_sizes_in_a_settings_object_which_others_hold_too() -> None:
    config = types.SimpleNamespace(heads=4, dim=3)
    result = check(lambda: Sequence(Settings(config)), TOKENS)
    assert (config.heads, result.model.body.config.heads) == (4, 2)


@pytest.mark.parametrize("of", [parametrizations.weight_norm, parametrizations.spectral_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_computed_weights_stay_right(of: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(12, 10), nn.ReLU(), of(nn.Linear(10, 8)), nn.ReLU(), nn.Linear(8, 6), nn.Linear(6, 2)
    )
    result = halve(model.eval(), torch.zeros(2, 12))
    assert result.after.params < result.before.params
    assert not [why for _, _, why in result.graph.frozen if "no rule" in why or "does not cover" in why]
    model(torch.randn(2, 12)).sum().backward()


# Inputs and outputs


@dataclasses.dataclass
class Answer:
    logits: Tensor
    more: dict[str, list[Tensor]]


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 20), nn.Linear(20, 3)

    def forward(self, left: Tensor, *, right: Tensor | None = None) -> Answer:
        x = self.a(left if right is None else left + right).relu()
        return Answer(self.b(x), {"all": [x]})


@pytest.mark.parametrize(
    "inputs",
    [
        TOKENS,
        (TOKENS,),
        {"left": TOKENS, "right": TOKENS},
        lambda model: model(TOKENS.to(next(model.parameters()).dtype), right=None),
    ],
)
def test_kinds_of_inputs_and_outputs(inputs: Any) -> None:
    class Plain(Named):
        def forward(self, left: Tensor, *, right: Tensor | None = None) -> Any:
            x = self.a(left if right is None else left + right).relu()
            return {"logits": self.b(x), "list": [self.b(x) + 1]}

    check(Plain, inputs, least=0.3)


def test_a_dataclass_comes_back() -> None:
    model = Named().eval()
    podar.prune(model, TOKENS, "channels=0.5", outputs=["logits"])
    assert isinstance(model(TOKENS), Answer) and model.a.out_features == 10


# What is refused, or works all the same


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(before[n], t) for n, t in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    model = Sequence(encoder()).to(dtype).eval()
    result = halve(model, TOKENS.to(dtype))
    assert result.after.params < result.before.params and model(TOKENS.to(dtype)).dtype == dtype


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_data_parallel_and_compiled_wrappers() -> None:
    inner = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 2))
    for wrap in (nn.DataParallel, torch.compile):
        model: Any = wrap(copy.deepcopy(inner))
        halve(model, TOKENS)
        assert {tuple(p.shape) for p in model.parameters()} == {(4, 12), (4,), (2, 4), (2,)}


def test_a_model_on_the_meta_device_is_refused() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 2))
    with pytest.raises(PodarError, match="meta device"):
        halve(model, torch.zeros(2, 12, device="meta"))
    assert [tuple(p.shape) for p in model.parameters()] == [(8, 12), (8,), (2, 8), (2,)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_program_is_refused() -> None:
    inner = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 2)).eval()
    program: Any = torch.jit.trace(inner, TOKENS)
    for model in (program, nn.Sequential(program)):
        with pytest.raises(PodarError, match="TorchScript"):
            halve(model, TOKENS)


class Strided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.as_strided((2, 6, 6), (72, 12, 2))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.sum() > 0 else self.b(x)


class Sliced(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        x[..., :3] = x[..., 3:6] * 2
        return x


def test_views_by_stride_are_frozen_with_the_reason() -> None:
    model = Sequence(Strided(), out=6).eval()
    assert any("stride" in why for _, _, why in podar.trace(model, TOKENS).frozen)
    with pytest.raises(PodarError, match="nothing of this model can be cut.*stride"):
        halve(model, TOKENS)


def test_writes_into_slices_and_branches_on_values() -> None:
    check(lambda: Sequence(Sliced()), TOKENS, least=0.0)
    model = Sequence(nn.Sequential(Branching(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 12))).eval()
    halve(model, torch.ones(2, 6, 12))
    for x in (torch.ones(2, 6, 12), -torch.ones(2, 6, 12)):
        assert model(x).shape == (2, 6, 3)


def test_shared_submodules() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(12, 12), nn.Linear(12, 12)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(self.a(x)))

    check(lambda: Sequence(Twice()), TOKENS)


def test_a_model_that_does_not_run_is_left_as_it_was() -> None:
    model = Sequence(nn.Linear(9, 12)).eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(PodarError, match="does not run on the example inputs"):
        halve(model, TOKENS)
    assert unchanged(model, before)


def test_what_goes_with_a_channel() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 4, 2)).eval()
    graph = podar.trace(model, torch.zeros(1, 3, 4, 4))
    goes = graph.goes_with("0", 3)
    assert goes["0.weight", 0] == goes["1.running_var", 0] == [3]
    assert goes["3.weight", 1] == [12, 13, 14, 15]
    text = graph.explain("0")
    assert "3.weight dim 1 (unit 0: 0, 1, 2, 3)" in text and "1.num_features" in text and "0.out_channels" in text
    with pytest.raises(PodarError, match="frozen: output"):
        graph.goes_with("3", 0)
