"""Attention over paged KV: one interface, a backend for CPUs and one for GPUs."""
