"""Masks are those of torch.nn.utils.prune: made by one, read, continued and baked by the other."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import podar
from podar.errors import PodarError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 16))


def test_a_layer_that_torch_masked_is_counted() -> None:
    layer = nn.Conv2d(3, 32, 3)
    prune.l1_unstructured(layer, name="weight", amount=0.3)
    assert "29.98 %" in str(podar.sparsity(layer)) and "259 of 864" in str(podar.sparsity(layer))


def test_the_same_weights_go_as_with_torch() -> None:
    ours, theirs = nn.Linear(20, 30), nn.Linear(20, 30)
    theirs.load_state_dict(ours.state_dict())
    podar.sparsify(ours, 0.4)
    prune.l1_unstructured(theirs, name="weight", amount=0.4)
    assert torch.equal(ours.get_buffer("weight_mask"), theirs.get_buffer("weight_mask"))
    prune.remove(ours, "weight")
    podar.bake(theirs)
    assert torch.equal(ours.weight, theirs.weight)


@pytest.mark.parametrize(("pattern", "amount"), [("unstructured", 0.9), ("2:4", 0.5), ("1:4", 0.75), ("4x1", 0.5)])
def test_baking_leaves_zeros_and_the_same_outputs(pattern: str, amount: float) -> None:
    model, x = network(), torch.randn(2, 3, 8, 8)
    protect = ["0"] if ":" in pattern else []
    podar.sparsify(model, amount, pattern=pattern, protect=protect)
    masked = model(x)
    podar.bake(model)
    assert torch.equal(model(x), masked)
    assert not [name for name, _ in model.named_buffers()]
    weight = model.get_parameter("3.weight")
    if pattern == "2:4":
        assert ((weight.view(-1, 4) != 0).sum(1) == 2).all()
    assert abs(float((weight == 0).float().mean()) - amount) < 0.1


@pytest.mark.parametrize("amount", [-0.1, 1.0, 1.5, float("nan")])
def test_amounts_that_make_no_sense_change_nothing(amount: float) -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(PodarError):
        podar.sparsify(model, amount)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class TiedTwice(nn.Module):
    """A head that is the embedding, and a layer that stands at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(20, 8), nn.Linear(8, 8)
        self.lm_head = nn.Linear(8, 20, bias=False)
        self.lm_head.weight, self.again = self.embed.weight, self.mix


@pytest.mark.parametrize(
    ("pattern", "dense"),
    [("lm_head", "embed.weight"), ("*lm_head*", "embed.weight"), ("embed", "embed.weight"), ("again", "mix.weight")],
)
def test_a_tied_weight_is_named_by_each_of_its_names(pattern: str, dense: str) -> None:
    model = TiedTwice()
    podar.sparsify(model, 0.5, protect=pattern)
    found = podar.sparsity(model)
    assert [layer.name for layer in found.layers] == ["embed.weight", "mix.weight"]
    assert [layer.fraction for layer in found.layers] == [0.0 if layer.name == dense else 0.5 for layer in found.layers]
