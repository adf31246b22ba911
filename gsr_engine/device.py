"""Where the engine runs, and how much of a GPU is left for KV pages."""

from __future__ import annotations

import torch

from gsr_engine.batch import Batch
from gsr_engine.config import EngineConfig
from gsr_engine.errors import InvalidRequest, OutOfMemory
from gsr_engine.model import Decoder
from gsr_engine.sampler import draw_anything

# For captured graphs, work lists and partial results of decode attention.
_RESERVE = 1 << 30


def choose_device(name: str) -> torch.device:
    """The device of `EngineConfig.device`.

    Raises:
        InvalidRequest: cuda, where torch sees no NVIDIA GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidRequest("device", "'cuda' was asked for, and torch sees no NVIDIA GPU")
    use_gpu = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    return torch.device("cuda", torch.cuda.current_device()) if use_gpu else torch.device("cpu")


def check_weights_fit(weight_bytes: int, config: EngineConfig) -> None:
    """Raise OutOfMemory for weights that the engine's share of the GPU does not hold."""
    free, total = torch.cuda.mem_get_info()
    room = min(free, int(total * config.gpu_memory_utilization))
    if weight_bytes > room:
        raise OutOfMemory(
            f"the weights take {_gib(weight_bytes)}, and the GPU has {_gib(room)} for the engine "
            f"({_gib(free)} of {_gib(total)} free, gpu_memory_utilization "
            f"{config.gpu_memory_utilization})"
        )


def bytes_for_pages(decoder: Decoder, config: EngineConfig) -> int:
    """What KV pages may take of the GPU, after running the largest step once.

    Raises:
        OutOfMemory: nothing is left for them.
    """
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    try:
        _largest_step(decoder, config)
    except torch.OutOfMemoryError:
        raise OutOfMemory(
            f"a step of max_batch_tokens {config.max_batch_tokens} does not fit beside the weights"
        ) from None
    step = torch.cuda.max_memory_allocated() - before
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    used, share = total - free, int(total * config.gpu_memory_utilization)
    room = share - used - step - _RESERVE
    if room <= 0:
        raise OutOfMemory(
            f"nothing is left for KV pages: of {_gib(share)} (gpu_memory_utilization "
            f"{config.gpu_memory_utilization}), {_gib(used)} are taken, the largest step needs "
            f"{_gib(step)} (lower max_batch_tokens), and {_gib(_RESERVE)} are kept for graphs"
        )
    return room


@torch.inference_mode()
def _largest_step(decoder: Decoder, config: EngineConfig) -> None:
    device = decoder.device
    token_ids = torch.zeros(config.max_batch_tokens, dtype=torch.int64, device=device)
    rows = torch.zeros(config.max_num_seqs, dtype=torch.int64, device=device)
    hidden = decoder.hidden(token_ids, _NoAttention(decoder), rows)
    draw_anything(decoder.logits(hidden))


class _NoAttention:
    """Attends to nothing: what it takes of memory for a moment is less than the linears do."""

    def __init__(self, decoder: Decoder) -> None:
        self._num_heads = decoder.config.num_heads

    def begin(self, batch: Batch) -> None:
        """Nothing is laid out."""

    def forward(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        """Something of the right shape."""
        return qkv[:, : self._num_heads].contiguous()

    def reset(self) -> None:
        """Nothing is kept."""


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
