"""Part 3, how fast are the kernels: the quick cases of `benchmarks.kernels`."""

from __future__ import annotations

from functools import partial

from benchmarks.gpu_check.record import Record, Row
from benchmarks.gpu_check.setting import Setting
from benchmarks.kernels import FAMILIES, measure_limits

_FAMILIES = ("decode", "prefill", "elementwise", "experts")


class _OutOfTime(Exception):
    """No time is left for the remaining cases."""


def run(setting: Setting, record: Record) -> None:
    """Measure the machine's limits, then every family except the sweeps."""
    record.add("limits", setting.device, **_figures(measure_limits(setting.device).as_row()))
    for family in _FAMILIES:
        record.attempt(family, "its cases", partial(_run_family, family, setting, record))


def _run_family(family: str, setting: Setting, record: Record) -> Row | None:
    def emit(row: Row) -> None:
        record.add(row["kernel"], row["case"], **_figures(row))
        if record.seconds_left <= 0:
            raise _OutOfTime

    try:
        for measure in FAMILIES[family]:
            measure(setting.device, quick=True, emit=emit)
    except _OutOfTime:
        return {"skipped": "no time left for the rest"}
    return None


def _figures(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in ("kernel", "case")}
