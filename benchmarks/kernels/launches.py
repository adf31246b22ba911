"""What the engine's launches ask the compiler for, found without a GPU.

A launcher is called with CPU tensors while its kernels are replaced by recorders. So types,
constants, alignment, warps and stages are those of a real launch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from csrc_triton.contracts import dispatch

MODULES = (
    "activation",
    "decode",
    "experts",
    "logprobs",
    "merge",
    "norm",
    "prefill",
    "rope",
    "sampling",
)
_TYPES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.int32: "i32",
    torch.int64: "i64",
}
_DEFAULTS = {"num_warps": 4, "num_stages": 3}


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel as it is launched.

    Attributes:
        name: like "merge._reduce_kernel".
        signature: the type of every argument.
        constants: arguments that are compiled in.
        aligned: arguments that are multiples of 16, and on which the kernel is specialised.
        options: num_warps and num_stages.
        grid: programs along each axis; it does not change what is compiled.
    """

    name: str
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    aligned: frozenset[str]
    options: Mapping[str, int]
    grid: tuple[int, ...] = field(compare=False)


Watch = Callable[[Launch, Mapping[str, Any]], None]
"""Is called with each launch and all its arguments by name."""


class _Recorder:
    """Takes the place of a kernel."""

    def __init__(self, name: str, kernel: Any, note: Watch) -> None:
        self._name, self._kernel, self._note = name, kernel, note

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return partial(self._launch, grid)

    def _launch(self, grid: tuple[int, ...], *args: object, **named: Any) -> None:
        values = dict(zip(self._kernel.arg_names, args, strict=False)) | named
        options = {name: values.pop(name, value) for name, value in _DEFAULTS.items()}
        parameters = {one.name: one for one in self._kernel.params}
        # Triton also compiles None in, and 1 unless a kernel is not specialised on it.
        constants = {
            name: value
            for name, value in values.items()
            if parameters[name].is_constexpr
            or value is None
            or (_is_one(value) and not parameters[name].do_not_specialize)
        }
        signature = {
            name: "constexpr" if name in constants else _type(values[name])
            for name in self._kernel.arg_names
        }
        aligned = frozenset(
            name
            for name, value in values.items()
            if name not in constants
            and _is_aligned(value)
            and not parameters[name].do_not_specialize
            and not parameters[name].do_not_specialize_on_alignment
        )
        self._note(Launch(self._name, signature, constants, aligned, options, grid), values)


def _type(value: object) -> str:
    if isinstance(value, Tensor):
        return f"*{_TYPES[value.dtype]}"
    return "fp32" if isinstance(value, float) else "i32"


def _is_one(value: object) -> bool:
    return isinstance(value, int) and value == 1


def _is_aligned(value: object) -> bool:
    number = value.data_ptr() if isinstance(value, Tensor) else value
    return isinstance(number, int) and number % 16 == 0


@contextmanager
def recorded(watch: Watch | None = None) -> Iterator[list[Launch]]:
    """Inside, csrc_triton's launches for CPU tensors are recorded instead of run.

    With a `watch` each goes there, and the list stays empty.
    """
    launches: list[Launch] = []
    note = watch or (lambda launch, _: launches.append(launch))
    with ExitStack() as stack:
        for name in MODULES:
            module = import_module(f"csrc_triton.{name}")
            for function, kernel in list(vars(module).items()):
                if function.endswith("_kernel"):
                    recorder = _Recorder(f"{name}.{function}", kernel, note)
                    stack.enter_context(patch.object(module, function, recorder))
        stack.enter_context(
            patch.object(
                dispatch, "implementation", lambda _, name: import_module(f"csrc_triton.{name}")
            )
        )
        yield launches
