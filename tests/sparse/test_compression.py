"""Sparse checkpoints: what comes back is the same to the bit, and a tenth of the weights takes a fifth of the room."""

from __future__ import annotations

import re
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


def test_the_reader_of_the_docs_reads_what_podar_writes(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "sparse.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def read(path)" in block)
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 64, 3), nn.BatchNorm2d(64), nn.Linear(300, 90), nn.Linear(300, 90))
    model[3].weight = model[2].weight  # tied
    podar.sparsify(model, 0.95)
    podar.bake(model)
    with torch.no_grad():
        weight = model.get_parameter("0.weight")
        weight[weight == 0] = -0.0
    path = save_sparse(model, tmp_path / "m.safetensors")
    found: dict[str, object] = {}
    exec(code, found)
    state = found["read"](str(path))  # type: ignore[operator]
    for name, tensor in model.state_dict().items():
        assert state[name].tobytes() == tensor.numpy().tobytes(), name
    assert state.keys() == model.state_dict().keys()
