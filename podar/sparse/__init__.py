"""Unstructured, N:M and block sparsity: masks, schedules, one-shot reconstruction and small files."""

from podar.sparse.callbacks import follow_ultralytics, lightning_callback, transformers_callback
from podar.sparse.compression import load_sparse, save_sparse
from podar.sparse.keeper import Keeper, gradual, keep, rigl
from podar.sparse.masking import sparsify
from podar.sparse.masks import LayerSparsity, Sparsity, bake, mask_weights, masks_of, sparsity
from podar.sparse.permutation import Permuted, permute
from podar.sparse.reconstruction import LayerError, reconstruct
from podar.sparse.schedules import SCHEDULES, cubic, iterative, one_shot

__all__ = [
    "SCHEDULES",
    "Keeper",
    "LayerError",
    "LayerSparsity",
    "Permuted",
    "Sparsity",
    "bake",
    "cubic",
    "follow_ultralytics",
    "gradual",
    "iterative",
    "keep",
    "lightning_callback",
    "load_sparse",
    "mask_weights",
    "masks_of",
    "one_shot",
    "permute",
    "reconstruct",
    "rigl",
    "save_sparse",
    "sparsify",
    "sparsity",
    "transformers_callback",
]
