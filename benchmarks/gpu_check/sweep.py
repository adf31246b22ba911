"""Which tiles and splits are best on this chip: the figures behind `csrc_triton/tiles.py`.

Part `warm` compiled the tiles. The best of each case stands behind the rows of its sweep.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from benchmarks.gpu_check.kernel_speed import OutOfTime, emit_row
from benchmarks.gpu_check.record import Record, Row
from benchmarks.gpu_check.setting import Setting
from benchmarks.kernels import (
    measure_limits,
    sweep_decode_tiles,
    sweep_prefill_tiles,
    sweep_splits,
)
from benchmarks.kernels.decode import GROUPS, DecodeCase
from benchmarks.kernels.prefill import PrefillCase
from benchmarks.kernels.rows import Emit

_DECODE = (DecodeCase(64, 4096), DecodeCase(1, 32768), replace(GROUPS, share=True))
# Relative to the tile in use; bf16 rounds by 0.002.
_MOST_ERROR = 0.02
_PREFILL = (PrefillCase(8192),)


def run(setting: Setting, record: Record) -> None:
    """Decode tiles, splits, then prefill tiles."""
    measure_limits(setting.device)  # while the memory is free
    decode, prefill = (None, None) if setting.tiny else (_DECODE, _PREFILL)
    device = setting.device
    sweeps: dict[str, Callable[[Emit], object]] = {
        "decode tile": lambda emit: sweep_decode_tiles(device, cases=decode, emit=emit),
        "split": lambda emit: sweep_splits(device, cases=decode, emit=emit),
        "prefill tile": lambda emit: sweep_prefill_tiles(device, cases=prefill, emit=emit),
    }
    for name, sweep in sweeps.items():
        record.attempt(name, "its cases", partial(_run, name, sweep, record))


def _run(name: str, sweep: Callable[[Emit], object], record: Record) -> Row | None:
    best: dict[str, Row] = {}

    def emit(row: Row) -> None:
        if "failed" in row:  # a tile that does not fit this chip says nothing of the engine
            row = {"unfit" if name == "failed" else name: value for name, value in row.items()}
        case = row["case"].rpartition(f", {name.split()[-1]} ")[0]
        fits = "us" in row and row.get("error", 0.0) <= _MOST_ERROR
        if fits and (case not in best or row["us"] < best[case]["us"]):
            best[case] = row
        emit_row(row, record)

    cut: Row | None = None
    try:
        sweep(emit)
    except OutOfTime:
        cut = {"skipped": "no time left for the rest"}
    for row in best.values():
        record.add(f"best {name}", row["case"], us=row["us"])
    return cut
