"""Plans: which slices go, as plain data, and carrying them out on a model: surgery, masks, saving."""
