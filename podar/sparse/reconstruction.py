"""One-shot reconstruction: masks and new weights that keep each layer's output on a few unlabelled inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvTransposeNd

from podar.criteria import Scorer
from podar.criteria.calibration import forward, scoring
from podar.errors import PodarError, UsageError
from podar.model.batches import inputs_of
from podar.sparse.layers import Weight, per_weight, weights_of
from podar.sparse.masking import check_amount, check_weights, choose_masks
from podar.sparse.masks import attach, detach
from podar.sparse.patterns import BlockPattern, NofM, Pattern, block_sums, n_of_m_mask, parse_pattern
from podar.sparse.scopes import parse_scope
from podar.sparse.selection import keep_largest

DAMPING = 0.01  # of the mean squared input, added to each: inputs that always go together would make it singular
ROUNDS, SETTLED = 30, 20  # steps of the search; after the second number the mask is as sparse as it shall be
POLISH = 50  # steps of conjugate gradients on the final mask


@dataclass(frozen=True)
class LayerError:
    """Squared error of one layer's output over that of the dense output: after the update, and with masks alone."""

    name: str
    error: float
    masked_only: float


def reconstruct(
    model: nn.Module,
    amount: float | None = None,
    data: Any = None,
    *,
    pattern: str | Pattern = "unstructured",
    scope: str = "global",
    importance: str | Scorer = "magnitude",
    amounts: Mapping[str, float] | None = None,
    protect: str | Iterable[str] = (),
    passes: int = 8,
) -> list[LayerError]:
    """Sparsify in one shot without labels: each layer's remaining weights take over the work of those that go.

    Minimises ‖X(W − Ŵ)‖² layer by layer, the problem of Optimal Brain Compression and SparseGPT (Frantar and Alistarh,
    2022, 2023), by alternating directions with a mask that grows sparser (Boža, 2024), then exactly for the final mask
    by conjugate gradients. X comes from the network whose earlier layers are sparse already. How much each layer
    loses follows from scope and importance; which weights, from the search. Layers without such a problem (embeddings,
    recurrent, transposed and 3-D convolutions) are masked only.

    **Arguments:**

    - `data`: inputs, no labels needed: a tensor, a data set, or batches. A few hundred samples are enough.
    - `amount`, `pattern`, `scope`, `importance`, `amounts`, `protect`: as of `podar.sparsify`.
    - `passes`: how often the data run through the network; more layers see sparse inputs the more there are.

    **Returns:** The error of each layer that was reconstructed, in the order in which they run. Masks are on the model
    as `podar.sparsify` leaves them.

    **Raises:** `UsageError`, `PodarError`: as `podar.sparsify`; the model is unchanged then.

    ```python
    podar.sparse.reconstruct(model, 0.8, images)
    ```
    """
    parsed, kind = parse_pattern(pattern), parse_scope(scope)
    amount = check_amount(amount, parsed)
    if passes < 1:
        raise UsageError(f"passes={passes}: the data must run through the network at least once")
    weights = weights_of(model, protect)
    if not weights:
        raise PodarError("nothing to sparsify: the model has no unprotected convolution or linear weight")
    check_weights(weights, parsed)
    overrides = per_weight(amounts or {}, weights, "amounts")
    batches = list(inputs_of(data, model, "reconstruction", limit=64))
    masks = choose_masks(model, weights, amount, parsed, kind, importance, batches, None, overrides)
    before = {w.name: (w.parameter.detach().clone(), None if w.mask is None else w.mask.clone()) for w in weights}
    try:
        order = _order(model, weights, batches)
        found = []
        size = -(-len(order) // passes)
        for start in range(0, len(order), max(size, 1)):
            part = order[start : start + size]
            moments = _moments(model, part, batches)
            for weight in part:
                found.append(_renew(model, weight, moments.pop(weight.name), masks.pop(weight.name), parsed))
        for weight in weights:
            if weight.name in masks:
                attach(model, weight, masks[weight.name])
        return found
    except BaseException:
        for weight in weights:
            values, mask = before[weight.name]
            weight.parameter.data.copy_(values)
            if mask is not None:
                attach(model, weight, mask.bool())
            elif weight.mask is not None:
                detach(weight)
        raise


def _order(model: nn.Module, weights: list[Weight], batches: list[Any]) -> list[Weight]:
    """The weights that can be reconstructed, in the order in which their layers first run."""
    ran: list[Weight] = []
    hooks = []
    for weight in weights:
        if isinstance(weight.places[0][0], (nn.Linear, nn.Conv1d, nn.Conv2d)) and weight.axes == (0, 1):
            for module, _ in weight.places:
                hooks.append(
                    module.register_forward_hook(lambda m, i, o, w=weight: None if w in ran else ran.append(w))
                )
    try:
        with scoring(model, grad=False):
            forward(model, batches[0], "reconstruction")
    finally:
        for hook in hooks:
            hook.remove()
    return ran


def _moments(model: nn.Module, weights: list[Weight], batches: list[Any]) -> dict[str, Tensor]:
    """XᵀX of each layer's inputs: (groups, columns, columns), in the order of columns of `Weight.matrix`."""
    sums: dict[str, Tensor] = {}
    hooks = []

    def listen(weight: Weight) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            x = columns(module, inputs[0].detach().float())
            sums[weight.name] = sums.get(weight.name, 0) + x.transpose(1, 2) @ x

        return hook

    for weight in weights:
        for module, _ in weight.places:
            hooks.append(module.register_forward_hook(listen(weight)))
    try:
        with scoring(model, grad=False):
            for batch in batches:
                forward(model, batch, "reconstruction")
    finally:
        for hook in hooks:
            hook.remove()
    return sums


def columns(module: nn.Module, x: Tensor) -> Tensor:
    """What each output position of a layer sees: (groups, positions, kernel positions × inputs of a group)."""
    assert not isinstance(module, _ConvTransposeNd)
    if isinstance(module, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    assert isinstance(module, (nn.Conv1d, nn.Conv2d))
    if x.dim() == len(module.kernel_size) + 1:
        x = x[None]  # without a batch axis
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = functional.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    one = [1] * (2 - len(module.kernel_size))
    if one:
        x = x.unsqueeze(2)
    kernel, dilation, stride = ((*one, *t) for t in (module.kernel_size, module.dilation, module.stride))
    seen = functional.unfold(x, kernel, dilation=dilation, stride=stride)  # (n, channels × kernel positions, positions)
    n, _, positions = seen.shape
    groups, inputs = module.groups, module.in_channels // module.groups
    seen = seen.view(n, groups, inputs, -1, positions).permute(1, 0, 4, 3, 2)
    return seen.reshape(groups, n * positions, -1)


@torch.no_grad()
def _renew(model: nn.Module, weight: Weight, moment: Tensor, mask: Tensor, pattern: Pattern) -> LayerError:
    dense = weight.matrix(weight.values).float()
    alone = weight.matrix(mask)
    if bool(alone.all()):
        attach(model, weight, mask)
        return LayerError(weight.name, 0.0, 0.0)
    rows = dense.view(moment.shape[0], -1, dense.shape[1])  # (groups, outputs of a group, columns)
    allowed = None if weight.mask is None else weight.matrix(weight.mask.bool()).view(rows.shape)
    kept = int(alone.sum()) // (pattern.size if isinstance(pattern, BlockPattern) else 1)

    def project(scores: Tensor, share: float) -> Tensor:
        """The best mask of the pattern, `share` of the way to the final sparsity."""
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -1.0)
        flat = scores.reshape(dense.shape)
        if isinstance(pattern, NofM):
            chosen = n_of_m_mask(flat, pattern)
        else:
            units = block_sums(flat, pattern) if isinstance(pattern, BlockPattern) else flat
            stay = keep_largest(units.flatten(), round(share * (units.numel() - kept))).view(units.shape)
            if isinstance(pattern, BlockPattern):
                stay = stay.repeat_interleave(pattern.outputs, 0).repeat_interleave(pattern.inputs, 1)
            chosen = stay
        chosen = chosen.view(rows.shape)
        return chosen if allowed is None else chosen & allowed

    new, final = sparse_solution(rows, moment, project)
    whole = float(torch.einsum("grc,gcd,grd->", rows, moment, rows)) or 1.0

    def error(values: Tensor) -> float:
        gap = values.reshape(rows.shape) - rows
        return max(0.0, float(torch.einsum("grc,gcd,grd->", gap, moment, gap))) / whole

    masked = error(dense * alone)
    found = LayerError(weight.name, error(new), masked)
    weight.parameter.data.copy_(weight.unmatrix(new.reshape(dense.shape)).to(weight.parameter.dtype))
    attach(model, weight, weight.unmatrix(final.reshape(dense.shape)))
    return found


def sparse_solution(dense: Tensor, moment: Tensor, project: Callable[[Tensor, float], Tensor]) -> tuple[Tensor, Tensor]:
    """Sparse weights whose outputs are near those of the dense ones.

    **Arguments:**

    - `dense`: (groups, outputs, columns). moment: XᵀX, (groups, columns, columns).
    - `project`: (scores of the weights' shape, share of the final sparsity) → boolean mask.

    **Returns:** The new weights, and their mask.
    """
    scale = moment.diagonal(dim1=1, dim2=2).sqrt()
    scale = torch.where(scale > 0, scale, scale.mean().clamp_min(1e-12) * 1e-3)[:, None, :]
    eye = torch.eye(moment.shape[1], device=moment.device)
    normal = moment / (scale * scale.transpose(1, 2)) + DAMPING * eye  # unit diagonal: a score is a square
    wanted = dense * scale
    image = wanted @ normal
    inverse = torch.linalg.inv(normal + eye)
    z, dual = wanted, torch.zeros_like(wanted)
    mask = torch.ones_like(wanted, dtype=torch.bool)
    for k in range(1, ROUNDS + 1):
        share = 1 - (1 - min(1.0, k / SETTLED)) ** 3
        w = (image + z - dual) @ inverse
        if k <= SETTLED:
            mask = project((w + dual).square(), share)
        z = (w + dual) * mask
        dual = dual + w - z
    return _polish(z, mask, normal, image) / scale, mask


def _polish(start: Tensor, mask: Tensor, normal: Tensor, image: Tensor) -> Tensor:
    """Conjugate gradients on the weights that stay, each output for itself."""
    x = start
    r = (image - x @ normal) * mask
    p, rr = r, r.square().sum(2, keepdim=True)
    for _ in range(POLISH):
        ap = (p @ normal) * mask
        step = rr / (p * ap).sum(2, keepdim=True).clamp_min(1e-30)
        x, r = x + step * p, r - step * ap
        renewed = r.square().sum(2, keepdim=True)
        p, rr = r + renewed / rr.clamp_min(1e-30) * p, renewed
    return x
