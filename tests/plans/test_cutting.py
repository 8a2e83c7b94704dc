"""What remains of a tensor: shapes foreseen, formats kept, groups apart, vectors with memory of their own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from podar.plans.cutting import Slicer, empty_after
from podar.plans.plan import Cut


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([torch.contiguous_format, torch.channels_last]))
def test_what_remains_is_what_indexing_gives(data: st.DataObject, layout: torch.memory_format) -> None:
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    tensor = torch.randn(shape)
    if len(shape) == 4:
        tensor = tensor.contiguous(memory_format=layout)
    cuts, wanted = [], tensor
    for dim in data.draw(st.sets(st.integers(0, len(shape) - 1))):
        removed = tuple(sorted(data.draw(st.sets(st.integers(0, shape[dim] - 1), max_size=shape[dim] - 1))))
        cuts.append(Cut(dim, removed, shape[dim]))
        wanted = wanted.index_select(dim, torch.tensor([i for i in range(shape[dim]) if i not in removed]))
    found, empty = Slicer().cut(tensor, tuple(cuts)), empty_after(tensor, tuple(cuts))
    assert torch.equal(found, wanted)
    assert (empty.shape, empty.dtype) == (found.shape, found.dtype)
    if len(shape) == 4:
        assert found.is_contiguous(memory_format=layout) and empty.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_group_of_a_convolution_keeps_its_own_positions(layout: torch.memory_format) -> None:
    weight = torch.randn(4, 3, 2, 2).contiguous(memory_format=layout)
    cuts = (Cut(0, (1, 2), 4), Cut(1, (1, 3), 6, groups=2))  # the first group loses its position 1, the second its 0
    wanted = torch.stack([weight[0][[0, 2]], weight[3][[1, 2]]])
    found = Slicer().cut(weight, cuts)
    assert torch.equal(found, wanted) and found.is_contiguous(memory_format=layout)
    assert empty_after(weight, cuts).shape == found.shape
    assert torch.equal(Slicer().cut(weight, cuts[1:]), torch.cat([weight[:2][:, [0, 2]], weight[2:][:, [1, 2]]]))


def test_vectors_of_several_types_at_once() -> None:
    lost = (0, 3)
    vectors = [torch.randn(5), torch.randn(5).double(), torch.arange(5), torch.randn(4)]
    cuts = [Cut(0, lost, 5), Cut(0, lost, 5), Cut(0, (4,), 5), Cut(0, (), 4)]
    found = Slicer().cut_vectors(list(zip(vectors, cuts)))
    for vector, cut, left in zip(vectors, cuts, found):
        assert torch.equal(left, vector[[i for i in range(len(vector)) if i not in cut.removed]])
        assert left.untyped_storage().nbytes() == left.numel() * left.element_size()
    assert Slicer().cut_vectors([]) == []
