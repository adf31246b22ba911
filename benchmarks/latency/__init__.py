"""Throughput and latency of selfRef@k beside its accuracy, over grids of work and load."""
