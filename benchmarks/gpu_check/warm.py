"""Before anything is measured: kernels compiled side by side, the chip's limits, a checkpoint.

Triton keeps what it compiled on disk. So a launch of every program in some processes makes every
later part start at once. The limits are measured while these processes still import.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.pool import IMapIterator

import torch

from benchmarks.gpu_check.record import Record, Row
from benchmarks.gpu_check.setting import Setting
from benchmarks.gpu_check.warm_jobs import SWEPT, WarmJob, jobs
from benchmarks.kernels import measure_limits
from benchmarks.random_weights import write_checkpoint

_PROCESSES = 16
# Most jobs that are named, the slowest.
_NAMED = 5
_Done = tuple[str, float, Exception | None]
"""A job's name, its seconds, and the error that it raised."""


def run(setting: Setting, record: Record) -> None:
    """Start the processes, then do the rest beside them."""
    todo = [(name, job, setting.device) for name, job in jobs(setting.tiny)]
    processes = min(_PROCESSES, os.cpu_count() or 1, len(todo))
    # Not forked: a fork cannot use the GPU of its parent. Leaving the block kills them.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        done = pool.imap_unordered(_timed, todo)
        record.attempt("limits", setting.device, partial(_limits, setting))
        record.attempt("checkpoint", "for part engine", partial(_write, setting))
        collect = partial(_collect, done, len(todo), processes, record)
        record.attempt("compiled", "side by side", collect)


def _timed(named: tuple[str, WarmJob, str]) -> _Done:
    name, job, device = named
    start, error = time.perf_counter(), None
    try:
        job(device)
        if device != "cpu":
            torch.cuda.synchronize()  # a launch that goes wrong raises here
    except Exception as raised:
        error = RuntimeError(f"{type(raised).__name__}: {raised}")  # not every error can be sent
    return name, time.perf_counter() - start, error


def _limits(setting: Setting) -> Row:
    row = measure_limits(setting.device).as_row()
    return {name: value for name, value in row.items() if name not in ("kernel", "case")}


def _write(setting: Setting) -> Row:
    """The checkpoint of part `engine`; a GPU fills its tensors faster than a CPU."""
    shape = "tiny" if setting.tiny else "0.5b"
    folder = write_checkpoint(shape, device=setting.device)
    return {"mb": 1e-6 * sum(file.stat().st_size for file in folder.iterdir())}


def _collect(done: IMapIterator[_Done], count: int, processes: int, record: Record) -> Row:
    """The seconds of all programs, and the slowest by name; what failed gets a row."""
    finished = list(_finished(done, record))
    seconds = {name: taken for name, taken, error in finished if error is None}
    for name, _, error in finished:
        if error is not None and name.startswith(SWEPT):
            record.add("compiled", name, unfit=str(error)[:200])
        elif error is not None:
            record.fail("compiled", name, error)
    for name in sorted(seconds, key=lambda name: -seconds[name])[:_NAMED]:
        record.add("compiled", name, compiling_s=seconds[name])
    total = sum(seconds.values())
    row: Row = {"processes": processes, "launches": len(seconds), "compiling_s": total}
    return row | {"left": count - len(finished)}


def _finished(done: IMapIterator[_Done], record: Record) -> Iterator[_Done]:
    """What ends in time; later parts compile the rest themselves."""
    while True:
        try:
            yield done.next(max(0.1, record.seconds_left))
        except (StopIteration, multiprocessing.TimeoutError):
            return
