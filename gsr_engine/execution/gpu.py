"""The GPU of an engine: calls go there whatever thread makes them; and how much of it is free."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from csrc_triton.checks import HEAD_DIMS
from gsr_engine.errors import InvalidRequest

LEAST_CAPABILITY = (8, 0)
"""NVIDIA's Ampere: the first chips with bf16 and with asynchronous copies to shared memory."""
_NOTHING = nullcontext()


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the current one of this thread for a while; on a CPU it does nothing.

    CUDA's calls and Triton's launches go to the current device of the thread that makes them, which
    is the first one in every new thread. So whatever allocates, launches or waits is done in here.
    """
    return _NOTHING if device.type == "cpu" else torch.cuda.device(device)


def choose_device(name: str) -> torch.device:
    """The device that `EngineConfig.device` names.

    Raises:
        InvalidRequest: the name is of a GPU that torch does not see.
    """
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not seen):
        return torch.device("cpu")
    _, _, index = name.partition(":")
    if not seen:
        raise InvalidRequest("device", f"{name!r} was asked for, and torch sees no NVIDIA GPU")
    if index and int(index) >= seen:
        raise InvalidRequest(
            "device", f"{name!r} was asked for, and torch sees {seen}: cuda:0 to cuda:{seen - 1}"
        )
    return torch.device("cuda", int(index) if index else torch.cuda.current_device())


def check_capability(device: torch.device) -> None:
    """Raise InvalidRequest if a device is a GPU that the kernels are not written for."""
    if device.type == "cpu":
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        least, own = (".".join(map(str, one)) for one in (LEAST_CAPABILITY, capability))
        raise InvalidRequest(
            "device",
            f"{device} has compute capability {own}, and the kernels need {least} or more: "
            "device='cpu' runs without it",
        )


def check_head_dim(device: torch.device, head_dim: int) -> None:
    """Raise InvalidRequest if a device is a GPU whose kernels do not take heads of such a size."""
    if device.type != "cpu" and head_dim not in HEAD_DIMS:
        taken = ", ".join(map(str, HEAD_DIMS))
        raise InvalidRequest(
            "device",
            f"the checkpoint's head_dim is {head_dim}, and the kernels of {device} take {taken}: "
            "device='cpu' runs it",
        )


def free_memory() -> tuple[int, int]:
    """Bytes of the current GPU that are free, and all bytes that it has.

    What torch only keeps for later is given back, and so is free.
    """
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return free, total


def drop_caches() -> None:
    """Give back the memory that torch keeps for later, if this process uses a GPU."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
