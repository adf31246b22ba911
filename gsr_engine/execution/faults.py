"""What an error of a step means for the requests that are not in it."""

from __future__ import annotations

import torch

_BROKEN = ("CUDA error", "Triton Error [CUDA]", "CUDNN_STATUS", "CUBLAS_STATUS")
"""What such an error says that is no `torch.AcceleratorError`; Triton launches kernels itself."""
_NO_MEMORY = ("out of memory", "STATUS_ALLOC_FAILED")
"""What it says if memory was refused: by the device, or to a library or for pinned buffers."""


def lacks_memory(error: BaseException) -> bool:
    """Whether a device refused memory: what runs there is sound, and a smaller step may fit."""
    return isinstance(error, torch.OutOfMemoryError) or (
        _is_of_device(error) and any(words in str(error) for words in _NO_MEMORY)
    )


def breaks_device(error: BaseException) -> bool:
    """Whether a process can use its device no more: CUDA repeats such an error for ever.

    A launch that CUDA only refused, e.g. with too many registers, ends nothing but its step.
    """
    return _is_of_device(error) and not lacks_memory(error) and _is_repeated()


def _is_repeated() -> bool:
    if not torch.cuda.is_initialized():  # nobody can be asked
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def _is_of_device(error: BaseException) -> bool:
    return isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _BROKEN)
    )
