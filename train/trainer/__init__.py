"""Hybrid SFT: the loop, the sharded model, checkpoints, evaluation, report."""
