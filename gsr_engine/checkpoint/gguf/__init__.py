"""Reads a GGUF file as the checkpoint that it was made from."""
