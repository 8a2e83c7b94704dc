"""Structured pruning: options, targets, allocation, whole blocks, and the pipeline from a model to its cut."""

from podar.pruning.options import Options

__all__ = ["Options"]
