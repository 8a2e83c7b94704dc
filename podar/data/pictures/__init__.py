"""Labelled pictures as training and evaluation take them: loaded, checked, split, standardised, augmented."""
