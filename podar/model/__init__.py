"""What goes into a model and what comes out of it: nested containers of tensors, batches of data, the logits."""

from podar.model.batches import Batch, collated, inputs_of, labelled, read, rows, run, samples_of, size, training_part
from podar.model.outputs import main_output
from podar.model.tensors import map_tensors, named_tensors, tensors_in, to_device

__all__ = [
    "Batch",
    "collated",
    "inputs_of",
    "labelled",
    "main_output",
    "map_tensors",
    "named_tensors",
    "read",
    "rows",
    "run",
    "samples_of",
    "size",
    "tensors_in",
    "to_device",
    "training_part",
]
