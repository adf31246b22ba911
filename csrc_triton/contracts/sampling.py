"""Draws and log-probabilities: every row of logits on its own."""

from __future__ import annotations

from torch import Tensor

from csrc_triton.checks import require
from csrc_triton.contracts import dispatch


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    indices: Tensor,
) -> Tensor:
    """Draw one token per row. A row's token depends on that row's arguments alone.

    softmax(logits / temperature) is truncated by top-k, then by top-p among the tokens that top-k
    kept, then by min-p. One number, `uniform(seed, index)`, then goes through the inverse CDF in
    the order of token ids. A token tied with the last one kept is kept as well. The token drawn
    always has a probability above zero; a token whose logit is -inf is never drawn. If a row holds
    a NaN or +inf, or nothing above -inf, the token is unspecified but a valid id.

    Args:
        logits: [N, V], any float dtype; computed in fp32.
        temperature: fp32 [N]; 0 takes the highest logit, the lowest id among equals. Other values
            below 1e-6 count as 1e-6.
        top_k: int64 [N]; keep only the k most probable tokens. 0: off.
        top_p: fp32 [N], above 0; keep the most probable tokens until they hold this mass. 1: off.
        min_p: fp32 [N]; keep tokens at least this times as probable as the most probable. 0: off.
        seeds: int64 [N], one per stream.
        indices: int64 [N], the index of this token among its stream's generated tokens.

    Returns:
        int64 [N] token ids.

    Raises:
        ValueError: shapes disagree.
    """
    require(logits.dim() == 2 and logits.shape[1] > 0, "logits must be [N, V]: {}", logits.shape)
    per_row = (temperature, top_k, top_p, min_p, seeds, indices)
    require(all(x.shape == logits.shape[:1] for x in per_row), "one parameter of each kind per row")
    ids: Tensor = dispatch.implementation(logits, "sampling").sample(logits, *per_row)
    return ids


def token_logprobs(logits: Tensor, token_ids: Tensor) -> Tensor:
    """The log of the softmax, at temperature 1, at one token per row.

    Args:
        logits: [N, V], any float dtype; computed in fp32.
        token_ids: int64 [N], 0 <= id < V.

    Returns:
        fp32 [N]; not finite if the row holds a NaN or +inf, or if the token's logit is -inf.

    Raises:
        ValueError: shapes disagree.
    """
    require(logits.dim() == 2 and logits.shape[1] > 0, "logits must be [N, V]: {}", logits.shape)
    require(token_ids.shape == logits.shape[:1], "one token per row: {}", token_ids.shape)
    logprobs: Tensor = dispatch.implementation(logits, "logprobs").token_logprobs(logits, token_ids)
    return logprobs
