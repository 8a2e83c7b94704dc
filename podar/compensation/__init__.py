"""What stays takes over: after a cut, linear maps are solved anew by least squares, without labels or training."""

from podar.compensation.choosing import Worth, worth
from podar.compensation.repairing import compensate
from podar.compensation.report import Compensation, Consumer, Refinement

__all__ = ["Compensation", "Consumer", "Refinement", "Worth", "compensate", "worth"]
