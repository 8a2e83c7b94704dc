"""Accelerating one model after the other keeps nothing of them."""

from __future__ import annotations

import gc
import linecache

import psutil
import pytest
import torch
from torch import nn

import podar

pytest.importorskip("podar_native", reason="podar-native is not built here")

pytestmark = pytest.mark.usefixtures("cache")


def test_no_source_of_a_graph_is_kept(sparse: nn.Module) -> None:
    """torch.fx keeps the source of every graph that it compiles, in itself and in linecache."""
    from torch.fx.graph_module import _loader  # pyright: ignore[reportPrivateUsage]

    x = torch.randn(1, 3, 12, 12)
    podar.accelerate(sparse, x, measure=False, tune=False)
    torch.fx.symbolic_trace(sparse)  # another's: it stays
    before = len(_loader.eval_cache), sum(key.startswith("<eval_with_key>") for key in linecache.cache)
    assert before[0] and before[1]
    podar.accelerate(sparse, x, measure=False, tune=False)
    assert (len(_loader.eval_cache), sum(key.startswith("<eval_with_key>") for key in linecache.cache)) == before


@pytest.mark.slow
@pytest.mark.parametrize(("measure", "calls"), [(False, 200), (True, 40)])
def test_memory_does_not_grow(sparse: nn.Module, measure: bool, calls: int) -> None:
    x = torch.randn(1, 3, 24, 24)
    for _ in range(20):  # torch and onnxscript fill their registers
        podar.accelerate(sparse, x, measure=measure, tune=False)
    gc.collect()
    before = psutil.Process().memory_info().rss
    for _ in range(calls):
        podar.accelerate(sparse, x, measure=measure, tune=False)
    gc.collect()
    assert psutil.Process().memory_info().rss - before < calls * 30_000
