"""Wanda sees the inputs of every kind of layer, as computed by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import podar
from podar.criteria import score


def norm(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).square().sum(0).sqrt()


def test_attention_meets_its_queries_keys_and_values_and_its_output_what_they_mix() -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.at = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.at(x, 2 * x, 3 * x)[0]

    net, x = Net().eval(), torch.randn(4, 5, 8)
    found = score("wanda", net, [x])
    weight = net.at.in_proj_weight.detach().abs()
    expected = torch.cat([weight[:8] * norm(x), weight[8:16] * norm(2 * x), weight[16:] * norm(3 * x)])
    torch.testing.assert_close(found["at.in_proj_weight"], expected)
    q, k, v = (
        (f * x @ w.T + b).view(4, 5, 2, 4).transpose(1, 2)
        for f, w, b in zip((1, 2, 3), net.at.in_proj_weight.split(8), net.at.in_proj_bias.split(8))
    )
    mixed = ((q @ k.mT / 2).softmax(-1) @ v).transpose(1, 2).reshape(4, 5, 8)
    torch.testing.assert_close(found["at.out_proj.weight"], net.at.out_proj.weight.detach().abs() * norm(mixed))


def test_cells_bags_and_bilinear_layers_take_part() -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.cell, self.gru = nn.EmbeddingBag(9, 4), nn.LSTMCell(4, 6), nn.GRUCell(4, 6)
            self.both = nn.Bilinear(6, 6, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.bag(x)
            return self.both(self.cell(y)[0], self.gru(y))

    net, words = Net().eval(), torch.randint(0, 9, (8, 5))
    found = score("wanda", net, [words])
    y = net.bag(words).detach()
    torch.testing.assert_close(found["cell.weight_ih"], net.cell.weight_ih.detach().abs() * norm(y))
    one, two = net.cell(y)[0].detach(), net.gru(y).detach()
    pairs = torch.einsum("bi,bj->bij", one, two).square().sum(0).sqrt()
    torch.testing.assert_close(found["both.weight"], net.both.weight.detach().abs() * pairs)
    assert podar.sparsify(net, 0.5, importance="wanda", data=[words]).fraction > 0.49


def test_a_layer_whose_weight_is_borrowed_takes_part_masked_or_not() -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.head = nn.Linear(6, 9, bias=False), nn.Linear(9, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(nn.functional.linear(input=x, weight=self.qkv.weight, bias=torch.zeros(9)))

    net, x = Net().eval(), torch.randn(7, 6)
    found = score("wanda", net, [x])
    torch.testing.assert_close(found["qkv.weight"], net.qkv.weight.detach().abs() * norm(x))
    torch.testing.assert_close(found["head.weight"], net.head.weight.detach().abs() * norm(net.qkv(x).detach()))
    podar.sparsify(net, 0.3)
    assert podar.sparsify(net, 0.6, importance="wanda", data=[x]).fraction > 0.55
