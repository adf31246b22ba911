"""One command for a machine with an NVIDIA GPU: is the engine right there, and how fast.

    make gpu-check                                            # everything, 7.5 minutes
    python -m benchmarks.gpu_check --only large,engine        # some parts
    python -m benchmarks.gpu_check --device cpu --minutes 3   # tiny shapes: does it run at all?

It needs no installation and no network, only the checkout with torch, triton, transformers, pytest,
hypothesis, rich and typer. Every part runs in its own process, because a process cannot use its GPU
after an illegal memory access. The folder `OUT` (default runs/gpu-check) receives

    rows.jsonl          every finding, written at once
    report.txt          chip and versions, the same as tables, targets, and a summary
    kernel-tests.log    the output of pytest for the kernels
    profile.txt         the kernels that decode steps spend their time in
    ncu.txt             the report of Nsight Compute, where it is there
    log.txt             warnings, and the last words of a part that died

The exit status is 0 only if no result is wrong and no part died. What is cut because its time is
over, and a target that is missed, do not fail the check; the report names them.
"""

from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
"""The folder that all packages lie in."""
