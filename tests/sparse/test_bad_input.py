"""Bad input: one clear sentence, and the model is as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import podar
from podar.errors import PodarError
from podar.sparse import gradual, mask_weights, reconstruct, rigl


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 10), nn.Linear(10, 2))


def zeroed() -> nn.Sequential:
    model = network()
    nn.init.zeros_(model.get_parameter("4.weight"))
    return model


def unfinite() -> nn.Sequential:
    model = network()
    model.get_parameter("3.weight").data[0, 0] = torch.inf
    return model


def normed() -> nn.Sequential:
    model = network()
    parametrizations.weight_norm(model.get_submodule("3"))
    return model


def misfit() -> nn.Sequential:
    model = network()
    prune.l1_unstructured(model.get_submodule("3"), "weight", 0.3)
    model.get_submodule("3").weight_mask = torch.ones(3, 3)
    return model


def masked() -> nn.Sequential:
    model = network()
    podar.sparsify(model, 0.9)
    return model


X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
NAN = X.clone()
NAN[0, 0, 0, 0] = torch.nan

CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], object], str]] = {
    "amount 0": (network, lambda m: podar.sparsify(m, 0.0), "amount"),
    "amount 1": (network, lambda m: podar.sparsify(m, 1.0), "amount"),
    "amount 90": (network, lambda m: podar.sparsify(m, 90), "amount"),
    "amount text": (network, lambda m: podar.sparsify(m, "0.9"), "amount"),  # type: ignore[arg-type]
    "amount missing": (network, lambda m: podar.sparsify(m), "amount"),
    "amount against pattern": (network, lambda m: podar.sparsify(m, 0.9, pattern="2:4"), "2:4"),
    "pattern unknown": (network, lambda m: podar.sparsify(m, 0.5, pattern="2/4"), "2/4"),
    "pattern keeps all": (network, lambda m: podar.sparsify(m, pattern="4:4"), "0 < N < M"),
    "N:M does not divide": (network, lambda m: podar.sparsify(m, pattern="2:4"), "3 inputs, which 4 does not divide"),
    "block does not divide": (network, lambda m: podar.sparsify(m, 0.5, pattern="4x1"), "6 outputs, which 4"),
    "scope": (network, lambda m: podar.sparsify(m, 0.5, scope="layr"), "layer"),
    "protect": (network, lambda m: podar.sparsify(m, 0.5, protect=["33"]), "protect"),
    "everything protected": (network, lambda m: podar.sparsify(m, 0.5, protect=["*"]), "nothing to sparsify"),
    "amounts": (network, lambda m: podar.sparsify(m, 0.5, amounts={"0": 1.0}), "amounts"),
    "layer too small": (network, lambda m: podar.sparsify(m, 0.99, scope="local"), "few weights"),
    "model too small": (lambda: nn.Linear(3, 1), lambda m: podar.sparsify(m, 0.9), "lower the amount"),
    "zeros": (zeroed, lambda m: podar.sparsify(m, 0.5), "only zeros"),
    "infinite": (unfinite, lambda m: podar.sparsify(m, 0.5), "NaN or infinite"),
    "computed": (normed, lambda m: podar.sparsify(m, 0.5), "computed from other parameters"),
    "mask of another shape": (misfit, lambda m: podar.sparsify(m, 0.5), "mask"),
    "mask of another shape, counted": (misfit, podar.sparsity, "mask"),
    "mask of another shape, baked": (misfit, podar.bake, "mask"),
    "less than is masked": (masked, lambda m: podar.sparsify(m, 0.5), "masked already"),
    "nothing to prune": (nn.ReLU, lambda m: podar.sparsify(m, 0.5), "nothing to sparsify"),
    "mask name": (network, lambda m: mask_weights(m, {"3.weigth": torch.ones(1)}), "3.weight"),
    "mask shape": (network, lambda m: mask_weights(m, {"3.weight": torch.ones(2, 2)}), "shape"),
    "mask values": (network, lambda m: mask_weights(m, {"4.weight": torch.full((2, 10), 0.5)}), "0 and 1"),
    "data NaN": (network, lambda m: reconstruct(m, 0.5, NAN), "NaN"),
    "data shape": (network, lambda m: reconstruct(m, 0.5, X[:, :2]), "shape"),
    "data missing": (network, lambda m: reconstruct(m, 0.5), "data"),
    "data empty": (network, lambda m: reconstruct(m, 0.5, []), "batch"),
    "wanda NaN": (network, lambda m: podar.sparsify(m, 0.5, importance="wanda", data=NAN), "NaN"),
    "sensitivity without data": (network, lambda m: podar.sparsify(m, 0.5, scope="sensitivity"), "data"),
    "schedule": (network, lambda m: gradual(m, 0.5, schedule="cubik"), "cubic"),
    "updates": (network, lambda m: gradual(m, 0.5, updates=0), "updates"),
    "drop": (network, lambda m: rigl(m, 0.5, drop=1.5), "drop"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_the_model_as_it_was(case: str) -> None:
    build, act, words = CASES[case]
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(PodarError) as caught:
        act(model)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(before[n], t) or bool(torch.isinf(t).any()) for n, t in after.items())
