"""Structured pruning: targets, allocation, whole blocks, and the pipeline from a model to its cut."""
