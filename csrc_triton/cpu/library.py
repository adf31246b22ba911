"""The compiled kernels as functions that take addresses; loaded at their first use."""

from __future__ import annotations

import ctypes
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from csrc_triton.checks import Gate
from csrc_triton.cpu.compiler import DTYPES, CannotCompile, compiled

Function = Callable[..., None]

# The arguments of each function of the C files: p an address, l a long, f a float.
_SIGNATURES = {
    "rms_norm": "pppppllllfl",
    "gated_activation": "ppllll",
    "rope_and_cache": "ppp" + "ppp" + "pp" + "ppp" + "llllllllfl",
    "decode_partials": "pp" + "ppp" + "ppp" + "p" + "lllllllfl",
    "merge_partials": "ppppppllll",
    "prefill": "pppp" + "ppppp" + "p" + "lllllllfl",
    "linear": "ppppplllll",
    "quantize_weight": "ppplllll",
    "dequantize_weight": "ppplllll",
    "quantized_linear": "ppppppllllll",
    "grouped_quantized_linear": "pppppp" + "lllllllll",
    "grouped_linear": "pppppp" + "llllll",
    "weighted_sum": "pppllll",
    "sample": "ppp" + "p" + "pppppp" + "llllll",
    "token_logprobs": "pppplllll",
}
GATE_NUMBERS: dict[Gate | None, int] = {None: 0, "silu": 1, "gelu_tanh": 2}
"""How the C files name the gates (gate.h)."""
_TYPES = {"p": ctypes.c_void_p, "l": ctypes.c_long, "f": ctypes.c_float}


class Library:
    """The kernels of one dtype. Each attribute is a C function; calls release the GIL."""

    rms_norm: Function
    gated_activation: Function
    rope_and_cache: Function
    decode_partials: Function
    merge_partials: Function
    prefill: Function
    linear: Function
    quantize_weight: Function
    dequantize_weight: Function
    quantized_linear: Function
    grouped_quantized_linear: Function
    grouped_linear: Function
    weighted_sum: Function
    sample: Function
    token_logprobs: Function

    def __init__(self, file: Path) -> None:
        library = ctypes.CDLL(str(file))
        for name, signature in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes = [_TYPES[letter] for letter in signature]
            function.restype = None
            setattr(self, name, function)
        library.use_runtime(_torch_threads())


def _torch_threads() -> ctypes.c_void_p:
    """`GOMP_parallel` of the OpenMP runtime that torch uses; null where torch has none."""
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        if (folder / name).exists():
            # It is loaded already. A symbol is looked up in it, and then in what it depends on.
            runtime = ctypes.CDLL(str(folder / name))
            if hasattr(runtime, "GOMP_parallel"):
                return ctypes.cast(runtime.GOMP_parallel, ctypes.c_void_p)
    warnings.warn(
        "torch has no OpenMP runtime with GOMP_parallel here: CPU kernels run on one thread",
        RuntimeWarning,
        stacklevel=4,
    )
    return ctypes.c_void_p(None)


_libraries: dict[torch.dtype, Library | None] = {}
_lock = threading.Lock()


def library(dtype: torch.dtype) -> Library | None:
    """The kernels for tensors of a dtype; None if there are none, or they cannot be compiled.

    The first call for a dtype compiles them if no earlier process did (seconds). A failure is said
    in one warning.
    """
    if dtype not in _libraries:
        with _lock:
            if dtype not in _libraries:
                _libraries[dtype] = _load(dtype)
    return _libraries[dtype]


def _load(dtype: torch.dtype) -> Library | None:
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        return None
    try:
        return _loaded(name)
    except (CannotCompile, OSError, AttributeError) as reason:
        warnings.warn(
            f"the CPU kernels for {name} are not there, plain torch takes their place and is many "
            f"times slower: {reason}",
            RuntimeWarning,
            stacklevel=3,
        )
        return None


def _loaded(name: str) -> Library:
    """The library of a dtype; a damaged file is compiled again."""
    file = compiled(name)
    try:
        return Library(file)
    except (OSError, AttributeError):
        file.unlink()
        return Library(compiled(name))


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers begin; None is a null pointer."""
    return None if tensor is None else tensor.data_ptr()
