"""Requests: programs that start groups of streams and turn them into results; no tensors."""
