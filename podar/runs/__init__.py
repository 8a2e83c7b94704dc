"""A run: the folder in which a recipe is carried out, resumable, whole or not at all."""
