"""Wins the accuracy of a cut model back: fine-tuning, distillation, recalibrated batch norms; and measures it."""

from podar.recover.distilling import distill
from podar.recover.evaluation import accuracy, logits_of
from podar.recover.finetuning import finetune
from podar.recover.history import History
from podar.recover.recalibration import recalibrate

__all__ = ["History", "accuracy", "distill", "finetune", "logits_of", "recalibrate"]
