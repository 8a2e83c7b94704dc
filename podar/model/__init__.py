"""What torch hands us: inputs and outputs, batches, members, modes, wrappers, checkpoints."""
