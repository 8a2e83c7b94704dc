"""The stages of a run, and the recipe that lines them up."""
