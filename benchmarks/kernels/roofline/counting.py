"""Counts what a step launches on a device, while it runs on CPU tensors that nobody fills.

Kernels of `csrc_triton` are recorded instead of run. Of torch's operators those on floats are not
computed: their results have shapes and no values. Bookkeeping in integers is real.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from math import prod
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from benchmarks.kernels.launches import Launch, recorded
from benchmarks.kernels.roofline.attention_cost import (
    decode_operation,
    merge_operation,
    prefill_operation,
)
from benchmarks.kernels.roofline.operations import Operation
from csrc_triton import pages
from gsr_engine.execution import graphs
from gsr_engine.execution.capture import Replay

_ATTENTION = {
    "decode._work_list_kernel": decode_operation,
    "prefill._prefill_kernel": prefill_operation,
    "merge._reduce_kernel": merge_operation,
}
# Tables of which a launch reads or writes a row for each row of the step, not all of them.
_TABLES = {"k_cache_ptr", "v_cache_ptr", "cos_sin_ptr"}
# What a launch hardly touches: no row here truncates its distribution, so nothing is packed, and of
# the logits these kernels read one block of a row, or one number.
_SPARE = {
    "sampling._pack_kernel": {"packed_ptr", "logits_ptr"},
    "sampling._draw_kernel": {"packed_ptr", "chunks_ptr", "logits_ptr"},
    "logprobs._logprob_kernel": {"logits_ptr"},
}
_PRODUCTS = {"linear", "mm", "addmm", "matmul", "_scaled_mm"}
_GATHERS = {"index", "index_select", "embedding"}
_TO_PYTHON = "_local_scalar_dense"
_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty"}


class Counting(TorchDispatchMode):
    """The operations of a step, while it is `on`.

    Attributes:
        on: whether operations are counted.
        operations: those so far, each with how often it came.
        rows: tokens of the step that is counted.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.on = False
        self.operations: Counter[Operation] = Counter()
        self.rows = 0
        self._in_graph = False
        self._lists: dict[tuple[object, ...], Operation] = {}

    @contextmanager
    def step(self, rows: int) -> Iterator[Counter[Operation]]:
        """Count a step of so many tokens."""
        self.operations, self.rows, self.on = Counter(), rows, True
        self._lists.clear()
        try:
            yield self.operations
        finally:
            self.on = False

    @contextmanager
    def engines(self) -> Iterator[None]:
        """Inside, engines on CPU tensors launch what they would launch on a GPU, and it counts."""

        def capture(call: Callable[[], object]) -> Replay:
            def replay() -> None:
                if self.on:  # otherwise nobody looks at what it would compute
                    self._in_graph = True
                    call()
                    self._in_graph = False

            return replay

        with ExitStack() as entered:
            entered.enter_context(recorded(self._launched))
            # Pages as the recorded kernels read them.
            entered.enter_context(patch.object(pages, "vector_major", pages.token_major))
            entered.enter_context(patch.object(graphs, "capture_for", lambda _: capture))
            entered.enter_context(self)
            yield

    def _launched(self, launch: Launch, values: Mapping[str, Any]) -> None:
        if not self.on:
            return
        if launch.name in _ATTENTION:
            lists = [v.data_ptr() for v in values.values() if _is_list(v)]
            key = (launch.name, launch.grid, *lists)
            if key not in self._lists:
                self._lists[key] = _ATTENTION[launch.name](launch, values)
            self._note(self._lists[key])
            return
        programs = prod(launch.grid)
        apart = _TABLES | _SPARE.get(launch.name, set())
        moved = _tensor_bytes(v for name, v in values.items() if name not in apart)
        moved += _rows_of_tables(values)
        self._note(
            Operation(name=launch.name, kind="other", moved=moved, programs=programs, busy=programs)
        )

    def _note(self, operation: Operation) -> None:
        self.operations[replace(operation, in_graph=self._in_graph)] += 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Do what is bookkeeping, leave out what computes, and count it."""
        kwargs = kwargs or {}
        name = str(func.overloadpacket).removeprefix("aten.")
        if name in _ALLOCATIONS:
            return func(*args, **kwargs)
        if name == "randn":
            return torch.empty(*args)
        inputs = _tensors_in((*args, *kwargs.values()))
        computes = any(map(_is_float, inputs)) and not func.is_view and name != _TO_PYTHON
        if computes and name.endswith("_"):
            result = args[0]
        elif computes:
            result = _unfilled(func, args, kwargs)
        else:
            result = func(*args, **kwargs)
        if self.on and not _is_same_memory(result, inputs, name):
            self._note(self._operation(name, args, inputs, result))
        return result

    def _operation(
        self, name: str, args: tuple[Any, ...], inputs: list[Tensor], result: Any
    ) -> Operation:
        outputs = _tensors_in((result,))
        read = inputs[1:] if name in _GATHERS | {"copy_"} else inputs
        moved = _tensor_bytes([*read, *outputs])
        if name in _GATHERS:
            moved += _tensor_bytes(outputs)
        if name not in _PRODUCTS:
            return Operation(name=name, kind="other", moved=moved)
        x, weight = [one for one in args if isinstance(one, Tensor)][:2]
        (product,) = outputs
        flops = 2 * x.numel() * product.shape[-1]
        rows = x.numel() // x.shape[-1]
        real = min(rows, self.rows) if self._in_graph else rows
        return Operation(
            name=name,
            kind="product",
            moved=moved,
            flops=flops,
            least_bytes=weight.nbytes,
            least_flops=flops * real // rows,
        )


def _is_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point()


def _tensors_in(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among an operator's arguments or results, and in lists among them."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [one for one in value if isinstance(one, Tensor)]
    return found


def _is_list(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.int32


def _tensor_bytes(values: Any) -> int:
    """Of distinct tensors: a kernel may take one twice."""
    tensors = {id(one): one.nbytes for one in values if isinstance(one, Tensor)}
    total: int = sum(tensors.values())
    return total


def _rows_of_tables(values: Mapping[str, Any]) -> int:
    """Bytes of the rows of tables that a launch reads or writes, one for each position."""
    if "positions_ptr" not in values:
        return 0
    rows = len(values["positions_ptr"])
    tables = [value for name, value in values.items() if name in _TABLES]
    per_row: list[int] = [
        prod(one.shape[1 if one.dim() < 3 else 2 :]) * one.itemsize for one in tables
    ]
    return rows * sum(per_row)


def _unfilled(func: Any, args: Any, kwargs: Any) -> Any:
    """The result of an operator, with its shapes and without values."""

    def without_values(one: Any) -> Any:
        return one.to("meta") if isinstance(one, Tensor) else one

    def there(one: Any) -> Any:
        return torch.empty_like(one, device="cpu") if isinstance(one, Tensor) else one

    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("meta")}
    made = func(*tree_map(without_values, args), **tree_map(without_values, kwargs))
    return tree_map(there, made)


def _is_same_memory(result: Any, inputs: list[Tensor], name: str) -> bool:
    """Whether an operator only gave another view of its input."""
    if name.endswith("_"):  # it writes there
        return False
    outputs = _tensors_in((result,))
    known = {one.untyped_storage().data_ptr() for one in inputs}
    return all(one.untyped_storage().data_ptr() in known for one in outputs)
