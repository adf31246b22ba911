"""What no decode step can beat: reading its weights and KV once, and multiplying."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.gpu_check.record import Row
from benchmarks.kernels import measure_limits
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.model.weights import weight_bytes


@dataclass(frozen=True, slots=True)
class Floor:
    """The least that a step must do.

    Attributes:
        num_bytes: of all weights but an input embedding, and of the KV of distinct tokens.
        flops: of the products with the weights, and of attention.
    """

    num_bytes: int
    flops: int

    @classmethod
    def of(
        cls, config: ModelConfig, dtype: torch.dtype, rows: int, tokens: int, seen: int
    ) -> Floor:
        """The floor of a decode step of `rows` rows.

        Args:
            config: of the model.
            dtype: of weights and KV.
            rows: of the step.
            tokens: distinct tokens whose KV some row sees.
            seen: tokens that each row sees, summed over the rows.
        """
        # A tied embedding is the head's weight, too.
        table = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
        weights = weight_bytes(config, dtype) // dtype.itemsize - table
        token = 2 * config.num_layers * config.num_kv_heads * config.head_dim
        pair = 4 * config.num_layers * config.num_heads * config.head_dim
        return cls(
            num_bytes=(weights + tokens * token) * dtype.itemsize,
            flops=2 * rows * weights + seen * pair,
        )

    def beside(self, ms: float, device: str) -> Row:
        """The floor in milliseconds, and its share of a step that took `ms`.

        The limits are those that were measured on this chip.
        """
        limits = measure_limits(device)
        by_bytes = 1e-6 * self.num_bytes / limits.copy_gbs
        by_flops = 1e-9 * self.flops / limits.matmul_tflops
        floor = max(by_bytes, by_flops)
        return {
            "ms": ms,
            "bytes_ms": by_bytes,
            "flops_ms": by_flops,
            "of_floor": floor / ms,
        }
