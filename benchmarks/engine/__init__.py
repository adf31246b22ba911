"""Microbenchmarks of the engine's own parts on a CPU, with pytest-benchmark.

    python -m pytest benchmarks/engine                                # the table
    python -m pytest benchmarks/engine --benchmark-save=before        # keep it, under .benchmarks/
    python -m pytest benchmarks/engine --benchmark-compare            # against the latest kept
    python -m pytest benchmarks/engine --benchmark-compare=0001 --benchmark-compare-fail=median:20%
    python -m pytest benchmarks/engine --streams 64                   # fewer running streams

Compare medians, on one quiet machine; the mean also contains other processes. `make test` does not
collect these.
"""
