"""One command for a machine with an NVIDIA GPU: is the engine right there, how fast is it.

    make gpu-check                                            # everything, at most nine minutes
    python -m benchmarks.gpu_check --only kernels,engine      # some parts
    python -m benchmarks.gpu_check --device cpu               # tiny shapes: does it run at all?

Needs no installation and no network: beside the checkout torch, triton, transformers, pytest,
hypothesis, rich and typer. Every part runs in a process of its own, for after an illegal memory
access a process can do nothing more with its GPU. Into the folder `OUT` (default runs/gpu-check) go

    rows.jsonl          every finding, written as soon as it is there
    report.txt          the same as tables, part by part, and the sum of it
    kernel-tests.log    what pytest says of the kernels
    profile.txt         the kernels that decode steps spend their time in
    log.txt             warnings, and what a part that died said last

The exit status is 0 only if no check failed and no part died. A case that was skipped because its
time was over is no failure: it is named.
"""

from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
"""The folder that all packages lie in."""
