"""python -m benchmarks.gpu_check.few [DEVICE]: few launches of attention at real sizes, for ncu.

Decode of streams apart (narrow items), of siblings together (wide items), each with its merge, and
prefill of a long prompt.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import csrc_triton
from benchmarks.kernels.decode import GROUPS, DecodeCase, DecodeWorld
from benchmarks.kernels.decode import TINY as TINY_DECODE
from benchmarks.kernels.prefill import TINY as TINY_PREFILL
from benchmarks.kernels.prefill import PrefillCase, PrefillWorld

_DECODE = (DecodeCase(64, 4096), replace(GROUPS, share=True))


def launch(device: str) -> None:
    """Launch each once, after whatever makes their inputs."""
    tiny = device == "cpu"
    for case in TINY_DECODE if tiny else _DECODE:
        csrc_triton.decode_attention(*DecodeWorld.of(case, device).arguments())
    prefill = TINY_PREFILL[0] if tiny else PrefillCase(8192)
    csrc_triton.prefill_attention(*PrefillWorld.of(prefill, device).arguments())


if __name__ == "__main__":
    launch(sys.argv[1] if len(sys.argv) > 1 else "cuda")
