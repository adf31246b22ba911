"""How fast are the kernels: the quick cases of `benchmarks.kernels`."""

from __future__ import annotations

from functools import partial

from benchmarks.gpu_check.record import Record, Row
from benchmarks.gpu_check.setting import Setting
from benchmarks.kernels import FAMILIES, measure_limits

_FAMILIES = ("decode", "prefill", "elementwise", "experts")
# Of the copy bandwidth, by a launch of decode attention that reads this much.
_ASKED_OF_COPY, _MEGABYTES = 0.85, 256.0
# Of the matrix rate, by a launch of prefill attention over a prompt of this length.
_ASKED_OF_MATMUL, _PROMPT = 0.40, "1 x 8192 tokens"


class OutOfTime(Exception):
    """No time is left for the remaining cases."""


def run(setting: Setting, record: Record) -> None:
    """Measure every family except the sweeps."""
    measure_limits(setting.device)  # while the memory is free
    for family in _FAMILIES:
        record.attempt(family, "its cases", partial(_run_family, family, setting, record))


def _run_family(family: str, setting: Setting, record: Record) -> Row | None:
    def emit(row: Row) -> None:
        _add_target(row, record)
        emit_row(row, record)  # behind the last case that there is time for it raises

    try:
        for measure in FAMILIES[family]:
            measure(setting.device, quick=True, emit=emit)
    except OutOfTime:
        return {"skipped": "no time left for the rest"}
    return None


def emit_row(row: Row, record: Record) -> None:
    """Write down what a benchmark of kernels emits.

    Raises:
        OutOfTime: the part should have ended.
    """
    figures = {name: value for name, value in row.items() if name not in ("kernel", "case")}
    record.add(row["kernel"], row["case"], **figures)
    if record.seconds_left <= 0:
        raise OutOfTime


def _add_target(row: Row, record: Record) -> None:
    kernel, case = row["kernel"], row["case"]
    if kernel == "decode" and row.get("megabytes", 0.0) >= _MEGABYTES:
        name = f"decode attention of the copy bandwidth, {case}"
        record.target(name, asked=_ASKED_OF_COPY, measured=row["of_copy"])
    if kernel == "prefill" and _PROMPT in case and "of_matmul" in row:
        name = f"prefill attention of the matrix rate, {case}"
        record.target(name, asked=_ASKED_OF_MATMUL, measured=row["of_matmul"])
