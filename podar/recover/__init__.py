"""What a cut model needs: fine-tuning, distillation, batch-norm recalibration, and its accuracy."""

from podar.recover.evaluation import accuracy, logits_of
from podar.recover.history import History
from podar.recover.recalibration import recalibrate
from podar.recover.training import distill, finetune

__all__ = ["History", "accuracy", "distill", "finetune", "logits_of", "recalibrate"]
