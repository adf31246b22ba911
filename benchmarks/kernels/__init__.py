"""How fast each kernel is, against what the chip can do.

    python -m benchmarks.kernels                 # every kernel: a table, and rows as JSON lines
    python -m benchmarks.kernels --quick
    python -m benchmarks.kernels --only sweep    # the split lengths and tiles behind the tables
    python -m pytest benchmarks/kernels          # by pytest-benchmark, to keep and compare
    make kernels-aot                             # registers, spills, shared memory; no GPU needed

Every `measure_…` and `sweep_…` function takes a device and returns plain dicts; `FAMILIES` lists
them. They need only the kernels and torch. On a CPU they run the references over tiny cases.
"""

from __future__ import annotations

from benchmarks.kernels.decode import measure_decode
from benchmarks.kernels.elementwise import measure_elementwise
from benchmarks.kernels.experts import measure_experts
from benchmarks.kernels.prefill import measure_prefill
from benchmarks.kernels.rows import Measure
from benchmarks.kernels.sweep import sweep_decode_tiles, sweep_prefill_tiles, sweep_splits
from benchmarks.kernels.timing import measure_limits

__all__ = [
    "FAMILIES",
    "measure_decode",
    "measure_elementwise",
    "measure_experts",
    "measure_limits",
    "measure_prefill",
    "sweep_decode_tiles",
    "sweep_prefill_tiles",
    "sweep_splits",
]

FAMILIES: dict[str, tuple[Measure, ...]] = {
    "decode": (measure_decode,),
    "prefill": (measure_prefill,),
    "elementwise": (measure_elementwise,),
    "experts": (measure_experts,),
    "sweep": (sweep_splits, sweep_decode_tiles, sweep_prefill_tiles),
}
