"""Draws."""

from csrc_triton.reference import sample as sample
