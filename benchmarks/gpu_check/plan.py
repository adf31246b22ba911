"""The parts of a check in order, and the seconds of each on an H200: 450 in all.

What is right comes first, then what nobody else can measure; what may be cut comes last. Kernels
compile in `warm`, side by side, so no later part waits for the compiler.
"""

from __future__ import annotations

PARTS = {
    "warm": 30.0,  # 78 launches by 16 processes, the chip's limits, a checkpoint of 0.5B
    "large": 35.0,  # kernels at real sizes, bf16
    "engine": 65.0,  # 0.5B in bf16 and fp32, two ways each, transformers beside each
    "decode": 45.0,  # 7B at four batch sizes with graphs, one without, two profiles
    "siblings": 30.0,  # 7B, 16 x 8 siblings of a problem of 4k, read together and apart
    "selfref": 40.0,  # 7B, selfRef@8 in both layouts, twice; the same by a hand-written loop
    "ragged": 25.0,  # 0.5B and 7B, 256 slots that streams join and leave
    "kernel-speed": 35.0,
    "sweep": 45.0,  # decode tiles, splits, prefill tiles
    "ncu": 30.0,
    "train": 50.0,  # the compiler's time, one way to checkpoint, one comparison with the CPU
    "fp8": 10.0,
    "kernel-tests": 10.0,
}
"""Time that a part leaves goes to the next."""
EXTRA = {"lookup": 40.0}
"""Parts that run only if they are named."""
