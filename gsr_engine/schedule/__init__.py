"""Decides what each step computes; knows no tensors."""
