"""What a model and its data are (`Source`), and who trains, evaluates, prunes, exports and saves them (`Workshop`)."""

from podar.workshops.contract import Loss, Source, TrainingOptions, Workshop, needed, short_name
from podar.workshops.own import PodarWorkshop

__all__ = ["Loss", "PodarWorkshop", "Source", "TrainingOptions", "Workshop", "needed", "short_name"]
