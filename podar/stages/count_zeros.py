"""count zeros: zeros of every layer, the weights before and after, and a checkpoint that leaves the zeros out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar.reports.sections import Section, fill_template
from podar.reports.sparse import histogram, zero_bars
from podar.stages import Finding, Job, StageOptions, stage

if TYPE_CHECKING:
    from torch import Tensor, nn

    from podar.reports.record import RunRecord

_SPARSE_FILE = "model.sparse.safetensors"
_BINS = 60


def _zeros(record: RunRecord) -> str:
    """Zeros in every layer, and the histogram of the weights."""
    sparsity = record.own.get("sparsity", {})
    return fill_template(
        Path(__file__).with_name("count_zeros.html.jinja"),
        sparsity=sparsity,
        zeros=zero_bars(sparsity),
        weight_histogram=histogram(record.own.get("histogram", {})),
    )


@stage("count zeros", comes="changed", after=("sparsify", "ticket"), sections=(Section(20, _zeros),))
def count_zeros(job: Job, options: StageOptions) -> Finding:
    """Count the zeros of both models, and write the checkpoint of the one that is left."""
    from podar import sparse

    after, before = sparse.sparsity(job.model), sparse.sparsity(job.dense)
    dense_file = job.scratch / "dense.check"
    sizes = {
        "before": sparse.save_sparse(job.dense, dense_file).stat().st_size,
        "after": sparse.save_sparse(job.model, job.files / _SPARSE_FILE).stat().st_size,
    }
    dense_file.unlink()
    dense = sum(
        t.numel() * t.element_size() for t in {t.data_ptr(): t for t in job.dense.state_dict().values()}.values()
    )
    return Finding(
        before={"nonzero": before.weights - before.zeros, "checkpoint_bytes": max(dense, sizes["before"])},
        after={"nonzero": after.weights - after.zeros, "checkpoint_bytes": sizes["after"]},
        notes=(after.starved,) if after.starved else (),
        facts={
            "sparsity": {
                "zeros": after.zeros,
                "weights": after.weights,
                "fraction": after.fraction,
                "layers": [vars(layer) for layer in after.layers],
            },
            "histogram": _histogram(job.dense, job.model),
        },
    )


def _histogram(dense: nn.Module, sparse: nn.Module) -> dict[str, Any]:
    """Counts of all prunable weights between common edges, before and after; exact zeros are counted apart."""
    import torch

    from podar.sparse.layers import weights_of

    both = [
        torch.cat([w.values.flatten().float().cpu() for w in weights_of(model, computed="skip")])
        for model in (dense, sparse)
    ]
    # A few outliers would squeeze everything else into one bin: they are counted in the outermost.
    reach = max(float(_quantile(values.abs(), 0.999)) for values in both) or 1.0
    counts = [torch.histc(v[v != 0].clamp(-reach, reach), _BINS, -reach, reach).long().tolist() for v in both]
    return {
        "low": -reach, "high": reach, "before": counts[0], "after": counts[1],
        "before_zeros": int((both[0] == 0).sum()), "after_zeros": int((both[1] == 0).sum()),
    }  # fmt: skip


def _quantile(values: Tensor, share: float) -> Tensor:
    """`torch.quantile` refuses more than 16 million values."""
    return values.kthvalue(max(1, round(share * values.numel()))).values
