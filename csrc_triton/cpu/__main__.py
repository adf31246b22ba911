"""python -m csrc_triton.cpu: compile the kernels ahead of their first use, for fp32 and bf16."""

from __future__ import annotations

import sys

from csrc_triton.cpu.compiler import DTYPES, CannotCompile, compiled

if __name__ == "__main__":
    try:
        for dtype in DTYPES:
            print(compiled(dtype))
    except CannotCompile as reason:
        sys.exit(f"csrc_triton.cpu: {reason}")
