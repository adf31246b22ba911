"""Cross-entropy in chunks, so that all logits never exist at once.

torch 2.13 has this as `torch.nn.functional.linear_cross_entropy`, but bf16 products give bf16
losses there, and this package supports torch 2.11.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

CHUNK = 2**27
"""Logits of one chunk: half a GiB in fp32 for every vocabulary."""


def target_losses(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, chunk: int = CHUNK
) -> torch.Tensor:
    """Cross-entropy of every target, fp32 [N].

    Logits are computed chunk by chunk and recomputed in the backward, so memory does not grow
    with N times V. The backward's chunks are parts of the vocabulary: each row of the head's
    gradient is one product over all targets, whose sums are fp32, whatever the number of chunks.

    Args:
        hidden: [N, H], the hidden states that predict the targets.
        weight: [V, H], the output head.
        targets: int64 [N].
        chunk: most logits that exist at once.
    """
    if targets.numel() * weight.shape[0] <= chunk:
        return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="none")
    return _chunked_losses(hidden, weight, targets, chunk)


class _ChunkedLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, chunk: int
    ) -> torch.Tensor:
        """A chunk is all logits of some targets; only the logarithms of their sums are kept."""
        rows = max(1, chunk // weight.shape[0])
        sums, losses = [], []
        for some, wanted in zip(hidden.split(rows), targets.split(rows), strict=True):
            logits = F.linear(some, weight).float()
            sums.append(logits.logsumexp(1))
            losses.append(sums[-1] - logits.gather(1, wanted[:, None])[:, 0])
        ctx.save_for_backward(hidden, weight, targets, torch.cat(sums))
        ctx.chunk = chunk
        return torch.cat(losses)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """A chunk is the logits of all targets for some words."""
        hidden, weight, targets, sums = ctx.saved_tensors
        to_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        to_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        words = max(1, ctx.chunk // len(targets))
        for begin in range(0, len(weight), words):
            some = weight[begin : begin + words]
            slopes = (F.linear(hidden, some).float() - sums[:, None]).exp_()
            here = ((targets >= begin) & (targets < begin + len(some))).nonzero()[:, 0]
            slopes[here, targets[here] - begin] -= 1
            slopes = slopes.mul_(upstream[:, None]).to(weight.dtype)
            to_hidden += slopes @ some
            if to_weight is not None:
                to_weight[begin : begin + words] = slopes.T @ hidden
        return to_hidden.to(hidden.dtype), to_weight, None, None


_chunked_losses: Callable[..., torch.Tensor] = _ChunkedLosses.apply
