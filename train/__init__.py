"""Data building and the trainer; runs from a checkout."""
