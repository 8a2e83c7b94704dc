"""Sparse checkpoints: what comes back is the same to the bit, and a tenth of the weights takes a fifth of the room."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import podar
from podar.sparse import load_sparse, save_sparse
from podar.sparse.compression import decode, encode


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 2000), st.floats(0, 1), st.sampled_from([torch.float32, torch.float16, torch.float64, torch.int8])
)
def test_a_tensor_comes_back_to_the_bit(size: int, density: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(size)
    values = torch.randn(size, generator=generator) * 50
    values *= torch.rand(size, generator=generator) < density
    tensor = values.to(dtype)  # zeros of either sign
    stored, note = encode(tensor)
    back = decode({f"w{key}": part for key, part in stored.items()}, "w", note)
    assert back.dtype == dtype and back.numpy().tobytes() == tensor.numpy().tobytes()


def test_ninety_per_cent_of_zeros_take_a_fifth(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 64, 3), nn.Flatten(), nn.Linear(64 * 36, 64))
    dense = sum(4 * p.numel() for p in model.parameters())
    podar.sparsify(model, 0.9)
    path = save_sparse(model, tmp_path / "small.safetensors")
    assert path.stat().st_size <= dense / 5
    podar.bake(model)
    for name, tensor in load_sparse(path).items():
        assert torch.equal(tensor, model.state_dict()[name]), name
