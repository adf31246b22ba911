"""What a model will take of the memory, compared with what is free before a weight is read."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import torch

from gsr_engine.attention.kv_cache import page_bytes, pages_in
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tensor_names import tensor_shapes
from gsr_engine.config import EngineConfig, Quantization
from gsr_engine.errors import OutOfMemory
from gsr_engine.execution import gpu
from gsr_engine.execution.host_memory import known_free_memory
from gsr_engine.kv.segments import pages_for
from gsr_engine.model.weights import bytes_to_hold

LEAST_TOKENS = 2048
"""Tokens that must find room in a pool whose size is not given, or one context if it is shorter."""
_AT_ONCE = 2
"""Largest tensors that live beside the weights while one is converted, stacked or packed."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """The bytes that an engine takes, at least.

    Attributes:
        weights: as the device will hold them: quantised or in their dtype, and a packed head that
            is a copy.
        loading: what loading takes besides. It is free again before the pool is written.
        pool: KV pages: `kv_cache_gib`, or else the least that is of use.
        arithmetic: of weights, e.g. "float32" or "int8".
        pool_given: whether the pool is `kv_cache_gib`.
    """

    weights: int
    loading: int
    pool: int
    arithmetic: str
    pool_given: bool = False

    @classmethod
    def of(
        cls,
        model: ModelConfig,
        dtype: torch.dtype,
        device: torch.device,
        config: EngineConfig,
        quantization: Quantization = "none",
    ) -> MemoryNeed:
        """The need of an engine that is about to load a model."""
        given, page = config.kv_cache_gib, page_bytes(model, dtype)
        if given is None:
            pages = pages_for(min(LEAST_TOKENS, config.model_length(model)))
        else:
            pages = pages_in(int(given * 2**30), config, model, dtype)
        return cls(
            bytes_to_hold(model, dtype, device, quantization),
            _bytes_while_loading(model, dtype),
            pages * page,
            _name(dtype, quantization),
            given is not None,
        )

    @classmethod
    def of_reload(
        cls,
        model: ModelConfig,
        dtype: torch.dtype,
        device: torch.device,
        quantization: Quantization = "none",
    ) -> MemoryNeed:
        """The need of other weights in the host's memory, beside an engine that runs.

        A GPU's weights are overwritten part by part (see `weights.renewal`).
        """
        if device.type == "cpu":
            held = bytes_to_hold(model, dtype, device, quantization)
        else:
            held = _largest_part(model) * dtype.itemsize
        return cls(held, _bytes_while_loading(model, dtype), 0, _name(dtype, quantization))

    @property
    def together(self) -> int:
        """The most at any one time."""
        return self.weights + max(self.loading, self.pool)

    def check(self, free: int, whose: str) -> None:
        """Raise OutOfMemory if it does not fit into the bytes that are free, of what is named."""
        if self.together <= free:
            return
        pool = (
            _gib(self.pool) + " (kv_cache_gib)"
            if self.pool_given
            else f"at least {_gib(self.pool)}"
        )
        raise OutOfMemory(
            f"the weights take {_gib(self.weights)} in {self.arithmetic}, loading takes "
            f"{_gib(self.loading)} more for a while, KV pages take {pool}, and {_gib(free)} "
            f"{whose}. {self._advice(free)}"
        )

    def _advice(self, free: int) -> str:
        room = math.floor(100 * (free - self.weights) / 2**30) / 100
        if self.pool_given and self.weights + self.loading <= free and room > 0:
            return f"kv_cache_gib={room:g} would fit"
        if self.arithmetic == "float32" and self.together <= 2 * free:
            return "dtype='bfloat16' takes half"
        return "Free memory, or take a smaller model"


def check_memory(
    model: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    config: EngineConfig,
    quantization: Quantization = "none",
) -> None:
    """Raise OutOfMemory if an engine with this model would not fit its device's free memory.

    A host that does not tell what is free is not checked.
    """
    need = MemoryNeed.of(model, dtype, device, config, quantization)
    if device.type == "cpu":
        _check_host(need)
        return
    free, total = gpu.free_memory()
    share = config.gpu_memory_utilization
    whose = (
        f"of the GPU are the engine's ({_gib(free)} of {_gib(total)} free, gpu_memory_utilization "
        f"{share:g})"
    )
    need.check(min(free, int(total * share)), whose)


def check_memory_for_reload(
    model: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    quantization: Quantization = "none",
) -> None:
    """Raise OutOfMemory if other weights do not fit the host's memory beside those that run."""
    _check_host(MemoryNeed.of_reload(model, dtype, device, quantization))


def _check_host(need: MemoryNeed) -> None:
    free = known_free_memory()
    if free is not None:
        need.check(free, "of memory are free")


def _largest_part(model: ModelConfig) -> int:
    """Numbers of the largest layer, or of the embedding."""
    sizes: Counter[str] = Counter()
    for name, shape in tensor_shapes(model):
        part = ".".join(name.split(".")[:3])  # "model.layers.7" of all that layer 7 has
        sizes[part] += math.prod(shape)
    return max(sizes.values())


def _bytes_while_loading(model: ModelConfig, dtype: torch.dtype) -> int:
    largest = max(math.prod(shape) for _, shape in tensor_shapes(model))
    return _AT_ONCE * largest * dtype.itemsize


def _name(dtype: torch.dtype, quantization: Quantization) -> str:
    return str(dtype).removeprefix("torch.") if quantization == "none" else quantization


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.3g} GiB"
