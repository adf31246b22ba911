"""Attention over packed rows: a token sees the past of its own row, without other candidates.

It is registered with transformers under `ATTENTION`. The mask is passed as the keyword `packed` of
the model's forward. A GPU takes FlexAttention over a block mask. A CPU, where FlexAttention has no
backward, takes one call of `scaled_dot_product_attention` per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface

from gsr_engine.errors import UnsupportedModel
from train.rows import JOIN

ATTENTION = "gsr_packed"


@dataclass(frozen=True, slots=True)
class Documents:
    """Packed rows for a CPU: their lengths and masks.

    Attributes:
        lengths: tokens of each row, in order.
        masks: bool [1, 1, L, L] of a branched row, None for a causal one.
    """

    lengths: list[int]
    masks: list[torch.Tensor | None]

    @classmethod
    def of(cls, lengths: Sequence[int], branches: npt.NDArray[np.int64], total: int) -> Documents:
        """From the branch of every token; the rest of `total` becomes one more row, of padding."""
        stops = np.cumsum(lengths, dtype=np.int64)
        masks: list[torch.Tensor | None] = [
            branch_mask(torch.from_numpy(branches[stop - length : stop]))
            if branches[stop - length : stop].any()
            else None
            for length, stop in zip(lengths, stops, strict=True)
        ]
        padding = total - sum(lengths)
        return cls([*lengths, *([padding] if padding else [])], masks + [None] * bool(padding))


PackedMask = Documents | BlockMask


def branch_mask(branches: torch.Tensor) -> torch.Tensor:
    """Bool [1, 1, L, L]: i sees j <= i if j is in branch 0 or in i's branch, or if i joins all."""
    reader, writer = branches[:, None], branches[None, :]
    seen = ((writer == 0) | (writer == reader) | (reader == JOIN)).tril()
    return seen[None, None]


def block_mask(documents: torch.Tensor, branches: torch.Tensor) -> BlockMask:
    """The mask of packed rows for FlexAttention.

    Args:
        documents: int64 [T], the row of each token; -1 is padding, which sees only itself.
        branches: int64 [T], as `Row.branches`.
    """

    def sees(
        batch: torch.Tensor, head: torch.Tensor, reader: torch.Tensor, writer: torch.Tensor
    ) -> torch.Tensor:
        written, reading = branches[writer], branches[reader]
        visible = (written == 0) | (written == reading) | (reading == JOIN)
        same = (documents[reader] == documents[writer]) & (documents[reader] >= 0)
        return ((reader >= writer) & same & visible) | (reader == writer)

    total = len(documents)
    make = create_block_mask if documents.device.type == "cpu" else _compiled_block_mask
    return make(sees, None, None, total, total, device=documents.device)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed: PackedMask,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    position_ids: torch.Tensor | None = None,
    use_cache: bool = False,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Attention in the form that transformers calls.

    Args:
        module: the layer's attention; not read.
        query: [1, heads, T, head_dim].
        key: [1, kv_heads, T, head_dim].
        value: [1, kv_heads, T, head_dim].
        attention_mask: always None here.
        packed: what each token sees.
        scaling: factor of the scores; None means head_dim ** -0.5.
        dropout: must be 0.
        sliding_window: no row may be longer; checked here on a CPU, and for all rows before a run.
        position_ids: not read; queries and keys are rotated already.
        use_cache: not read; there is no cache.
        others: must be None: what a family of transformers asks for beside that.

    Returns:
        [1, T, heads, head_dim] in the query's dtype, and None in place of attention weights.

    Raises:
        UnsupportedModel: the model asks for attention that is not computed here.
    """
    unknown = sorted(name for name, value in others.items() if value is not None)
    if unknown or dropout:
        raise UnsupportedModel(
            f"attention with {', '.join(unknown) or 'dropout'} is not supported in training"
        )
    if isinstance(packed, BlockMask):
        flex = flex_attention if query.device.type == "cpu" else _compiled_flex
        out = flex(query, key, value, block_mask=packed, scale=scaling, enable_gqa=True)
        return out.transpose(1, 2), None
    check_window(max(packed.lengths), sliding_window)
    # In fp32, because the backward in bf16 is far slower on a CPU.
    pieces = [part.float().split(packed.lengths, dim=2) for part in (query, key, value)]
    outputs = [
        F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
        )
        for q, k, v, mask in zip(*pieces, packed.masks, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).to(query.dtype), None


def check_window(longest: int, window: int | None) -> None:
    """Raise UnsupportedModel if a row is longer than the model's sliding window."""
    if window is not None and longest > window:
        raise UnsupportedModel(
            f"a sliding window of {window} tokens, shorter than a row of {longest}, is not "
            "supported in training; shorter rows are"
        )


_compiled_flex = torch.compile(flex_attention, dynamic=False)
_compiled_block_mask = torch.compile(create_block_mask)

AttentionInterface.register(ATTENTION, packed_attention)
