"""The chips, and what is assumed of launches on them. This project has measured none of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """What a data sheet says of a chip.

    Attributes:
        name: as it is sold.
        memory_gib: that its driver reports.
        bandwidth: bytes per second of its memory.
        flops: bf16 products and sums per second of its tensor cores, without sparsity.
        multiprocessors: how many it has.
        l2_mib: of its L2 cache.
        source: of these figures.
    """

    name: str
    memory_gib: float
    bandwidth: float
    flops: float
    multiprocessors: int
    l2_mib: int
    source: str


CHIPS = {
    "h100": Chip(
        name="H100 SXM 80 GB",
        memory_gib=79.6,
        bandwidth=3.35e12,
        flops=989.4e12,
        multiprocessors=132,
        l2_mib=50,
        source="NVIDIA, H100 Tensor Core GPU data sheet and architecture white paper",
    ),
    "h200": Chip(
        name="H200 SXM 141 GB",
        memory_gib=140.4,
        bandwidth=4.8e12,
        flops=989.4e12,
        multiprocessors=132,
        l2_mib=50,
        source="NVIDIA, H200 Tensor Core GPU data sheet",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """A number that only a GPU can confirm, and where it comes from."""

    value: float
    unit: str
    source: str


COPY = Assumption(
    value=0.89,
    unit="of the data sheet's bandwidth: products of few rows, norms, gates, merges",
    source="desk estimate of what a large copy reaches; `make gpu-check` measures it",
)
DECODE = Assumption(
    value=0.85 * COPY.value,
    unit="of the data sheet's bandwidth: decode attention",
    source="desk estimate, .85 of what a large copy reaches",
)
PRODUCT = Assumption(
    value=0.80,
    unit="of the data sheet's FLOP/s: products of many rows",
    source="desk estimate of cuBLAS in bf16 under the chip's power limit",
)
PREFILL = Assumption(
    value=0.35,
    unit="of the data sheet's FLOP/s: prefill attention",
    source="desk estimate of 300 to 380 TFLOP/s for a kernel without producer warps",
)
PROGRAM = Assumption(
    value=80e9,
    unit="bytes per second that one program of decode attention can have",
    source="Little's law: two steps of 32 KiB in flight, 800 ns of latency",
)
LAUNCH = Assumption(
    value=4e-6,
    unit="seconds for each dependent launch: the gap before it, its start and its tail",
    source="desk estimate: a small model's decode step over the number of its kernels",
)
EAGER = Assumption(
    value=15e-6,
    unit="seconds of the host for each launch outside of a graph",
    source="desk estimate, 180 us of Python for a layer of 12 launches",
)
HOST_STEP = Assumption(
    value=0.5e-3,
    unit="seconds of the host for each step, besides",
    source="measured on a slow CPU: plan, lists, commit at one stream",
)
HOST_ROW = Assumption(
    value=5e-6,
    unit="seconds of the host for each stream of a step, besides",
    source="measured on a slow CPU: .5 ms at 1 stream, 1.5 to 2 ms at 256",
)
STEP_GIB = Assumption(
    value=2.0,
    unit="GiB that the largest step takes beside weights and pages",
    source="gate and up of 8,192 rows, logits and what is drawn from them",
)
GRAPHS_GIB = Assumption(
    value=1.8,
    unit="GiB kept for graphs, lists and partial results",
    source="gsr_engine/execution/device.py: 1 GiB, and up to .8 for the graphs of these shapes",
)
ASSUMPTIONS = (
    COPY,
    DECODE,
    PRODUCT,
    PREFILL,
    PROGRAM,
    LAUNCH,
    EAGER,
    HOST_STEP,
    HOST_ROW,
    STEP_GIB,
    GRAPHS_GIB,
)
