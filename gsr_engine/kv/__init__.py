"""Who sees which tokens, and in which pages they lie; knows no tensors."""
