"""Draws the tokens of a step. A draw depends on its logits, its seed and its index alone."""

from __future__ import annotations

import torch

from csrc_triton import sample
from gsr_engine.sequence import Sequence


@torch.inference_mode()
def draw_tokens(
    logits: torch.Tensor, draw_rows: list[int], sequences: list[Sequence]
) -> tuple[list[int], list[float]]:
    """One token per sequence and its log-probability under the untruncated model.

    Args:
        logits: fp32 [M, vocab_size].
        draw_rows: for each sequence the row that it draws from; siblings share the first one.
        sequences: who draws; the index of a draw is the number of tokens generated so far.
    """
    device = logits.device
    rows = torch.tensor(draw_rows, device=device)
    params = [sequence.params for sequence in sequences]
    mine = logits[rows]
    tokens = sample(
        mine,
        torch.tensor([p.temperature for p in params], dtype=torch.float32, device=device),
        torch.tensor([p.top_k for p in params], device=device),
        torch.tensor([p.top_p for p in params], dtype=torch.float32, device=device),
        torch.tensor([p.min_p for p in params], dtype=torch.float32, device=device),
        torch.tensor([sequence.seed for sequence in sequences], device=device),
        torch.tensor([len(sequence.segment) for sequence in sequences], device=device),
    )
    chosen = mine.gather(1, tokens[:, None]).squeeze(1)
    logprobs = chosen - logits.logsumexp(dim=1)[rows]
    return tokens.tolist(), logprobs.tolist()
