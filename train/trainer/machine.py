"""The machine that a dry run speaks of: this one, or a GPU by its data sheet."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from gsr_engine.environment import describe_machine
from gsr_engine.errors import InvalidRequest
from gsr_engine.execution.host_memory import free_memory
from train.trainer.config import SftConfig
from train.trainer.flops import PEAKS, peak_flops

MEMORY = {"H100": 80e9, "H200": 141e9, "A100": 80e9, "B200": 180e9}
"""Bytes of GPUs that a dry run can plan for."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run would be computed on.

    Attributes:
        name: of the device.
        device: "cpu" or "cuda".
        ranks: processes that share the work.
        memory: bytes for each of them.
        peak: operations per second of each of them.
        measured: whether the peak was measured now; otherwise it is a data sheet's.
        here: whether it is this machine.
    """

    name: str
    device: str
    ranks: int
    memory: float
    peak: float
    measured: bool
    here: bool = True


def planned_machine(gpu: str, ranks: int) -> Machine:
    """Some GPUs of a kind.

    Raises:
        InvalidRequest: the kind is not known.
    """
    if gpu not in MEMORY:
        raise InvalidRequest("gpu", f"must be one of {', '.join(MEMORY)}, got {gpu}")
    return Machine(gpu, "cuda", ranks, MEMORY[gpu], PEAKS[gpu], measured=False, here=False)


def this_machine(config: SftConfig, ranks: int | None) -> Machine:
    """Where the command runs; without `ranks` one process for each GPU, or one on the CPU.

    Args:
        config: settings of a run, with a dtype that is not "auto".
        ranks: processes of the run.
    """
    dtype = getattr(torch, config.dtype)
    if not torch.cuda.is_available():
        ranks = ranks or 1
        rate = _measured(torch.device("cpu"), dtype, 512) / ranks
        cpu = describe_machine()["cpu"]
        return Machine(cpu, "cpu", ranks, free_memory() / ranks, rate, measured=True)
    device = torch.device("cuda", torch.cuda.current_device())
    known = peak_flops(device) if config.dtype == "bfloat16" else None
    return Machine(
        name=torch.cuda.get_device_name(device),
        device="cuda",
        ranks=ranks or torch.cuda.device_count(),
        memory=torch.cuda.get_device_properties(device).total_memory,
        peak=known or _measured(device, dtype, 8192),
        measured=known is None,
    )


def _measured(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Operations per second of a square product; the best of a few."""
    one = torch.ones(side, side, device=device, dtype=dtype)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        float((one @ one)[0, 0])  # waits for a GPU
        times.append(time.perf_counter() - begin)
    return 2.0 * side**3 / min(times)
