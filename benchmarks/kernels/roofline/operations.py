"""What one launch, or one call of a library, moves and computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["product", "decode", "prefill", "merge", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One launch on the device. Equal ones, such as those of equal layers, are counted.

    Attributes:
        name: of the kernel, or of torch's operator.
        kind: which share of the chip's limits it reaches.
        moved: bytes read and written, each tensor's own once; of attention those of its lists.
        partials: those of them that are partial results.
        flops: as launched, padding included.
        least_bytes: what nobody can avoid: weights, and each token's keys and values once.
        least_flops: those of real rows and of tokens that they see.
        programs: that are launched; 0 if a library decides it.
        busy: programs with work; 0 likewise.
        in_graph: a replayed graph launches it.
    """

    name: str
    kind: Kind
    moved: int
    partials: int = 0
    flops: int = 0
    least_bytes: int = 0
    least_flops: int = 0
    programs: int = 0
    busy: int = 0
    in_graph: bool = False
