"""Importance: one family of criteria a file, one contract for structured and unstructured pruning."""

from podar.criteria import fisher as _fisher
from podar.criteria import gradients as _gradients
from podar.criteria import grasp as _grasp
from podar.criteria import lamp as _lamp
from podar.criteria import snip as _snip
from podar.criteria import synflow as _synflow
from podar.criteria import wanda as _wanda
from podar.criteria import weights as _weights
from podar.criteria.registry import CRITERIA, Scorer, criterion, score

__all__ = ["CRITERIA", "Scorer", "criterion", "score"]

del _fisher, _gradients, _grasp, _lamp, _snip, _synflow, _wanda, _weights
