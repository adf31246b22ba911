"""Which module computes on a tensor's device."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from torch import Tensor


def implementation(tensor: Tensor, module: str) -> Any:
    """The module that computes on a tensor's device: Triton on a GPU, C on a CPU."""
    return _module(module if tensor.is_cuda else f"cpu.{module}")


@cache
def _module(name: str) -> Any:
    return import_module(f"csrc_triton.{name}")
