"""The model that is trained: transformers' own, with attention that takes any mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel

from train.batches import OBJECTIVES, MicroBatch

_ATTENTION = "gsr_masked"


def _masked_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in fp32, under a mask or causally; its bf16 backward is far slower on a CPU."""
    with torch.autocast(query.device.type, enabled=False):
        out = F.scaled_dot_product_attention(
            query.float(),
            key.float(),
            value.float(),
            attn_mask=attention_mask,
            is_causal=attention_mask is None,
            scale=scaling,
            enable_gqa=True,
        )
    return out.transpose(1, 2).to(query.dtype), None


AttentionInterface.register(_ATTENTION, _masked_attention)


def load_model(folder: str | Path) -> PreTrainedModel:
    """A checkpoint for training: fp32 parameters, whatever it was stored in."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=_ATTENTION
    )
    return model


def target_logits(model: PreTrainedModel, batch: MicroBatch) -> torch.Tensor:
    """Logits [T, vocabulary] that predict the targets of a micro-batch; no others are computed."""
    hidden = model.model(
        input_ids=batch.token_ids,
        position_ids=batch.positions,
        # transformers hands a 4-dimensional mask on as it is and makes none for an attention of
        # another's; without one ours is causal. Padding is on the right, where no target sees it.
        attention_mask=batch.mask,
        use_cache=False,
    ).last_hidden_state
    logits: torch.Tensor = model.lm_head(hidden[batch.predicting])
    return logits


def objective_losses(model: PreTrainedModel, batch: MicroBatch) -> torch.Tensor:
    """Summed cross-entropy of the targets of each objective, fp32 [len(OBJECTIVES)]."""
    losses = F.cross_entropy(target_logits(model, batch).float(), batch.targets, reduction="none")
    sums = losses.new_zeros(len(OBJECTIVES))
    return sums.index_add(0, batch.objectives, losses)
