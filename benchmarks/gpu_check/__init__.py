"""One command for a machine with an NVIDIA GPU: is the engine right there, and how fast.

    make gpu-check                                            # everything, at most nine minutes
    python -m benchmarks.gpu_check --only kernels,engine      # some parts
    python -m benchmarks.gpu_check --device cpu               # tiny shapes: does it run at all?

It needs no installation and no network, only the checkout with torch, triton, transformers, pytest,
hypothesis, rich and typer. Every part runs in its own process, because a process cannot use its GPU
after an illegal memory access. The folder `OUT` (default runs/gpu-check) receives

    rows.jsonl          every finding, written at once
    report.txt          the same as tables, part by part, and a summary
    kernel-tests.log    the output of pytest for the kernels
    profile.txt         the kernels that decode steps spend their time in
    log.txt             warnings, and the last words of a part that died

The exit status is 0 only if no check failed and no part died. A case that is skipped because its
time is over does not fail the check; the report names it.
"""

from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
"""The folder that all packages lie in."""
