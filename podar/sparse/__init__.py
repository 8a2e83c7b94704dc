"""Unstructured, N:M and block sparsity: masks, schedules, one-shot reconstruction and small files."""

from podar.sparse.masking import sparsify
from podar.sparse.masks import LayerSparsity, Sparsity, bake, mask_weights, masks_of, sparsity

__all__ = ["LayerSparsity", "Sparsity", "bake", "mask_weights", "masks_of", "sparsify", "sparsity"]
