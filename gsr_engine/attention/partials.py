"""The memory of attention's partial results.

Decode leaves one for each row and piece that the row sees: a row that sees spans of t tokens leaves
at most the sum of `t / SPLIT + 1` over them, and fewer if they are long (`pieces.piece_sizes`). So
rows and their contexts bound them, and no constant does. Prefill leaves some only where contexts
are cut into sections; their memory at any one time has a bound.
"""

from __future__ import annotations

import torch

from csrc_triton import prefill_tiling
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.kv.segments import PAGE_SIZE


def entry_bytes(model: ModelConfig) -> int:
    """Bytes of a partial result: a vector and the log of its denominator for each head, in fp32."""
    return model.num_heads * (model.head_dim + 1) * torch.float32.itemsize


def prefill_bytes(model: ModelConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Upper bound of the bytes that prefill's partial results take at once, in any step."""
    shape = 1, PAGE_SIZE, model.num_kv_heads, model.head_dim
    tiling = prefill_tiling(model.num_heads, torch.empty(shape, dtype=dtype, device=device))
    return 0 if tiling is None else tiling.most_entries * entry_bytes(model)
