"""Log-probabilities of one token per row."""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton import reference
from csrc_triton.cpu.library import library
from csrc_triton.cpu.logits import block_scratch, contiguous_rows


def token_logprobs(logits: Tensor, token_ids: Tensor) -> Tensor:
    """See `csrc_triton.token_logprobs`."""
    kernels = library(logits.dtype)
    if kernels is None:
        return reference.token_logprobs(logits, token_ids)
    logits, (rows, vocab) = contiguous_rows(logits), logits.shape
    token_ids = token_ids.long().contiguous()  # a converted tensor must live until the call ends
    scratch = block_scratch(rows, vocab)
    logprobs = torch.empty(rows, dtype=torch.float32)
    kernels.token_logprobs(
        logprobs.data_ptr(),
        scratch.data_ptr(),
        logits.data_ptr(),
        token_ids.data_ptr(),
        rows,
        logits.stride(0),
        vocab,
        scratch.shape[2],
        torch.get_num_threads(),
    )
    return logprobs
