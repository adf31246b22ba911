"""The trainer and the builder, beside peers and by size."""
